"""The notebooks: each runs as it is and with its solutions, and is committed as it ran.

The two oldest are not of the course. They have the tests at the end only.
"""

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ldm_jax.course.fast import VARIABLE
from notebooks import execute, header

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
OLD = [FOLDER / "01_latent_diffusion_in_one_sitting.ipynb", FOLDER / "02_sampling.ipynb"]
COURSE = sorted(set(FOLDER.glob("*.ipynb")) - set(OLD))
SHOWS = re.compile(r"^(?:.* = )?(?:show\w*|plt\.subplots)\(", re.MULTILINE)

each_notebook = pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
each_old = pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
each_one = pytest.mark.parametrize("path", [*OLD, *COURSE], ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(notebook):
    """Code cells, but for the install cell, which is not executed with the others."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if "header" not in tags(cell)]


def tags(cell):
    return cell.metadata.get("tags", [])


def tagged(notebook, tag):
    """Exercise id -> the cell with this tag."""
    found = [cell for cell in code_of(notebook) if tag in tags(cell)]
    cells = {cell.metadata["exercise"]: cell for cell in found}
    assert len(cells) == len(found), f"two cells of one exercise are tagged {tag}"
    return cells


def solutions_of(path):
    """(exercise -> solution, exercise -> a mistake), as sources."""
    notebook = read(FOLDER / "solutions" / path.name)
    return [
        {name: cell.source for name, cell in tagged(notebook, tag).items()}
        for tag in ("solution", "mistake")
    ]


def images_in(cell):
    return [o for o in cell.outputs if "image/png" in o.get("data", {})]


def said(cell):
    """What the check of an exercise says."""
    (output,) = [o for o in cell.outputs if o.output_type == "execute_result"]
    return output.data["text/plain"]


def texts(notebook):
    """All sources and outputs but the images."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", ()):
            data = {k: v for k, v in output.get("data", {}).items() if k != "image/png"}
            yield str({**output, "data": data})


@pytest.fixture
def short(tmp_path, monkeypatch):
    """The fast mode, in kernels like a reader's: one device, no strictness."""
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setenv("LDM_JAX_NOTEBOOK_STEPS", "0.004")  # of the old notebooks
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path))
    # Almost all of the time is compilation, so it is kept quick rather than good.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.delenv("JAX_NUMPY_RANK_PROMOTION", raising=False)


def test_each_notebook_has_solutions():
    assert COURSE
    assert [p.name for p in COURSE] == [
        p.name for p in sorted((FOLDER / "solutions").glob("*.ipynb"))
    ]


