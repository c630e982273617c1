"""Does an image decoded tile by tile show where the tiles meet?

    python benchmarks/tiles.py runs/scenes

encodes scenes drawn at 128x128 and decodes them whole and in tiles, and prints how far the two are
apart: PSNR; the difference in the two rows or columns at each border of a tile, as a multiple of
that elsewhere; likewise the step that the difference makes from one side of a border to the other;
and the step that the image itself makes there, as a multiple of elsewhere's and of what the same
comes to in the whole: a seam that the eye sees is well above 1. Writes an image, below each result
8 times the difference.
"""

import jax
import numpy as np
from PIL import Image
from trained_run import held_out, options_of

import ldm_jax
from ldm_jax.autoencoder.step import to_bytes
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.sampling.tiling import Tiles, apply_in_tiles, tile_starts

TILES, OVERLAPS = (32, 48, 64), (0.0, 0.25, 0.375, 0.5)


def main():
    arguments = options_of(__doc__, images=32)
    arguments.add_argument("--size", type=int, default=128)
    arguments.add_argument("--out", default="tiles.png")
    options = arguments.parse_args()
    model, size = ldm_jax.load(options.run), options.size
    f, constants = model.first.f, model.weights.constants
    images = held_out(model, options.images, size)["image"]
    z_0 = model.encode(images)
    whole = np.asarray(jax.jit(model.decode_float)(constants, z_0))
    bytes_whole = np.asarray(to_bytes(whole))
    print(f"whole against the images: PSNR {psnr(images, bytes_whole).mean():.1f} dB")
    print(
        "| tile | overlap | PSNR to the whole | to the image | difference at borders | its step |"
        " the image's step |\n|---|---|---|---|---|---|---|"
    )
    shown = [np.concatenate([bytes_whole[0], np.zeros_like(images[0])])]
    for side in TILES:
        for overlap in OVERLAPS:
            tiles = Tiles.square(side // f, overlap)
            tiled = jax.jit(
                lambda constants, z, tiles=tiles: apply_in_tiles(
                    lambda z: model.decode_float(constants, z), z, tiles, f
                )
            )(constants, z_0)
            tiled = np.asarray(tiled)
            difference = 127.5 * (tiled - whole)
            starts = f * tile_starts(size // f, *(axis[0] for axis in tiles))
            at, step = seam(difference, starts, side, f)
            near = np.asarray(to_bytes(tiled))
            seen = seam(tiled, starts, side, f)[1] / seam(whole, starts, side, f)[1]
            print(
                f"| {side} | {overlap:g} | {psnr(bytes_whole, near).mean():.1f} dB | "
                f"{psnr(images, near).mean():.1f} dB | {at:.2f} | {step:.2f} | {seen:.2f} |",
                flush=True,
            )
            enlarged = np.clip(128 + 8 * difference[0], 0, 255).astype(np.uint8)
            shown.append(np.concatenate([near[0], enlarged]))
    Image.fromarray(np.concatenate(shown, axis=1)).save(options.out)


def seam(difference: np.ndarray, starts: np.ndarray, side: int, f: int) -> tuple[float, float]:
    """(mean |difference| at borders, mean |step| across them), each as a multiple of elsewhere's.

    Elsewhere is where one position of the latent meets the next, as it does at every border: there
    the decoder's pixels differ by more than within.

    Args:
      difference: `[n, H, H, C]`. starts: the first rows (and columns) of tiles. side: of a tile.
    """
    meetings = np.arange(f, difference.shape[1], f)
    here = np.isin(meetings, [*starts, *(starts + side)])
    ratios = []
    for axis in (1, 2):
        d = np.moveaxis(difference, axis, 0)
        before, after = d[meetings - 1], d[meetings]
        for values in (np.abs(before) + np.abs(after), np.abs(after - before)):
            ratios.append(values[here].mean() / values[~here].mean())
    return float(np.mean(ratios[::2])), float(np.mean(ratios[1::2]))


if __name__ == "__main__":
    main()
