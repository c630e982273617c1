"""Does the nearest-neighbour check tell copies of training images from new images?

    python benchmarks/copies.py --name tiny_imagenet --dir DIR

takes photographs of a TFDS set as training and held-out images, and makes "samples" of others and
of the training images themselves, unchanged, blurred, as JPEG, mirrored. Prints how often such a
sample is nearer to a training image than a held-out image is, and what the check says.
"""

import argparse
import io

import numpy as np
from PIL import Image

from ldm_jax.commands.train.nearest import nearest_check
from ldm_jax.data.source import ArraySource
from ldm_jax.data.tfds import TfdsConfig, TfdsSource
from ldm_jax.model.data import OpenData
from ldm_jax.model.data_info import DataInfo

SETS = ((1000, 64), (54, 6))  # training and held-out images
SAMPLES = 256


def blurred(images, n):
    """Made n times smaller, and enlarged again."""
    h, w = images.shape[1:3]
    small = [Image.fromarray(x).resize((w // n, h // n), Image.Resampling.BICUBIC) for x in images]
    return np.stack([np.asarray(x.resize((w, h), Image.Resampling.BICUBIC)) for x in small])


def as_jpeg(images, quality):
    """What is left of them in files of a quality."""
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image).save(file, format="jpeg", quality=quality)
    return np.stack([np.asarray(Image.open(file)) for file in files])


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--name", default="tiny_imagenet", help="of a prepared TFDS set")
    arguments.add_argument("--dir", default="~/tensorflow_datasets", help="where it lies")
    options = arguments.parse_args()
    source = TfdsSource(TfdsConfig(name=options.name, dir=options.dir, size=64), "train")
    rows = np.random.default_rng(0).permutation(len(source))
    images = source.read(rows[: sum(SETS[0]) + SAMPLES])["image"]
    print(
        "| training, held out | samples | nearer, of pairs | p-value | check |\n" + "|---" * 5 + "|"
    )
    for training, held_out in SETS:
        train, held, others = np.split(images, [training, training + held_out])
        others, copies = others[:SAMPLES], train[:SAMPLES]
        sets = {
            "other photographs": others,
            "others, blurred 4x": blurred(others, 4),
            "others, JPEG of quality 5": as_jpeg(others, 5),
            "training images, blurred 2x": blurred(copies, 2),
            "training images, blurred 4x": blurred(copies, 4),
            "training images, mirrored": copies[:, :, ::-1],
            "one in four a training image, blurred 2x": np.concatenate(
                [blurred(copies[::4], 2), others[: 3 * len(copies[::4])]]
            ),
        }
        sources = (ArraySource({"image": x}) for x in (train, held))
        data = OpenData(*sources, DataInfo(3, "none"), flip=False)
        for name, samples in sets.items():
            found, _ = nearest_check(data, samples)
            verdict = "passed" if found["passed"] else "failed"
            numbers = f"{found['closer']:.1%} | {found['p_value']:.2g} | {verdict}"
            print(f"| {training}, {held_out} | {len(samples)} x {name} | {numbers} |")


if __name__ == "__main__":
    main()
