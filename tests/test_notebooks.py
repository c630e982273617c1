"""The notebooks: each runs from top to bottom, and is committed as it ran."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SHOWS = re.compile(r"^(?:.* = )?(?:show\w*|plt\.subplots)\(", re.MULTILINE)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shows_an_image(source):
    """Whether a cell draws for the reader, rather than defining a function that will."""
    statements = [s for s in ast.parse(source).body if not isinstance(s, ast.FunctionDef)]
    return bool(SHOWS.search("\n".join(ast.unparse(s) for s in statements)))


def images_in(cell):
    return [o for o in cell.outputs if "image/png" in o.get("data", {})]


def check_outputs(notebook):
    cells = cells_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [o for cell in cells for o in cell.outputs if o.output_type == "error"] == []
    showing = [cell for cell in cells if shows_an_image(cell.source)]
    assert showing
    assert [cell.source for cell in showing if not images_in(cell)] == []


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_the_committed_notebook_is_executed_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    check_outputs(notebook)
    assert path.stat().st_size < 1_500_000
    everything = "".join(
        str(part)
        for cell in notebook.cells
        for part in (cell.source, *({**o, "data": _texts(o)} for o in cell.get("outputs", ())))
    )
    assert re.findall(r"/(?:home|root|work|tmp|Users|usr)/\S*", everything) == []
    assert re.findall(r"\w*Warning\b|Traceback|WARNING", everything) == []


def _texts(output):
    return {kind: text for kind, text in output.get("data", {}).items() if kind != "image/png"}


@each_notebook
def test_cells_are_short(path):
    cells = cells_of(nbformat.read(path, as_version=4))
    assert [cell.source for cell in cells if len(cell.source.splitlines()) > 15] == []


@each_notebook
def test_each_section_has_an_image(path):
    heading, sections = "", {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            sections.setdefault(heading, []).extend(images_in(cell))
        elif found := re.search(r"^## (.*)", cell.source, re.MULTILINE):
            heading = found[1]
    assert [name for name, shown in sections.items() if name and not shown] == []


@pytest.mark.slow
@each_notebook
def test_the_notebook_runs_in_a_short_form(path, tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_JAX_NOTEBOOK_STEPS", "0.004")
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path))
    # As a reader's kernel: the devices that the notebook asks for, no strictness. Almost all of the
    # time is compilation, so it is kept quick rather than good.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.delenv("JAX_NUMPY_RANK_PROMOTION", raising=False)
    notebook = nbformat.read(path, as_version=4)
    for cell in cells_of(notebook):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    check_outputs(notebook)
