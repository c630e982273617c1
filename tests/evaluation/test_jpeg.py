"""JPEG in as many bytes as a latent holds."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from ldm_jax.evaluation.jpeg import EXACT, jpeg_psnr, scan_bytes


def images(channels, n=3):
    """Smooth images with some noise: uint8 `[n, 64, 64, channels]`."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] / 64
    waves = [np.sin(3 * x * (i + 1)) + np.cos(5 * y) for i in range(n * channels)]
    smooth = np.stack(waves, -1).reshape(64, 64, n, channels).transpose(2, 0, 1, 3)
    return np.clip(128 + 50 * smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [1, 30, 95])
def test_what_codes_pixels_is_all_of_a_file_but_its_header_and_its_end(mode, quality):
    """The header of an image does not depend on its pixels, so two files differ in the rest."""
    files = []
    for x in (images(1)[0, ..., 0], np.zeros((64, 64), np.uint8)):
        buffer = io.BytesIO()
        Image.fromarray(x).convert(mode).save(buffer, "jpeg", quality=quality)
        files.append(buffer.getvalue())
    headers = [file[: len(file) - scan_bytes(file) - 2] for file in files]
    assert headers[0] == headers[1] and all(file.endswith(b"\xff\xd9") for file in files)
    assert scan_bytes(files[0]) > scan_bytes(files[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_more_bytes_make_better_images_and_never_more_than_allowed(channels):
    x = images(channels)
    found = [jpeg_psnr(x, most) for most in (200, 600, 1200, 10**6)]
    for fewer, more in itertools.pairwise(found):
        assert (fewer <= more).all() and fewer.mean() < more.mean()
    assert found[-1].min() > 35 and found[0].shape == (3,)
    # The best of all qualities that fit, tried one by one
    best = 0.0
    for quality, subsampling in itertools.product(range(1, 96), (0, 2)):
        buffer = io.BytesIO()
        pixels = Image.fromarray(x[0].squeeze())
        pixels.save(buffer, "jpeg", quality=quality, subsampling=subsampling)
        if scan_bytes(buffer.getvalue()) <= 600:
            error = np.asarray(Image.open(buffer), float).reshape(x[0].shape) - x[0]
            best = max(best, 10 * np.log10(255**2 / np.mean(error**2)))
    assert found[1][0] == pytest.approx(best, abs=0.2)  # a higher quality is not always better


def test_where_nothing_fits_the_lowest_quality_is_taken():
    x = images(3, n=1)
    assert np.isfinite(jpeg_psnr(x, 1)).all()


def test_an_exact_image_has_a_finite_psnr():
    assert jpeg_psnr(np.full((1, 64, 64, 3), 128, np.uint8), 10**4) == EXACT
