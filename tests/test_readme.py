"""The README keeps its word: the paper map, the commands and the images exist."""

import importlib
import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAPER_MAP = README.split("## Paper map")[1].split("\n## ")[0]


def equations(text: str) -> set[int]:
    """Numbers of this paper's equations cited as Eq. (3) or Eqs. (10)-(12)."""
    found = set()
    for first, last in re.findall(r"Eqs?\. \((\d+)\)(?:-\((\d+)\))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(ldm_jax(?:\.\w+)+)`", PAPER_MAP))))
def test_each_name_on_the_paper_map_exists(name):
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[i:]:
            found = getattr(found, attribute)
        return
    pytest.fail(name)


def test_each_equation_marked_in_the_code_is_on_the_paper_map():
    code = "\n".join(file.read_text() for file in (ROOT / "ldm_jax").rglob("*.py"))
    assert equations(code) >= {1, 2, 3, 4, 25}
    assert equations(code) <= equations(PAPER_MAP)


def test_images_and_linked_files_exist():
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_commands_use_fields_that_exist():
    from ldm_jax.commands.hosts import Hosts
    from ldm_jax.experiments import EXPERIMENTS

    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    commands = re.findall(r"python train\.py([^#\n]*)", blocks)
    assert commands
    for words in (command.split() for command in commands):
        name = words[0] if words and not words[0].startswith("-") else "scenes"
        assert name in EXPERIMENTS
        for word in itertools.dropwhile(lambda w: not w.startswith("--"), words):
            if not word.startswith("--") or word in ("--help", "--run-dir", "--stage"):
                continue
            if word.startswith("--hosts."):
                assert hasattr(Hosts(), word.removeprefix("--hosts.")), word
                continue
            value = EXPERIMENTS[name]()
            for field in word[2:].replace("-", "_").split("."):
                assert hasattr(value, field), word
                value = getattr(value, field)
