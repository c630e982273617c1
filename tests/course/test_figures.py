"""The figures of the notebooks: large letters, a label for each row and column."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from ldm_jax.course import figures


@pytest.fixture(autouse=True)
def styled():
    with matplotlib.rc_context({"backend": "agg"}):
        figures.style()
        yield
    pyplot.close("all")


def sizes(figure):
    return {text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()}


def test_rows_of_images_have_their_labels_and_their_pixels():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    floats = np.full((2, 4, 4, 3), 3.0)  # clipped to white
    figure = figures.image_rows([images, floats], ["above", "below"], ["a", "b", "c"])
    axes = np.reshape(figure.axes, (2, 3))
    assert [axis.get_title() for axis in axes[0]] == ["a", "b", "c"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["above", "below"]
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1, 1, 0]
    assert (axes[1, 1].images[0].get_array() == 255).all()
    assert sizes(figure) == {12.0}
    assert figure.get_figwidth() == figures.WIDTH


def test_panels_of_points_are_square_and_titled():
    axes = figures.point_panels(["a", "b"], 2.5)
    assert [axis.get_title() for axis in axes] == ["a", "b"]
    assert all(axis.get_xlim() == axis.get_ylim() == (-2.5, 2.5) for axis in axes)
    assert sizes(axes[0].figure) == {12.0}
