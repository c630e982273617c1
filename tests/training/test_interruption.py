"""Real processes, really killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ldm_jax.training.checkpoint import Checkpoints
from ldm_jax.training.interruption import StopSignals
from ldm_jax.training.metrics import read

STEPS = 400


@pytest.fixture
def child(tmp_path):
    """Starts `tiny.py` on a run directory; its output is a pipe."""
    started = []

    def start():
        script = Path(__file__).with_name("tiny.py")
        arguments = [sys.executable, str(script), str(tmp_path / "run"), str(STEPS)]
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_step(process, step):
    for line in process.stdout:
        if line == f"step {step}\n":
            return
    raise AssertionError(f"the child ended before step {step}: {process.stderr.read()}")


@pytest.mark.slow
def test_kill_9_loses_only_the_steps_since_the_last_checkpoint(
    child, tiny, compiled, one_device, tmp_path
):
    """Killed twice, at moments that no one chose, the run still ends with the very same bits."""
    for step in (13, 31):  # a checkpoint every 5 steps: some save is nearly always under way
        process = child()
        wait_for_step(process, step)
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL
        saved = Checkpoints(tmp_path / "run" / "checkpoints").latest_step()
        assert saved is not None and saved <= STEPS // 2

    resumed = tiny.run(tmp_path / "run", 50, compiled, one_device)
    whole = tiny.run(tmp_path / "whole", 50, compiled, one_device)
    assert tiny.same(resumed, whole)
    steps = [record["step"] for record in read(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(5, 51, 5))


def test_sigterm_saves_and_exits_with_143(child, tmp_path):
    process = child()
    wait_for_step(process, 12)
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    saved = Checkpoints(tmp_path / "run" / "checkpoints").latest_step()
    assert f"stopped by SIGTERM after step {saved} of {STEPS}; saved in" in rest
    assert "Traceback" not in errors


def test_the_end_of_the_terminal_saves_like_sigterm(tmp_path):
    """A real terminal goes away, with all that is still to be printed to it."""
    ours, its = os.openpty()
    script = Path(__file__).with_name("tiny.py")
    # The first terminal that the leader of a session opens is the one whose end it is told of.
    program = (
        "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "for stream in (0, 1, 2): os.dup2(fd, stream)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    words = [os.ttyname(its), str(script), str(tmp_path / "run"), str(STEPS)]
    process = subprocess.Popen([sys.executable, "-c", program, *words], start_new_session=True)
    said = b""
    while b"step 12\r\n" not in said:
        assert process.poll() is None, said
        said += os.read(ours, 1000)
    os.close(its)
    os.close(ours)
    assert process.wait(60) == 128 + signal.SIGHUP
    saved = Checkpoints(tmp_path / "run" / "checkpoints").latest_step()
    assert saved is not None and saved >= 12


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_kills():
    """While the first one is being obeyed, however long that takes."""
    program = (
        "import time\n"
        "from ldm_jax.training.interruption import StopSignals\n"
        "with StopSignals() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop.received: time.sleep(0.01)\n"
        "    print(stop.received.name, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "SIGINT\n"
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
