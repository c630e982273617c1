"""`python sample.py RUN --height H --width W`, whole, by windows and tiles."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.sampling.tiling import Tiles


@pytest.fixture
def drawn(trained, sample, tmp_path):
    """The single images that `sample.py RUN words...` draws from a run on 8x8 images."""

    def draw(*words):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        ended = sample(trained("flat")[1], "--num-images", 2, "--steps", 2, *words, "--out", out)
        assert ended.code == 0, ended.err
        return np.stack([np.asarray(Image.open(file)) for file in sorted(out.glob("*.png"))])

    return draw


SCENES = {"size": 32, "f": 4, "unet_factor": 2, "channels": 8}


def test_options_in_pixels_become_sizes_of_latents():
    """The default experiment: 32 pixels, f = 4, a UNet of two levels."""
    scenes = EXPERIMENTS["scenes"]()
    network, unet = scenes.autoencoder.network, scenes.diffusion.unet
    sizes = (scenes.data.size, network.f, unet.factor, network.z_channels)
    assert sizes == tuple(SCENES.values())
    size = SamplingSettings(height=40, window=16, tile=12).geometry(**SCENES)
    assert size[:3] == (40, 32, (10, 8, 8))
    assert size.unet_tiles == Tiles((4, 4), (2, 2))
    assert size.decoder_tiles == Tiles((3, 3), (2, 2))
    assert SamplingSettings().geometry(**SCENES)[2:5] == ((8, 8, 8), None, None)


@pytest.mark.slow
def test_images_have_the_size_that_is_asked_for(drawn):
    assert drawn("--height", 12, "--width", 20).shape == (2, 12, 20, 3)
    np.testing.assert_array_equal(drawn("--height", 8), drawn())


@pytest.mark.slow
def test_windows_and_tiles_as_large_as_the_image_change_next_to_nothing(drawn):
    parts = drawn("--window", 8, "--tile", 8).astype(int)
    assert np.abs(parts - drawn()).max() <= 2


@pytest.mark.slow
def test_smaller_windows_are_other_images(drawn):
    whole = drawn("--width", 16).astype(int)
    parts = drawn("--width", 16, "--window", 4).astype(int)
    assert whole.shape == parts.shape and np.abs(whole - parts).mean() > 1


@pytest.mark.slow
def test_images_to_edit_and_to_resemble_are_brought_to_the_size(drawn, photographs):
    image = photographs / "flat" / "0.png"
    edited = drawn("--image", image, "--width", 16, "--strength", 0.5)
    assert edited.shape == (2, 8, 16, 3)
    guided = drawn("--guide-image", image, "--height", 16, "--guide-factor", 2)
    assert guided.shape == (2, 16, 8, 3)


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("height", 36, "--height is 36; for this model it is a multiple of 8, such as 32 or 40"),
        ("width", 4, "--width is 4; for this model it is a multiple of 8, such as 8"),
        ("window", 12, "--window is 12; for this model it is a multiple of 8, such as 8 or 16"),
        ("tile", 6, "--tile is 6; for this model it is a multiple of 4, such as 4 or 8"),
    ],
)
def test_sizes_are_multiples_of_what_the_networks_reduce_by(option, value, said):
    with pytest.raises(UserError, match=said):
        SamplingSettings(**{option: value}).geometry(**SCENES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, said",
    [
        (["--height", 0], "--height is 0; it must be at least 1"),
        (["--tile", -4], "--tile is -4; it must be at least 1"),
        (["--reconstruct", "x.png", "--height", 8], "--reconstruct takes no --height"),
    ],
)
def test_sizes_that_cannot_be_are_refused(words, said, trained, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in sample(trained("flat")[1], *words).error
