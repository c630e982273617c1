"""`python train.py --help`: every experiment with a line, at once."""

import re
import subprocess
import sys

import pytest

from ldm_jax.commands.overview import first_lines
from ldm_jax.experiments import EXPERIMENTS
from tests.runs import REPOSITORY

HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "numpy", "scipy", "PIL", "matplotlib", "tyro"}
TRAIN = {"script": ["train.py"], "command": ["-m", "ldm_jax", "train"]}


def test_it_says_of_each_experiment_what_its_docstring_says():
    said = {name: make.__doc__.splitlines()[0] for name, make in EXPERIMENTS.items()}
    assert list(first_lines().items()) == list(said.items())


@pytest.mark.parametrize("word", ["--help", "-h"])
@pytest.mark.parametrize("how", TRAIN)
def test_it_imports_nothing_that_takes_time(how, word):
    """Python lists on stderr whatever it imports."""
    words = [sys.executable, "-X", "importtime", *TRAIN[how], word]
    shown = subprocess.run(words, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    imported = {name.split(".")[0] for name in re.findall(r"\| +(\S+)$", shown.stderr, re.M)}
    assert "ldm_jax" in imported and not HEAVY & imported
    for name in EXPERIMENTS:
        assert re.search(rf"^ +{name}  +\S", shown.stdout, re.M), name
