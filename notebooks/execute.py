"""Executes notebooks, and saves them clean, with small images.

    python notebooks/execute.py notebooks/06_noise_and_the_best_denoiser.ipynb

Takes several; without a name, all.

Images become PNGs of 256 colours. An image of a cell whose metadata name a `figure` is also written
to docs/figures/. With `--fast` the notebook runs with small numbers, and nothing is written.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

from ldm_jax.course.fast import VARIABLE

FOLDER = Path(__file__).parent
FIGURES = FOLDER.parent / "docs" / "figures"


def execute(notebook: nbformat.NotebookNode, timeout: int = 600) -> None:
    """Runs all cells in a new kernel, each in `timeout` seconds. It raises what a cell raises."""
    clear(notebook)
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=resources).execute()


def clear(notebook: nbformat.NotebookNode) -> None:
    """Removes all outputs."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def clean(notebook: nbformat.NotebookNode) -> None:
    """Leaves what is the same on every machine, with small images."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of the run
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                png = small_png(base64.b64decode(output.data["image/png"]))
                output.data["image/png"] = base64.b64encode(png).decode()


def small_png(png: bytes) -> bytes:
    """The same image in 256 colours, without dithering."""
    image = Image.open(io.BytesIO(png))
    if image.mode == "P":
        return png
    colours = image.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    colours.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def figures(notebook: nbformat.NotebookNode, number: str) -> dict[str, bytes]:
    """File name -> PNG, of all cells whose metadata name a `figure`."""
    found = {}
    for cell in notebook.cells:
        if name := cell.metadata.get("figure"):
            (png,) = [
                output.data["image/png"]
                for output in cell.outputs
                if "image/png" in output.get("data", {})
            ]
            found[f"{number}_{name}.png"] = base64.b64decode(png)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--fast", action="store_true", help="small numbers; writes nothing")
    arguments = parser.parse_args()
    os.environ[VARIABLE] = "1" if arguments.fast else "0"
    for file in arguments.notebooks or sorted(FOLDER.glob("*.ipynb")):
        if not file.exists():
            parser.error(f"there is no {file}")
        notebook = nbformat.read(file, as_version=4)
        start = time.perf_counter()
        execute(notebook, timeout=3600)  # the machine may be busy
        print(f"{file.name}: {time.perf_counter() - start:.0f} s")
        if arguments.fast:
            continue
        clean(notebook)
        number = file.name.split("_")[0]
        FIGURES.mkdir(exist_ok=True)
        for old in FIGURES.glob(f"{number}_*.png"):
            old.unlink()
        for name, png in figures(notebook, number).items():
            (FIGURES / name).write_bytes(png)
        nbformat.write(notebook, file)


if __name__ == "__main__":
    main()
