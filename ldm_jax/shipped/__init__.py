"""The small trained models that come with the package, a folder each: packed runs, with a card.

`docs/shipped.md` says how they are made.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
DEFAULT = "scenes-64"  # what is sampled from where no model is named


def shipped_models(folder: Path = FOLDER) -> list[str]:
    """The names of the models in a folder of packed runs, in alphabetical order."""
    return sorted(file.parent.name for file in folder.glob("*/config.json"))
