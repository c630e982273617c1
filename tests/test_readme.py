"""The README and the pages of docs/ are true: names, commands, options, links and images exist."""

import dataclasses
import functools
import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAPER_MAP = ROOT / "docs" / "paper_map.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = {
    str(file.relative_to(ROOT)): file.read_text()
    for file in (README, *DOCS, ROOT / "benchmarks" / "README.md", ROOT / "notebooks" / "README.md")
}
EACH_PAGE = pytest.mark.parametrize("page", PAGES)
OF_OTHERS = {"--ntasks-per-node"}  # SLURM's


def equations(text: str) -> set[int]:
    """Numbers of this paper's equations cited as Eq. (3) or Eqs. (10)-(12)."""
    found = set()
    for first, last in re.findall(r"Eqs?\. \((\d+)\)(?:-\((\d+)\))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def code_spans(text: str) -> list[str]:
    """What stands between single backticks, on one line each."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> list[list[str]]:
    """The commands of a page that start with python, as words; those with `...` left out."""
    lines, variables = code_spans(text), {}
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines += block.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        if assigned := re.fullmatch(r'(\w+)="(.*)"|for (\w+) in (\S+) .*; do', line.strip()):
            variables[assigned[1] or assigned[3]] = assigned[2] or assigned[4]
        for part in line.split("&&"):
            part = re.sub(r"^(srun |\w+=\S+ )*", "", part.strip())
            if part.count('"') % 2:  # the end of a quoted command
                part = part[: part.rindex('"')]
            words = shlex.split(part, comments=True) if part.startswith("python ") else []
            if words and not any("..." in word or word.startswith("[") for word in words):
                found.append(words)
    return found


def check_train(words):
    from ldm_jax.commands.train.run import parse_command

    if "--help" not in words and words[:1] != ["EXPERIMENT"]:
        parse_command(words)


def check_sample(words):
    from ldm_jax.commands import cli
    from ldm_jax.commands.sample.command import SampleCommand, check_options

    if words not in (["--help"], ["RUN"]):
        check_options(cli.parse(SampleCommand, words, "python sample.py"))


def check_estimate(words):
    from ldm_jax.commands import cli
    from ldm_jax.commands.estimate.report import EstimateCommand

    name, experiment, fields = cli.named_experiment(words)
    default = EstimateCommand(experiment, "v5e:4x4", "diffusion")
    cli.parse(EstimateCommand, fields, "python -m ldm_jax estimate", default)


def check_evaluate(words):
    from ldm_jax.commands.evaluate.command import parse

    parse(words)


def check_command(words):
    """Raises for a command that the program would refuse; nothing is run."""
    from ldm_jax.__main__ import COMMANDS
    from ldm_jax.commands import cli, convert, export, pack

    kinds = {
        "convert": convert.ConvertCommand,
        "check": convert.CheckCommand,
        "export": export.ExportCommand,
        "pack": pack.PackCommand,
    }
    match words[1:]:
        case ["train.py" | "sample.py" as script, *rest]:
            check_command(["python", "-m", "ldm_jax", script.removesuffix(".py"), *rest])
        case ["-m", "ldm_jax", command, *rest]:
            assert command in COMMANDS, command
            if command in kinds:
                cli.parse(kinds[command], rest, f"python -m ldm_jax {command}")
            else:
                checks = {
                    "train": check_train,
                    "sample": check_sample,
                    "evaluate": check_evaluate,
                    "estimate": check_estimate,
                }
                checks[command](rest)
        case [script, *rest]:
            assert script.startswith(("benchmarks/", "examples/", "notebooks/")), script
            assert (ROOT / script).exists(), script
            sources = "\n".join(f.read_text() for f in (ROOT / "benchmarks").glob("*.py"))
            assert [w for w in rest if w.startswith("--") and w not in sources] == []


def options_of(kind, path="") -> set[str]:
    """The options of a configuration class, as the command line spells them."""
    found = set()
    for field, of in tyro_fields(kind):
        prefix = "" if tyro.conf.OmitArgPrefixes in getattr(of, "__metadata__", ()) else f"{field}."
        inner = [one for one in classes_in(of) if dataclasses.is_dataclass(one)]
        for one in inner:
            found |= options_of(one, path + prefix)
        found.add(f"--{path}{field}".replace("_", "-"))
    return found


def tyro_fields(kind):
    from typing import get_type_hints

    return get_type_hints(kind, include_extras=True).items()


def classes_in(of):
    """The classes that an annotation names: itself, or those of an Annotated or a union."""
    from typing import get_args

    return [of] if isinstance(of, type) else [c for arg in get_args(of) for c in classes_in(arg)]


@functools.cache
def all_options() -> set[str]:
    from ldm_jax.commands.convert import CheckCommand, ConvertCommand
    from ldm_jax.commands.estimate.report import EstimateCommand
    from ldm_jax.commands.evaluate.command import EvaluateCommand
    from ldm_jax.commands.export import ExportCommand
    from ldm_jax.commands.pack import PackCommand
    from ldm_jax.commands.sample.command import SampleCommand
    from ldm_jax.commands.train.run import TrainCommand
    from ldm_jax.experiments.config import Experiment

    kinds = (TrainCommand, SampleCommand, ConvertCommand, CheckCommand, ExportCommand, PackCommand)
    found = set().union(*map(options_of, (*kinds, EvaluateCommand, EstimateCommand, Experiment)))
    sources = "\n".join(file.read_text() for file in (ROOT / "benchmarks").glob("*.py"))
    return found | set(re.findall(r'"(--[a-z][a-z-]*)"', sources)) | {"--help"} | OF_OTHERS


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`(ldm_jax(?:\.\w+)+)`", PAPER_MAP.read_text())))
)
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
    assert equations(code) <= equations(PAPER_MAP.read_text())


def test_the_readme_is_short_and_links_every_page():
    text = PAGES["README.md"]
    assert len(text.splitlines()) <= 130
    assert [f.name for f in DOCS if f"](docs/{f.name}" not in text] == []


@EACH_PAGE
def test_images_and_linked_files_exist(page):
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), link
        assert not anchor or anchor in slugs(file.read_text()), link


@EACH_PAGE
def test_commands_would_be_accepted(page):
    found = commands(PAGES[page])
    wrong = {}
    for words in found:
        try:
            check_command(words)
        except Exception as error:
            wrong[shlex.join(words)] = str(error)
    assert not wrong
    assert found or "```bash" not in PAGES[page]


@EACH_PAGE
def test_options_in_the_text_exist(page):
    spans = [span for span in code_spans(PAGES[page]) if not span.startswith("pip ")]
    words = itertools.chain.from_iterable(re.findall(r"(?<!\S)--[a-z][\w.-]*", s) for s in spans)
    known = all_options()
    assert sorted({w for w in words if w not in known and not w.startswith("--xla_")}) == []
