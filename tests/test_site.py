"""The documentation site, as far as it can be checked without building it."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from docs.site import docstrings, navigation

ROOT = Path(__file__).parents[1]
HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
PAGES = [page for pages in navigation.sections().values() for page in pages]


def text_of(page: str) -> str:
    """The Markdown of a page; of a package's page its docstring, which has no links."""
    if (notebook := ROOT / f"{page}.ipynb").exists():
        cells = json.loads(notebook.read_text())["cells"]
        return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    markdown = ROOT / f"{page}.md"
    return markdown.read_text() if markdown.exists() else ""


def links_of(page: str) -> list[str]:
    prose = re.sub(r"^```.*?^```|`[^`\n]+`", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^()\s]+)\)", prose) + re.findall(r"<(https?:[^>]+)>", prose)


EACH_PAGE = pytest.mark.parametrize("page", [page for page in PAGES if text_of(page)])


def test_every_page_stands_in_one_section():
    assert len(PAGES) == len(set(PAGES))
    found = [*ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/**/*.ipynb"), ROOT / "README.md"]
    found += [*ROOT.glob("notebooks/**/*.md"), *ROOT.glob("ldm_jax/*/__init__.py")]
    assert {str(file.relative_to(ROOT).with_suffix("")) for file in found} <= set(PAGES)


def test_the_order_is_that_of_a_newcomer():
    sections = navigation.sections()
    assert PAGES[0] == "README"
    assert list(sections).index("Course") < list(sections).index("Concepts")
    assert list(sections).index("Concepts") < list(sections).index("API")
    assert sections["Course"][-2:] == sorted(sections["Course"][-2:])


@EACH_PAGE
def test_links_are_well_formed_and_files_exist(page):
    for link in links_of(page):
        url = urlsplit(link)
        if url.scheme:
            assert url.scheme in ("https", "http") and HOST.fullmatch(url.netloc), link
            assert not link.endswith((".", ",", ";", ":")), link
        elif url.path:
            assert ((ROOT / page).parent / url.path).exists(), link


@EACH_PAGE
def test_images_come_with_the_repository(page):
    assert re.findall(r"!\[[^\]]*\]\(\w+:", text_of(page)) == []


@pytest.mark.parametrize(
    ("text", "rst"),
    [
        ("One\nline.", ["One line.", ""]),
        ("Of `x`, |x - y|, *args, z_.", [r"Of \ ``x``\ , \|x - y\|, \*args, z\_.", ""]),
        ("Shape: [n].", ["Shape: [n].", ""]),
        ("Args:\n  a: one\n    line", [":Args:", "   * **a**: one line", "   "]),
        ("Raises:\n  A, B: two", [":Raises:", "   * **A, B**: two", "   "]),
        ("As in\n\n    run(1)\n", ["As in", "", "::", "", "   run(1)", ""]),
        ("Kinds:\n- a: one\n- b: two", ["Kinds:", "", "* a: one", "* b: two", ""]),
        ("a: one\nb: two\n  lines", ["* a: one", "* b: two lines", ""]),
        ("area     mean\nlinear   two", ["::", "", "   area     mean", "   linear   two", ""]),
    ],
)  # fmt: skip
def test_docstrings_are_plain_text(text, rst):
    assert docstrings.as_rst(text.splitlines()) == rst


def test_no_docstring_of_a_section_is_lost():
    text = "What it does.\n\nArgs:\n  n: one\nReturns:\n  A number.\nRaises:\n  UserError: if not."
    lines = docstrings.as_rst(text.splitlines())
    assert [line for line in lines if line.startswith(":")] == [":Args:", ":Returns:", ":Raises:"]
    assert "   * **UserError**: if not." in lines
