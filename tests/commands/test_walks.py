"""The two walks of docs/architecture.md: how many files lie between a command and the maths.

An exception is raised in the function at the end of a walk, as a debugger would raise it, and the
files of this project in its traceback are counted.
"""

import sys
import traceback
from pathlib import Path

import pytest

from tests.runs import REPOSITORY, TINY

pytestmark = pytest.mark.slow


class Here(Exception):
    """Raised at the end of a walk."""


def raising_in(file, function, through):
    """A trace function that raises `Here` when a function of a file is called by way of another."""

    def trace(frame, event, argument):
        code = frame.f_code
        if code.co_name == function and code.co_filename.endswith(file):
            callers = [caller.f_code.co_filename for caller, _ in traceback.walk_stack(frame)]
            if any(caller.endswith(through) for caller in callers):
                raise Here
        return None

    return trace


def walk(script, words, file, function, through=""):
    """The files between `python SCRIPT WORDS` and the function, in order.

    through: a file on the way, where there are other ways too; '': any way.
    """
    main = compile((REPOSITORY / script).read_text(), str(REPOSITORY / script), "exec")
    arguments, sys.argv = sys.argv, [script, *map(str, words)]
    sys.settrace(raising_in(file, function, through))
    try:
        with pytest.raises(Here) as raised:
            exec(main, {"__name__": "__main__"})
    finally:
        sys.settrace(None)
        sys.argv = arguments
    files = [Path(frame.filename) for frame in traceback.extract_tb(raised.value.__traceback__)]
    ours = [
        f for f in files if f.is_relative_to(REPOSITORY) and REPOSITORY / "tests" not in f.parents
    ]
    return list(dict.fromkeys(str(f.relative_to(REPOSITORY)) for f in ours))


def test_from_train_to_equation_3(tmp_path):
    """The check before the first stage builds the loss as shapes; then training calls it."""
    words = ["smoke", "--mesh.data", 1, *TINY.split(), "--data.count", 16, "--run-dir", tmp_path]
    words += ["--autoencoder.steps", 1]
    end = ("diffusion/loss.py", "ldm_loss")
    assert len(walk("train.py", words, *end)) <= 6
    assert walk("train.py", words, *end, through="training/step.py") == [
        "train.py",
        "ldm_jax/commands/train/run.py",
        "ldm_jax/commands/train/stage.py",
        "ldm_jax/training/step.py",
        "ldm_jax/diffusion/step.py",
        "ldm_jax/diffusion/loss.py",
    ]


def test_from_sample_to_a_solver_s_step(trained, tmp_path):
    run = trained("captions")[1]
    words = [run, "--prompt", "a red square", "--out", tmp_path / "a.png"]
    assert walk("sample.py", words, "sampling/single_step.py", "ddim_step") == [
        "sample.py",
        "ldm_jax/commands/sample/run.py",
        "ldm_jax/model/latent_diffusion.py",
        "ldm_jax/sampling/sample.py",
        "ldm_jax/sampling/single_step.py",
    ]
