"""The wheel: what it holds, and that it works where there is no checkout."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ldm_jax.shipped import shipped_models

ROOT = Path(__file__).parent.parent
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "ldm_jax")

pytestmark = pytest.mark.slow


def run(*words, **options):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the checkout; nothing is downloaded."""
    for name in ("pip", "setuptools"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"there is no {name} to build it with")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-index")
    run(*pip, "--no-build-isolation", "-w", out, cwd=out)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """`installed(*words)` runs a command outside of the checkout and returns what it prints.

    The package is the wheel's, its dependencies are those of this Python.
    """
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site)
    run(*pip, wheel, cwd=elsewhere)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def call(*words):
        if words[0] == "ldm":
            words = (site / "bin" / "ldm", *words[1:])
        return run(*words, cwd=elsewhere, env=environment)

    assert Path(
        call(sys.executable, "-c", "import ldm_jax; print(ldm_jax.__file__)")
    ).is_relative_to(site)
    return call


def test_the_wheel_holds_all_of_the_package_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [p for p in (ROOT / "ldm_jax").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert names == {path.relative_to(ROOT).as_posix() for path in files}
    assert {name for name in names if name.endswith(".npz")}


def test_the_licences_are_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as file:
        licences = {name.split(".dist-info/licenses/")[-1]: name for name in file.namelist()}
        for name in ("LICENSE", "ldm_jax/pretrained/LICENSE.lpips"):
            assert file.read(licences[name]) == (ROOT / name).read_bytes()


def test_both_names_of_the_command_list_its_commands(installed):
    of_module = installed(sys.executable, "-m", "ldm_jax", "--help")
    assert installed("ldm", "--help") == of_module
    for command in ("train", "sample", "convert", "estimate"):
        assert f"\n  {command} " in of_module


def test_training_is_offered_without_a_checkout(installed):
    assert "scenes-class" in installed(sys.executable, "-m", "ldm_jax", "train", "--help")
    assert "--autoencoder.steps" in installed("ldm", "train", "smoke", "--help")


def test_a_model_can_be_loaded_without_a_checkout(installed):
    code = """
import sys, ldm_jax
assert "jax" not in sys.modules  # which takes seconds
print(ldm_jax.load.__name__, ldm_jax.LatentDiffusion.__name__)
from ldm_jax.shipped import shipped_models
for name in shipped_models():
    ldm_jax.load(name)
print(len(shipped_models()))
from ldm_jax.evaluation import scene_reader
scene_reader.read(__import__("numpy").zeros((1, 32, 32, 3), "uint8"))
try:
    ldm_jax.load("nothing")
except ldm_jax.errors.UserError as error:
    print(error)
"""
    lines = installed(sys.executable, "-c", code).splitlines()
    assert lines[0] == "load LatentDiffusion"
    assert int(lines[1]) == len(shipped_models())
    assert lines[2].startswith("nothing is no run directory")
