"""Two real processes with a device each train and draw as one process with two devices."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.hosts import Hosts
from ldm_jax.commands.native_errors import LOST
from ldm_jax.commands.train.run import main as train_main
from ldm_jax.errors import UserError
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.metrics import read
from tests.runs import REPOSITORY, TINY, Ended, called

pytestmark = pytest.mark.slow

STEPS = 200  # of the first stage: enough to be stopped in the middle
LOG_EVERY = 10
WORDS = f"""
    smoke {TINY} --data.count 32 --data.validation-count 8
    --autoencoder.steps {STEPS} --autoencoder.progress.log-every {LOG_EVERY}
    --autoencoder.progress.save-every 500 --autoencoder.progress.preview-every 500
    --diffusion.steps 20 --diffusion.progress.log-every {LOG_EVERY}
    --diffusion.progress.save-every 500 --diffusion.progress.preview-every 500
    --evaluation.num-images 4
""".split()
CAPTION = "a red ball on a plain floor by day"
PROCESS_1 = 0o077  # its umask: no one else may read what it writes, which tells its files apart


@pytest.fixture(scope="module")
def pair():
    """Starts the same command as two processes."""
    started = []

    def start(script, *words, folders=(None, None)):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "PYTHONPATH": str(REPOSITORY),
        }
        both = []
        for i, umask in enumerate((0o022, PROCESS_1)):
            hosts = ["--hosts.coordinator", f"localhost:{port}", "--hosts.processes", 2]
            command = [sys.executable, REPOSITORY / script, *words, *hosts, "--hosts.process", i]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            both.append(
                subprocess.Popen(
                    list(map(str, command)), env=environment, umask=umask, cwd=folders[i], **pipes
                )
            )
        started.extend(both)
        return both

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ended(both):
    """How the two have ended."""
    outputs = [process.communicate(timeout=600) for process in both]
    spoken = [re.sub(r"^\[Gloo\].*\n", "", out, flags=re.M) for out, _ in outputs]  # XLA's
    errors = [err for _, err in outputs]
    return [Ended(p.returncode, *said) for p, *said in zip(both, spoken, errors, strict=True)]


def train_alone(*words):
    """`python train.py` as one process, this one, with two devices."""
    done = called(train_main, [*words, "--mesh.data", 2])
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The run of one process, which nothing disturbs."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    train_alone(*WORDS, "--run-dir", run)
    return run


@pytest.fixture(scope="module")
def stopped(pair, tmp_path_factory):
    """(how two processes have ended of which the second got a SIGTERM, their run directory)."""
    run = tmp_path_factory.mktemp("runs") / "stopped"
    both = pair("train.py", *WORDS, "--run-dir", run)
    while LOG_EVERY not in losses(run, "autoencoder"):
        assert all(process.poll() is None for process in both), ended(both)
        time.sleep(0.01)
    both[1].send_signal(signal.SIGTERM)
    return ended(both), run


@pytest.fixture(scope="module")
def finished(stopped, pair, tmp_path_factory):
    """(how the same two ended that were started again, their run directory)."""
    run = shutil.copytree(stopped[1], tmp_path_factory.mktemp("runs") / "finished")
    return ended(pair("train.py", *WORDS, "--run-dir", run)), run


def losses(run, stage):
    """By step, as metrics.jsonl has them."""
    lines = read(run / "metrics.jsonl")
    lines = [line for line in lines if line["stage"] == stage and "loss" in line]
    return {line["step"]: line["loss"] for line in lines}


def newest(run, stage):
    """(step, parameters) of the newest checkpoint."""
    saved = RunDir(run).checkpoints(stage).restore_part(["step", "params"])
    return int(saved["step"]), jax.tree.leaves(saved["params"])


def assert_same_weights(run, other, stage):
    (step, ours), (other_step, theirs) = newest(run, stage), newest(other, stage)
    assert step == other_step
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_signal_to_one_process_stops_both_after_the_same_step(stopped):
    both, run = stopped
    step = newest(run, "autoencoder")[0]
    assert LOG_EVERY < step < STEPS
    assert [process.code for process in both] == [143, 143], both
    for process in both:
        said = f"autoencoder: stopped by SIGTERM after step {step} of {STEPS}; saved in {run}"
        assert said in process.err and "Traceback" not in process.err


def test_two_processes_end_as_one_that_was_never_stopped(finished, stopped, reference):
    both, run = finished
    assert [process.code for process in both] == [0, 0], both
    step = newest(stopped[1], "autoencoder")[0]
    assert f"autoencoder: resumes at step {step} of {STEPS}" in both[0].err
    for stage in ("autoencoder", "diffusion"):
        assert_same_weights(run, reference, stage)
        ours, theirs = losses(run, stage), losses(reference, stage)
        assert ours.keys() == theirs.keys()
        for at in ours:
            if not step < at <= step + LOG_EVERY:  # the mean of fewer steps than there
                np.testing.assert_allclose(ours[at], theirs[at], rtol=1e-4)
    ours, theirs = RunDir(run).summary(), RunDir(reference).summary()
    assert ours["device"] == theirs["device"].replace("8 x", "2 x")
    assert abs(ours["autoencoder"]["psnr"] - theirs["autoencoder"]["psnr"]) < 0.02
    scales = [summary["diffusion"]["scale_factor"] for summary in (ours, theirs)]
    np.testing.assert_allclose(*scales, rtol=1e-4)


def test_one_process_goes_on_where_two_were_stopped(stopped, reference, tmp_path):
    run = shutil.copytree(stopped[1], tmp_path / "run")
    train_alone(*WORDS, "--run-dir", run, "--stage", "autoencoder")
    assert_same_weights(run, reference, "autoencoder")


def test_process_0_alone_writes_and_speaks(finished):
    both, run = finished
    files = {path.relative_to(run): path for path in run.rglob("*") if path.is_file()}
    theirs = {name for name, path in files.items() if not path.stat().st_mode & 0o077}
    parts = {name.parts[0] for name in theirs}
    assert parts == {"checkpoints"}, theirs  # where each has a part
    assert {"config.json", "summary.json", "curves.png", "samples.png"} <= {*map(str, files)}
    assert both[0].out.startswith("autoencoder: ") and not both[1].out
    assert "resumes" not in both[1].err and "step/s" not in both[1].err


def test_two_processes_draw_what_one_draws(finished, pair, sample, tmp_path):
    words = [finished[1], "--prompt", CAPTION, "--num-images", 3]
    both = ended(pair("sample.py", *words, "--out", tmp_path / "two"))
    assert [process.code for process in both] == [0, 0], both
    assert both[0].out == f"3 images in {tmp_path / 'two'}\n" and not both[1].out
    assert sample(*words, "--out", tmp_path / "one").code == 0
    for i in range(3):
        file = tmp_path / "two" / f"{i:06d}.png"
        assert file.stat().st_mode & 0o044  # process 0's
        one, two = (np.asarray(Image.open(f), int) for f in (tmp_path / "one" / file.name, file))
        assert np.abs(one - two).max() <= 1


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_process_dies_the_other_says_so_in_one_line(killed, pair, tmp_path):
    run = tmp_path / "run"
    both = pair("train.py", *WORDS, "--autoencoder.steps", 100_000, "--run-dir", run)
    while LOG_EVERY not in losses(run, "autoencoder"):
        assert all(process.poll() is None for process in both), ended(both)
        time.sleep(0.01)
    both[killed].kill()
    left = ended(both)[1 - killed]
    assert left.code != 0 and left.err.splitlines()[-1] == f"error: {LOST}"
    assert "Traceback" not in left.err and "stack trace" not in left.err


def test_when_one_process_fails_the_other_ends_with_its_reason(pair, tmp_path):
    """Process 0 alone looks after the run directory; process 1 would wait for it."""
    run = tmp_path / "run"
    both = pair("train.py", *WORDS, "--autoencoder.steps", 100_000, "--run-dir", run)
    while LOG_EVERY not in losses(run, "autoencoder"):
        assert all(process.poll() is None for process in both), ended(both)
        time.sleep(0.01)
    run.rename(tmp_path / "moved")
    first, second = ended(both)
    assert (first.code, second.code) == (2, 2), (first, second)
    for one in (first, second):
        assert "Traceback" not in one.err and "stack trace" not in one.err
    reason = first.err.splitlines()[-1]
    assert reason.startswith(f"error: {run}")
    said = second.err.splitlines()[-1]
    assert said.startswith("error: another process of this run has failed")
    assert f"process 0: {reason.removeprefix('error: ')}" in said


def test_data_that_one_host_lacks_is_an_error_of_both(pair, photographs, tmp_path):
    shutil.copytree(photographs / "flat", tmp_path / "a" / "images")
    (tmp_path / "b").mkdir()
    words = ["folder", *TINY.split(), "--data.path", "images", "--run-dir", tmp_path / "run"]
    both = ended(pair("train.py", *words, folders=(tmp_path / "a", tmp_path / "b")))
    assert [process.code for process in both] == [2, 2], both
    for process in both:
        assert "error: the image folder images does not exist (process 1)" in process.err
        assert "Traceback" not in process.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "hosts, said",
    [
        (Hosts("a:1", 2), "all of --hosts.coordinator HOST:PORT"),
        (Hosts(processes=2), "all of --hosts.coordinator HOST:PORT"),
        (Hosts(process=0), "all of --hosts.coordinator HOST:PORT"),
        (Hosts("a:1", 1, 0), "2 or more"),
        (Hosts("a:1", 2, 2), "of 2 processes the last is 1"),
        (Hosts("a", 2, 0), "it is HOST:PORT"),
        (Hosts(processes=-1), "not negative"),
    ],
)
def test_options_that_make_no_group_of_processes_are_refused(hosts, said):
    with pytest.raises(UserError, match=said):
        hosts.check()


def test_the_options_are_no_part_of_a_run(reference):
    """It may go on with another number of processes."""
    assert "hosts" not in (reference / "config.json").read_text()
    Hosts().check()
    Hosts(processes=1).check()
