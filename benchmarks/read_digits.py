"""Does a run on MNIST draw the digit that was asked for? A classifier of real digits reads them.

    python benchmarks/read_digits.py runs/mnist --data-dir ~/tensorflow_datasets

Trains a small convolutional network on the real training set, prints its accuracy on the real test
set (the ceiling), then its reading of digits drawn from the run, as many of each class.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import ldm_jax
from ldm_jax.data.source import read_all
from ldm_jax.data.tfds import TfdsConfig, TfdsSource

BATCH, EPOCHS = 128, 2


class Reader(nnx.Module):
    """Three strided convolutions, a dense layer: `[B, 32, 32, 1]` in 0..1 -> logits `[B, 10]`."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = [(1, 16), (16, 32), (32, 64)]
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs) for a, b in sizes])
        self.out = nnx.Linear(4 * 4 * 64, 10, rngs=rngs)

    def __call__(self, x):
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.out(x.reshape(len(x), -1))


def train_reader(images: np.ndarray, labels: np.ndarray):
    """Returns (bytes `[n, 32, 32, 1]`) -> class int `[n]`, trained on these digits."""
    graph, params = nnx.split(Reader(nnx.Rngs(0)), nnx.Param)
    steps = EPOCHS * len(images) // BATCH
    tx = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    def logits(params, x):
        return nnx.merge(graph, params)(x.astype(jnp.float32) / 255.0)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, x, y):
        def loss(p):
            return optax.softmax_cross_entropy_with_integer_labels(logits(p, x), y).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, rng = tx.init(params), np.random.default_rng(0)
    for _ in range(EPOCHS):
        for rows in rng.permutation(len(images))[: steps // EPOCHS * BATCH].reshape(-1, BATCH):
            params, state = step(params, state, images[rows], labels[rows])
    read = jax.jit(lambda x: jnp.argmax(logits(params, x), axis=-1))
    return lambda x: np.concatenate([read(x[i : i + 500]) for i in range(0, len(x), 500)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run directory, trained on MNIST by class")
    parser.add_argument("--data-dir", default="~/tensorflow_datasets")
    parser.add_argument("--each", type=int, default=50, help="digits to draw of each class")
    parser.add_argument(
        "--guidance", type=float, help="guidance scale; that of the run if not given"
    )
    options = parser.parse_args()

    model = ldm_jax.load(options.run)
    config = TfdsConfig(name="mnist", dir=options.data_dir, size=32, fit="pad")
    train, test = (
        read_all(TfdsSource(config, split), progress=True).read(np.arange(n))
        for split, n in (("train", 60_000), ("test", 10_000))
    )
    read = train_reader(train["image"], train["class_label"])
    ceiling = np.mean(read(test["image"]) == test["class_label"])
    print(f"real test digits read right: {ceiling:.2%} of {len(test['image'])}")

    asked = np.repeat(np.arange(10), options.each)
    guidance = options.guidance or model.settings.guidance
    images = model.sample(asked, guidance=guidance, batch_size=50, progress="sampling")
    right = read(images) == asked
    each = " ".join(f"{d}: {right[asked == d].mean():.0%}" for d in range(10))
    print(f"drawn digits read as asked, guidance {guidance}: {right.mean():.2%} of {len(asked)}")
    print(each)


if __name__ == "__main__":
    main()
