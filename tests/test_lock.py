"""One writer at a time, whatever became of the one before."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.lock import LOCK, Lock

QUICK = {"beat_s": 0.05, "silent_s": 2.0, "settle_s": 0.01}
HOLD = """
import sys, time
from etils import epath
from ldm_jax.lock import Lock
Lock(epath.Path(sys.argv[1]), "--run-dir").acquire()
print("held", flush=True)
time.sleep(60)
"""


def lock(folder):
    return Lock(epath.Path(folder), "--run-dir", **QUICK)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def foreign(folder, age):
    """A lock of a machine that cannot be seen from here, `age` seconds old."""
    folder.mkdir()
    holder = {"id": "theirs", "host": "node-7", "process": 12, "since": "noon", "machine": "m"}
    (folder / LOCK).write_text(json.dumps(holder))
    os.utime(folder / LOCK, (time.time() - age,) * 2)


def test_the_second_start_says_who_holds_it_and_since_when(other, tmp_path):
    with pytest.raises(UserError) as refused:
        lock(tmp_path / "run").acquire()
    said = str(refused.value)
    assert f"{tmp_path / 'run'} is in use by process {other.pid} on " in said
    assert " UTC)" in said and "choose another --run-dir" in said


def test_the_lock_of_a_killed_process_is_taken_over_at_once(other, tmp_path):
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # its number is still in use
    ours = lock(tmp_path / "run")
    ours.acquire()
    ours.check()
    ours.release()
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_lock_of_another_machine_is_taken_over_without_a_heartbeat(tmp_path):
    foreign(tmp_path / "run", age=3600)
    ours = lock(tmp_path / "run")
    ours.acquire()
    ours.check()
    ours.release()


def test_a_heartbeat_of_another_machine_is_waited_for(tmp_path):
    """Its lock is young, so that it may live: silent, it is taken over; else it is refused."""
    foreign(tmp_path / "silent", age=0)
    ours = lock(tmp_path / "silent")
    started = time.monotonic()
    ours.acquire()
    assert time.monotonic() - started > 1.5
    ours.release()

    foreign(tmp_path / "alive", age=1.0)
    beat = subprocess.Popen(["sh", "-c", f"sleep 0.5; touch {tmp_path / 'alive' / LOCK}"])
    with pytest.raises(UserError, match=r"in use by process 12 on node-7 \(since noon\)"):
        lock(tmp_path / "alive").acquire()
    beat.wait()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"[]", b'{"process": "x"}'])
def test_a_damaged_lock_is_taken_over_when_it_is_silent(content, tmp_path):
    (tmp_path / LOCK).write_bytes(content)
    os.utime(tmp_path / LOCK, (0, 0))
    ours = lock(tmp_path)
    ours.acquire()
    ours.check()


def test_the_heartbeat_goes_on(tmp_path):
    ours = lock(tmp_path)
    ours.acquire()
    os.utime(tmp_path / LOCK, (0, 0))
    deadline = time.monotonic() + 10
    while (tmp_path / LOCK).stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ours.release()


def test_who_was_taken_over_is_told_and_leaves_the_lock_alone(tmp_path):
    first = lock(tmp_path)
    first.acquire()
    (tmp_path / LOCK).unlink()
    foreign_lock = {"id": "theirs", "host": "node-7", "process": 12, "since": "noon"}
    (tmp_path / LOCK).write_text(json.dumps(foreign_lock))
    with pytest.raises(UserError, match="was taken over by process 12 on node-7"):
        first.check()
    first.release()
    assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_folder_that_vanishes_is_told_and_never_made_again(how, tmp_path):
    ours = lock(tmp_path / "run")
    ours.acquire()
    if how == "moved":
        (tmp_path / "run").rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match="was moved or removed while this command wrote to it"):
        ours.check()
    time.sleep(0.2)  # some heartbeats
    ours.release()
    assert not (tmp_path / "run").exists()


def test_a_folder_that_stays_empty_is_removed_with_its_parents(tmp_path):
    ours = lock(tmp_path / "a" / "run")
    ours.acquire()
    ours.release()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_stays(tmp_path):
    ours = lock(tmp_path / "run")
    ours.acquire()
    (tmp_path / "run" / "config.json").write_text("{}")
    ours.release()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