@each_one
def test_the_committed_notebook_is_executed_and_clean(path):
    notebook = read(path)
    counts = [cell.execution_count for cell in code_of(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert path.stat().st_size < (1_500_000 if path in OLD else 1_000_000)
    everything = "\n".join(texts(notebook))
    assert re.findall(r"/(?:home|root|work|tmp|Users|usr)/\S*", everything) == []
    assert re.findall(r"\w*Warning\b|Traceback|WARNING|'output_type': 'error'", everything) == []


@each_notebook
def test_nothing_of_the_machine_is_kept(path):
    for notebook in (read(path), read(FOLDER / "solutions" / path.name)):
        before = nbformat.writes(notebook)
        execute.clean(notebook)
        assert nbformat.writes(notebook) == before


@each_notebook
def test_cells_are_short(path):
    for notebook in (read(path), read(FOLDER / "solutions" / path.name)):
        assert [c.source for c in code_of(notebook) if len(c.source.splitlines()) > 12] == []


@each_notebook
def test_each_image_is_a_figure_of_the_docs(path):
    number = path.name.split("_")[0]
    notebook = read(path)
    unnamed = [
        cell.source
        for cell in code_of(notebook)
        if bool(images_in(cell)) != ("figure" in cell.metadata)
    ]
    assert unnamed == []
    files = {file.name: file.read_bytes() for file in execute.FIGURES.glob(f"{number}_*.png")}
    assert files and files == execute.figures(notebook, number)


@each_notebook
def test_a_reader_types_something(path):
    """Two to four exercises; each has a solution, and a mistake where there is a check."""
    notebook = read(path)
    exercises, checks = tagged(notebook, "exercise"), tagged(notebook, "check")
    solutions, mistakes = solutions_of(path)
    assert 2 <= len(exercises) <= 4 and len(checks) >= 2
    assert exercises.keys() == solutions.keys() and mistakes.keys() == checks.keys()
    assert checks.keys() <= exercises.keys()
    for name, cell in checks.items():
        assert isinstance(ast.parse(cell.source).body[-1], ast.Expr)
        assert said(cell).startswith("Not done yet:"), name


@each_notebook
def test_the_notebook_begins_and_ends_as_all_do(path):
    cells = [cell for cell in read(path).cells if "header" not in tags(cell)]
    assert re.match(r"# \d+\. ", cells[0].source)
    for words in ("**You will build**", "**You need**", "**Minutes**", "**In the paper**"):
        assert words in cells[0].source
    for heading in ("Three sentences to remember", "In the paper", "In the code", "Read on"):
        assert re.search(rf"^#+ {heading}$", cells[-1].source, re.MULTILINE), heading


@pytest.mark.slow
@each_notebook
def test_the_notebook_runs_as_it_is(path, short):
    notebook = read(path)
    execute.execute(notebook)
    for cell in tagged(notebook, "check").values():
        assert said(cell).startswith("Not done yet:")
    for cell in code_of(notebook):
        assert bool(images_in(cell)) == ("figure" in cell.metadata)


@pytest.mark.slow
@each_notebook
def test_solutions_are_right_and_a_mistake_is_rejected(path, short):
    notebook, (solutions, mistakes) = read(path), solutions_of(path)
    execute.clear(notebook)
    exercises, checks = tagged(notebook, "exercise"), tagged(notebook, "check")
    for name, source in solutions.items():
        exercises[name].source = source
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    )
    index = {cell.id: number for number, cell in enumerate(notebook.cells)}
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
        for cell in checks.values():
            assert said(cell).startswith("Right.")
        for name, source in mistakes.items():
            exercises[name].source = source
            for cell in (exercises[name], checks[name]):
                client.execute_cell(cell, index[cell.id])
            assert said(checks[name]).startswith("Not right yet."), name


PYPROJECT = '[project]\nname = "a"\n[project.urls]\nHomepage = "https://a.org"\n'


@pytest.mark.parametrize("ending", ["", "/", ".git"])
def test_the_header_is_made_of_the_address_of_the_project(ending):
    url = header.repository(PYPROJECT + f'Repository = "https://github.com/some/where{ending}"')
    assert url == "https://github.com/some/where"
    badge, install = header.header_cells(url, "notebooks/06_a.ipynb")
    colab = "https://colab.research.google.com/github/some/where/blob/main/notebooks/06_a.ipynb"
    assert badge.source.endswith(f"]({colab})")
    assert '"ldm_jax @ git+https://github.com/some/where"' in install.source


def test_an_address_that_colab_cannot_open_is_refused():
    with pytest.raises(ValueError, match="https://gitlab.com/some/where; Colab needs"):
        header.repository(PYPROJECT + 'Repository = "https://gitlab.com/some/where"')


def test_the_header_comes_and_goes_and_the_rest_stays():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 6. A")])
    before = nbformat.writes(notebook)
    for _ in range(2):
        header.with_header(notebook, "https://github.com/some/where", "notebooks/06_a.ipynb")
        assert len(notebook.cells) == 3 and notebook.cells[2].source == "# 6. A"
        nbformat.validate(notebook)
    header.with_header(notebook, None, "notebooks/06_a.ipynb")
    assert nbformat.writes(notebook) == before


def test_the_install_cell_does_nothing_where_the_package_is():
    _, install = header.header_cells("https://github.com/some/where", "notebooks/06_a.ipynb")
    condition = install.source.split("\n    %pip")[0]
    names = {}
    exec(condition + "\n    installs = True", names)
    assert "installs" not in names


@each_notebook
def test_the_header_of_each_notebook_is_that_of_the_project(path):
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert "urls" in tomllib.loads(pyproject)["project"]
    notebook = read(path)
    before = nbformat.writes(notebook)
    header.with_header(notebook, header.repository(pyproject), f"notebooks/{path.name}")
    assert nbformat.writes(notebook) == before


def shows_an_image(source):
    """Whether a cell draws for the reader, rather than defining a function that will."""
    statements = [s for s in ast.parse(source).body if not isinstance(s, ast.FunctionDef)]
    return bool(SHOWS.search("\n".join(ast.unparse(s) for s in statements)))


@each_old
def test_cells_of_the_old_are_short(path):
    assert [c.source for c in code_of(read(path)) if len(c.source.splitlines()) > 15] == []


@each_old
def test_each_section_of_the_old_has_an_image(path):
    heading, sections = "", {}
    for cell in read(path).cells:
        if cell.cell_type == "code":
            sections.setdefault(heading, []).extend(images_in(cell))
        elif found := re.search(r"^## (.*)", cell.source, re.MULTILINE):
            heading = found[1]
    assert [name for name, shown in sections.items() if name and not shown] == []


@pytest.mark.slow
@each_old
def test_the_old_notebook_runs_in_a_short_form(path, short):
    notebook = read(path)
    execute.execute(notebook)
    showing = [cell for cell in code_of(notebook) if shows_an_image(cell.source)]
    assert showing and [cell.source for cell in showing if not images_in(cell)] == []
