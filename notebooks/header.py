"""Writes the Colab badge and the install cell into all notebooks.

    python notebooks/header.py

Both come from `[project.urls]` of pyproject.toml: its `Repository`, an address on GitHub. While
there is none, they are left out. Cells of the header have the tag `header`; the rest of a notebook
stays as it is.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nbformat

FOLDER = Path(__file__).parent
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


def repository(pyproject: str) -> str | None:
    """`https://github.com/OWNER/NAME`, as [project.urls] of a pyproject.toml says, or None.

    Raises:
      ValueError: the address is not one of GitHub, from where Colab opens notebooks.
    """
    urls = tomllib.loads(pyproject)["project"].get("urls", {})
    url = next((urls[name] for name in urls if name.lower() == "repository"), None)
    if url is None:
        return None
    found = re.fullmatch(r"(https://github\.com/[\w.-]+/[\w-][\w.-]*?)(\.git)?/?", url)
    if not found:
        raise ValueError(
            f"Repository of [project.urls] is {url}; Colab needs https://github.com/OWNER/NAME"
        )
    return found[1]


def header_cells(url: str, path: str) -> list[nbformat.NotebookNode]:
    """The badge and the install cell of the notebook at `path`, relative to the repository."""
    colab = url.replace("https://github.com", "https://colab.research.google.com/github")
    badge = nbformat.v4.new_markdown_cell(
        f"[![Open in Colab]({BADGE})]({colab}/blob/main/{path})", id="badge"
    )
    install = nbformat.v4.new_code_cell(
        "import importlib.util\n\n"
        'if importlib.util.find_spec("ldm_jax") is None:\n'
        f'    %pip install -q "ldm_jax @ git+{url}"',
        id="install",
    )
    for cell in (badge, install):
        cell.metadata["tags"] = ["header"]
    return [badge, install]


def with_header(notebook: nbformat.NotebookNode, url: str | None, path: str) -> None:
    """Puts the header at the top of a notebook, in the place of an older one, if there is any."""
    body = [cell for cell in notebook.cells if "header" not in cell.metadata.get("tags", ())]
    notebook.cells = (header_cells(url, path) if url else []) + body


def main() -> None:
    url = repository((FOLDER.parent / "pyproject.toml").read_text())
    for file in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        with_header(notebook, url, f"notebooks/{file.name}")
        nbformat.write(notebook, file)
    print(f"header: {url}" if url else "[project.urls] names no Repository: no header")


if __name__ == "__main__":
    main()
