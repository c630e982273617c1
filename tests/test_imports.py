"""The house rules: imports point one way and run in no circle, files are short and well named."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# `python -m ldm_jax.pretrained` is a face of the experiments, as the scripts are.
FACES = [
    "train.py",
    "sample.py",
    "ldm_jax/pretrained/__main__.py",
    "ldm_jax/experiments/estimate/__main__.py",
]
FILES = sorted(set((ROOT / "ldm_jax").rglob("*.py")) - {ROOT / face for face in FACES})
MODELS = {"layers", "parameters", "autoencoder", "diffusion", "conditioning"}
LIBRARY = MODELS | {
    "sampling",
    "training",
    "evaluation",
    "data",
    "plots",
    "pretrained",
    "bounds",
    "errors",
}
# What each part of ldm_jax may import besides itself (DESIGN, Sec. 2).
ALLOWED = {
    "bounds": set(),
    "errors": set(),
    "layers": {"errors"},
    "parameters": set(),
    "autoencoder": {"layers", "parameters", "errors"},
    "diffusion": {"layers", "parameters", "errors"},
    "conditioning": {"layers", "errors"},
    "sampling": MODELS | {"errors"},
    "training": {"errors"},
    "data": {"bounds", "errors"},
    "plots": {"errors"},
    "evaluation": MODELS | {"data", "errors"},
    "pretrained": MODELS | {"errors"},
    "experiments": LIBRARY,
}


def name_of(file):
    """ldm_jax/data/scenes/__init__.py -> ldm_jax.data.scenes"""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}


def imports_of(file):
    """The modules of ldm_jax that a file names in its imports, wherever in the file they stand."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            for alias in node.names:  # a module of the package, or a name in the module
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return {module for module in found if module.split(".")[0] == "ldm_jax"}


GRAPH = {module: imports_of(file) - {"ldm_jax", module} for module, file in MODULES.items()}


def part(module):
    return (module.split(".") + [""])[1]


def test_every_part_has_its_place():
    assert {part(module) for module in MODULES} - {""} <= set(ALLOWED)


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_point_one_way(name):
    wrong = {
        (module, imported)
        for module, imports in GRAPH.items()
        for imported in imports
        if part(module) == name and part(imported) not in ALLOWED[name] | {name}
    }
    assert not wrong


def test_imports_run_in_no_circle():
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for imported in sorted(GRAPH[module] & set(GRAPH)):
                visit(imported)
            done.add(path.pop())

    for module in sorted(GRAPH):
        visit(module)


def test_every_import_of_ours_exists():
    assert set().union(*GRAPH.values()) <= set(MODULES)


@pytest.mark.parametrize("script", FACES)
def test_scripts_are_thin_faces_of_the_experiments(script):
    imports = imports_of(ROOT / script)
    assert imports and {part(module) for module in imports} <= {"experiments", "errors"}
    assert len((ROOT / script).read_text().splitlines()) <= 60


def test_a_file_fits_one_sitting():
    long = {str(file): n for file in FILES if (n := len(file.read_text().splitlines())) > 400}
    assert not long


def test_no_file_is_a_drawer_for_everything():
    names = {word for file in FILES for word in file.with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}
