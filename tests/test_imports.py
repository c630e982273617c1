"""The house rules: imports point one way and run in no circle; rooms keep to their job."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FACES = ["train.py", "sample.py", "ldm_jax/__main__.py"]
FILES = sorted(set((ROOT / "ldm_jax").rglob("*.py")) - {ROOT / face for face in FACES})
MODELS = {"layers", "parameters", "autoencoder", "diffusion", "conditioning"}
BASE = {"errors", "bounds", "resuming", "paths", "text_files", "lock", "processes"}
LIBRARY = MODELS | BASE | {"sampling", "training", "evaluation", "data", "plots", "pretrained"}
# What each part of ldm_jax may import besides itself: library <- experiments <- model, and on top
# of these commands and course.
ALLOWED = {
    "errors": set(),
    "bounds": set(),
    "resuming": set(),
    "paths": {"errors"},
    "text_files": {"errors", "paths"},
    "lock": {"errors", "paths"},
    "fonts": set(),
    "shipped": set(),
    "processes": set(),
    "layers": {"errors"},
    "parameters": set(),
    "autoencoder": {"layers", "parameters"} | BASE,
    "diffusion": {"layers", "parameters"} | BASE,
    "conditioning": {"layers"} | BASE,
    "sampling": MODELS | BASE,
    "training": BASE,
    "data": BASE,
    "plots": BASE | {"fonts"},
    "evaluation": MODELS | BASE | {"data", "training"},
    "pretrained": MODELS | BASE | {"evaluation"},
    "experiments": LIBRARY - {"evaluation", "pretrained", "plots"},
    "model": LIBRARY | {"experiments", "shipped"},
    "commands": LIBRARY | {"experiments", "model", "shipped"},
    "course": LIBRARY | {"experiments", "model", "shipped"},
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


@pytest.mark.parametrize("script", ["train.py", "sample.py"])
def test_scripts_are_thin_faces_of_the_commands(script):
    imports = imports_of(ROOT / script)
    assert imports and {part(module) for module in imports} == {"commands"}
    assert len((ROOT / script).read_text().splitlines()) <= 20


def test_experiments_are_definitions_alone():
    """Dataclasses, functions that return an experiment, and their registry."""
    for file in (ROOT / "ldm_jax" / "experiments").glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                assert [ast.unparse(d) for d in node.decorator_list] == ["dataclass(frozen=True)"]
                assert not [n for n in node.body if isinstance(n, ast.FunctionDef)], node.name
            if isinstance(node, ast.FunctionDef):
                assert ast.unparse(node.returns) == "Experiment", node.name
