"""From failures to an exit code and one line, also of the machine that a command runs on."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.commands.exit_code import SAVES_MEMORY, ExitCode
from tests.runs import REPOSITORY, TINY


def test_a_full_disk_is_one_line(command):
    def full(words):
        raise OSError(28, "No space left on device", "curves.png")

    assert "No space left on device" in command(full, []).error


def test_what_nobody_has_foreseen_shows_its_traceback(command):
    def broken(words):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        command(broken, [])


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: jax.block_until_ready(jax.jit(lambda: jnp.ones(2**46))()),
        lambda: np.ones(2**50),
        lambda: bytearray(2**62),
    ],
    ids=["XLA", "NumPy", "Python"],
)
@pytest.mark.parametrize("name", SAVES_MEMORY)
def test_too_little_memory_is_one_line_with_what_saves_some(allocate, name, capsys):
    with ExitCode(name) as status:
        allocate()
    [line] = capsys.readouterr().err.splitlines()
    assert status.code == 2 and line.startswith("error: ") and "memory" in line
    wanted = {
        "train": ("remat", "accumulate"),
        "sample": ("--window", "--tile"),
        "evaluate": ("--batch-size",),
    }
    assert all(part in line for part in wanted[name])


def test_other_failures_of_xla_show_their_traceback():
    with pytest.raises(jax.errors.JaxRuntimeError), ExitCode():
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


@pytest.mark.slow
def test_a_device_that_is_not_there_is_one_line(process, ended, tmp_path):
    words = ["smoke", *TINY.split(), "--run-dir", tmp_path / "run"]
    started = process("train.py", *words, environment={"JAX_PLATFORMS": "cuda"})
    error = ended(started).error
    assert "JAX_PLATFORMS=cuda asks for it" in error and "pip install" in error
    assert not (tmp_path / "run").exists()


def test_without_a_home_folder_the_cache_needs_a_place(train_tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "~")  # as it is found where there is none
    monkeypatch.delenv("LDM_JAX_CACHE")
    error = train_tiny("smoke", "--data.count", 16, "--run-dir", tmp_path / "run").error
    assert error == "there is no home folder for the cache: set LDM_JAX_CACHE to a folder"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, shown", [("größer", "größer"), (b"gr\xf6", r"gr\udcf6")])
def test_commands_speak_utf8_in_every_locale(name, shown, process, ended):
    """Without its two ways out of the C locale Python would take ASCII there."""
    ascii_alone = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    environment = ascii_alone | {"PYTHONPATH": str(REPOSITORY)}
    started = process("ldm_jax/__main__.py", os.fsdecode(name), environment=environment)
    assert f"unknown command '{shown}'" in ended(started).error
