"""The small trained models that come with the package, a folder each: packed runs, with a card.

`docs/shipped.md` says how they are made. The folder `zoo` has small autoencoders for teaching
(`docs/zoo.md`): packed runs, and what is recorded of all of them (`recorded.py`).
"""

from pathlib import Path

FOLDER = Path(__file__).parent
DEFAULT = "scenes-64"  # what is sampled from where no model is named


def shipped_models(folder: Path = FOLDER) -> list[str]:
    """The names of the models in a folder of packed runs, in alphabetical order."""
    return sorted(file.parent.name for file in folder.glob("*/config.json"))


def zoo_models(folder: Path = FOLDER) -> list[str]:
    """The names of the autoencoders of the zoo that have weights, such as zoo/f4, in order."""
    return sorted(f"zoo/{file.parent.name}" for file in folder.glob("zoo/*/config.json"))
