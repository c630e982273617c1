"""A font for the text in figures, in whatever script it is."""

import functools
import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

log = logging.getLogger(__name__)
# Matplotlib's own, which has Greek and Cyrillic letters too.
DEFAULT = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
_UNSEEN = ("Cc", "Cf", "Cs")  # categories of Unicode: control, format, half of a pair
_BOXES = "LastResort"  # a font that has a box for every character


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The default font, or the one of this machine that has the most of a text's characters.

    A line of the log says, once for each script, that no font has them; they show as boxes then.

    Args:
      size: in pixels.
    """
    missing = missing_in(DEFAULT, text)
    return _opened(_installed(frozenset(missing)) if missing else DEFAULT, size)


def missing_in(font: str, text: str) -> set[str]:
    """The characters of a text that a font file has not, apart from those that draw nothing."""
    drawn = {c for c in text if not c.isspace() and unicodedata.category(c) not in _UNSEEN}
    return {c for c in drawn if ord(c) not in _characters(font)}


def best_font(characters: frozenset[str], fonts: Sequence[str]) -> str:
    """The font file of `fonts` that has the most of these characters; '' where none has any."""
    found = max(fonts, key=lambda font: len(characters - missing_in(font, "".join(characters))))
    return found if len(missing_in(found, "".join(characters))) < len(characters) else ""


@functools.cache
def _installed(missing: frozenset[str]) -> str:
    others = {font.fname: font for font in font_manager.fontManager.ttflist}
    # Regular ones first: the first of the best is taken.
    files = sorted(others, key=lambda file: (others[file].weight != 400, Path(file).name))
    font = best_font(missing, [DEFAULT, *(f for f in files if _BOXES not in f)])
    _say_what_is_missing(
        frozenset(_script(c) for c in missing_in(font or DEFAULT, "".join(missing)))
    )
    return font or DEFAULT


@functools.cache
def _say_what_is_missing(scripts: frozenset[str]) -> None:
    if scripts:
        log.warning(
            "figures show boxes in place of letters (%s): no font of this machine has them; "
            "install one, such as Noto Sans, to see them (training does not need it)",
            ", ".join(sorted(scripts)),
        )


def _script(character: str) -> str:
    """DEVANAGARI, CJK: the first word of a letter's name."""
    if unicodedata.category(character)[0] not in "LM":
        return "symbols"
    return unicodedata.name(character, "unnamed").split()[0].split("-")[0]


@functools.cache
def _characters(font: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(font).get_charmap())
    except Exception:  # of a file that is damaged, or has letters as images alone
        return frozenset()


@functools.cache
def _opened(font: str, size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(font, size)
    except OSError:  # its letters have other sizes alone
        return ImageFont.truetype(DEFAULT, size)
