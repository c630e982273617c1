"""The autoencoders of `zoo.py`: what each is told, beyond what all are told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STEPS = 1400
# The same for all: data (scenes of one object at 32x32), seed and batch are those of `scenes`.
COMMON = """
    --stage autoencoder --autoencoder.init-gain 2.45 --autoencoder.loss.equivariance-weight 0
    --autoencoder.optimiser.kind adam --autoencoder.optimiser.learning-rate 4e-3
    --autoencoder.progress.preview-every 1000000 --autoencoder.progress.save-every 500
    --autoencoder.loss.perceptual squeezenet --autoencoder.loss.perceptual-weight 0.3
    --autoencoder.loss.kl-weight 1e-6
"""
# Channels of each level, in units of 8, so that every network has 0.3 to 0.65 M parameters.
NETWORKS = {2: "2 6", 4: "2 4 7", 8: "2 4 6 6", 16: "2 4 5 5 5"}
PIXELS = "--autoencoder.loss.perceptual-weight 0 --autoencoder.loss"
LPIPS = "--autoencoder.loss.perceptual-weight 1 --autoencoder.loss.l2-weight 0"
ADVERSARY = (
    "--autoencoder.loss.disc-weight 0.5 "
    "--autoencoder.discriminator.channels 32 --autoencoder.discriminator.layers 2"
)


@dataclass(frozen=True)
class Member:
    """An autoencoder."""

    title: str
    """How it is called in table and figure."""
    f: int
    """Downsampling factor."""
    channels: int
    """Of the latent."""
    words: str = ""
    """For train.py."""
    packed: bool = False
    """Whether its weights come with the package."""
    moments: tuple[int, ...] = ()
    """Steps at which it is judged before the last; 0 is before the first step."""
    packed_at: int = 0
    """The moment whose weights come with the package, too; 0: none."""


def _of_kl(weight: str, **more) -> Member:
    words = f"--autoencoder.loss.kl-weight {weight}"
    return Member(f"KL weight {weight}", 4, 4, words, packed=True, **more)


def _of_loss(title: str, words: str) -> Member:
    return Member(title, 8, 4, words)


MEMBERS = {
    # As many latent values for each f: 256
    "f2": Member("f = 2", 2, 1),
    "f4": Member("f = 4", 4, 4, packed=True, moments=(0, 100, 500), packed_at=100),
    "f8": Member("f = 8", 8, 16),
    "f16": Member("f = 16", 16, 64),
    # As many channels for each f: 4
    "f2-c4": Member("f = 2", 2, 4),
    "f8-c4": Member("f = 8", 8, 4),
    "f16-c4": Member("f = 16", 16, 4),
    # The bottleneck of f4, whose KL weight is 1e-6
    "kl-0": _of_kl("0"),
    "kl-3e-3": _of_kl("3e-3"),
    "kl-0.1": _of_kl("0.1"),
    "vq": Member(
        "VQ, 1024 codes",
        4,
        4,
        "--autoencoder.network.bottleneck vq --autoencoder.network.codebook-size 1024 "
        "--autoencoder.reset-dead-codes-every 100",
        packed=True,
    ),
    # The loss, where 64 latent values are too few
    "l2": _of_loss("L2", f"{PIXELS}.l1-weight 0"),
    "l1": _of_loss("L1", f"{PIXELS}.l2-weight 0"),
    "lpips": _of_loss("L1 + LPIPS", LPIPS),
    "adversary": _of_loss("L1 + LPIPS + adversary", f"{LPIPS} {ADVERSARY}"),
}
# Which members are compared with which: blocks of the figure and of the table.
GROUPS = {
    "f, 256 latent values each": ("f2", "f4", "f8", "f16"),
    "f, 4 latent channels each": ("f2-c4", "f4", "f8-c4", "f16-c4"),
    "bottleneck, f = 4": ("kl-0", "f4", "kl-3e-3", "kl-0.1", "vq"),
    "loss, f = 8, 64 latent values": ("l2", "l1", "lpips", "adversary"),
}
TITLES = {("bottleneck, f = 4", "f4"): "KL weight 1e-6"}


def title(group: str, name: str) -> str:
    """How a member is called among those of its group."""
    return TITLES.get((group, name), MEMBERS[name].title)


def words(
    name: str, steps: int, perceptual_file: str | Path, more: Sequence[str] = ()
) -> list[str]:
    """What `python train.py` is to be told to train a member, but for where and how far.

    Args:
      steps: of the whole training, over which the learning rate falls; the adversary, where there
        is one, joins after three fifths of them: its rate is the same, and at
        first this would move its weights, drawn with a deviation of 0.02, by a fifth at each step.
      more: for all members alike.
    """
    one = MEMBERS[name]
    network = (
        f"--autoencoder.network.channels 8 --autoencoder.network.channel-mult {NETWORKS[one.f]} "
        f"--autoencoder.network.z-channels {one.channels}"
    )
    joins = 3 * steps // 5
    course = f"--autoencoder.optimiser.decay-steps {steps} --autoencoder.loss.disc-start {joins}"
    file = ["--autoencoder.loss.perceptual-file", str(perceptual_file)]
    parts = (COMMON, network, course, one.words)
    return ["scenes", *(word for part in parts for word in part.split()), *file, *more]
