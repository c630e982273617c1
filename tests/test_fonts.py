"""Text in figures: a font that has its letters, or a line that says which letters show as boxes."""

import logging

import matplotlib
import numpy as np

from ldm_jax import plots
from ldm_jax.fonts import DEFAULT, best_font, font_for, missing_in

ROMAN = f"{matplotlib.get_data_path()}/fonts/ttf/cmr10.ttf"  # has no Cyrillic letters
UNKNOWN = "\N{LINEAR B SYLLABLE B008 A}"


def test_letters_that_a_font_has_not_are_known():
    assert missing_in(DEFAULT, "a мяч, größer\n") == set()
    assert missing_in(ROMAN, "ball мяч") == set("мяч")
    assert missing_in("no font at all", "ab") == {"a", "b"}


def test_the_font_with_the_most_letters_is_taken():
    assert best_font(frozenset("мяч"), [ROMAN, DEFAULT]) == DEFAULT
    assert best_font(frozenset("ab"), [ROMAN, DEFAULT]) == ROMAN
    assert best_font(frozenset(UNKNOWN), [ROMAN]) == ""


def test_the_default_is_kept_where_it_has_all_letters():
    assert font_for("мяч", 12).path == DEFAULT


def test_letters_that_no_font_has_are_named_once(caplog):
    image = np.zeros((1, 8, 8, 3), np.uint8)
    with caplog.at_level(logging.WARNING, "ldm_jax"):
        for _ in range(2):
            plots.labelled_grid(image, [f"a {UNKNOWN}"])
            plots.labelled_grid(image, [f"another {UNKNOWN}"])
    assert len(caplog.messages) <= 1  # a machine may have such a font
    assert all("show boxes in place of letters (LINEAR)" in text for text in caplog.messages)
