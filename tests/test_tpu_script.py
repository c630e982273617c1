"""`examples/tpu.sh`: what it asks of `gcloud`, in whose place stands a script of this machine."""

import os
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "tpu.sh"

GCLOUD = """#!/bin/sh
# A TPU of two workers, each a folder: notes the words; ssh runs the command there, scp copies.
echo "$@" >> {root}/said
case "$*" in
*"tpu-vm ssh"*)
  for last; do :; done
  for worker in {root}/worker0 {root}/worker1; do
    (cd $worker && HOME=$worker PATH={root}/bin:$PATH sh -c "$last") || exit
  done ;;
*"tpu-vm scp"*)
  cp "$5" {root}/worker0/ldm_jax.tar.gz
  cp "$5" {root}/worker1/ldm_jax.tar.gz ;;
esac
"""
# In the place of Python and uv on a worker: the environment's python runs the run.
PYTHON = "#!/bin/sh\nmkdir -p $HOME/.local/bin && cp {root}/uv $HOME/.local/bin/uv\n"
UV = """#!/bin/sh
echo "$@" >> $HOME/uv-said
mkdir -p $HOME/env/bin && cp {root}/run $HOME/env/bin/python
"""
RUN = '#!/bin/sh\necho "$PWD" "$@" "$JAX_COORDINATOR_PORT"; trap "echo saved; exit" TERM\n'
RUN += "while :; do sleep 0.05; done\n"


@pytest.fixture
def tpu(tmp_path):
    """`tpu('state', ...)` runs the script: (exit code, output); `tpu.root` holds the workers."""
    files = {"bin/gcloud": GCLOUD, "bin/python3": PYTHON, "uv": UV, "run": RUN}
    for name in ("bin", "worker0", "worker1", "repository"):
        (tmp_path / name).mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text.replace("{root}", str(tmp_path)))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "repository" / "train.py").write_text("")

    def call(*words):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", SCRIPT, *words],
            env={"PATH": path, "HOME": str(tmp_path)},
            cwd=tmp_path / "repository",
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    call.root = tmp_path
    return call


@pytest.mark.parametrize(
    "kind, runtime",
    [
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v6e-8", "v2-alpha-tpuv6e"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v4-8", "tpu-ubuntu2204-base"),
    ],
)
def test_a_machine_is_asked_for_with_the_software_it_needs(kind, runtime, tpu):
    assert tpu("create", "mine", "us-x1", kind, "--spot")[0] == 0
    said = (tpu.root / "said").read_text()
    assert f"--accelerator-type {kind} --runtime-version {runtime} --spot" in said
    assert tpu("delete", "mine", "us-x1")[0] == 0
    assert "delete mine-queue --zone us-x1 --force" in (tpu.root / "said").read_text()


def test_a_run_starts_on_every_worker_goes_on_alone_and_is_stopped(tpu):
    code, said = tpu("run", "mine", "us-x1", "scenes-large", "--run-dir", "gs://b/a run")
    assert code == 0, said
    logs = [tpu.root / worker / "train.log" for worker in ("worker0", "worker1")]
    try:
        for log in logs:
            wait_for(log, "8476")
            place, line = log.read_text().split(" ", 1)
            assert place == str(log.parent / "ldm_jax")
            assert line == "train.py scenes-large --run-dir gs://b/a run 8476\n"
            assert "'jax[tpu]==0.10.2'" not in (log.parent / "uv-said").read_text()
            assert "jax[tpu]==0.10.2" in (log.parent / "uv-said").read_text()
        assert tpu("state", "mine", "us-x1")[1].count("runs\n") == 2
        code, said = tpu("run", "mine", "us-x1", "scenes")
        assert code == 2 and "a run is going on: stop it first" in said
    finally:
        assert tpu("stop", "mine", "us-x1")[0] == 0
    for log in logs:
        wait_for(log, "saved")


def wait_for(log, text):
    for _ in range(200):
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{log} never said {text}")


def test_other_words_are_answered_with_how_it_is_used(tpu):
    for words in ((), ("fly", "mine", "us-x1"), ("create", "mine", "us-x1")):
        code, said = tpu(*words)
        assert code == 2 and "examples/tpu.sh create NAME ZONE TYPE" in said
