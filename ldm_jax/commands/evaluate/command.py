"""The options of `python -m ldm_jax evaluate`, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from ldm_jax.bounds import Bounds, violations
from ldm_jax.commands import cli
from ldm_jax.commands.hosts import Hosts
from ldm_jax.data.folder import FolderConfig
from ldm_jax.data.open import DataConfig
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.data.tfds import TfdsConfig
from ldm_jax.errors import UserError
from ldm_jax.evaluation.features import FeatureName
from ldm_jax.evaluation.measures import FEWEST
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.resume import same_split
from ldm_jax.paths import check_output, user_path
from ldm_jax.sampling.settings import SamplingSettings

PROGRAM = "python -m ldm_jax evaluate"
NUM_SAMPLES = 1000
Images = Annotated[str, tyro.conf.arg(metavar="FILE|FOLDER")]


@dataclass(frozen=True)
class EvaluateCommand:
    """Compares samples and reconstructions of a model with held-out images, by KID, Frechet
    distance, sliced Wasserstein distance, precision, recall, density and coverage; or any two sets
    of images. Writes evaluation.json and evaluation.png.

    Options of sampling and data that are left out are those of the model's own configuration.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = ""
    """The run directory, such as runs/scenes, or the name of a model that comes with the package;
    left out: --samples are judged alone."""
    samples: Images = ""
    """Images to judge in place of samples from the model: a FILE.npz (ADM's format: arr_0, uint8
    [n, H, W, 3]), or a folder of images of one size."""
    real: Images = ""
    """Images to compare with in place of held-out images of the data; likewise."""
    num_samples: Annotated[int, Bounds(FEWEST, 10_000_000)] | None = None
    """Images that are sampled. Left out: 1000; of --samples, all."""
    features: tuple[FeatureName, ...] = ()
    """Networks whose features are compared, each by itself. Left out: those that are installed and
    fit the data."""
    weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NETWORK=FILE")] = ()
    """Files of weights: inception=FILE, where it is not to be downloaded, and squeezenet=FILE, with
    which LPIPS is measured, too."""
    training: bool = False
    """Also find the nearest training image of each sample, to see what was memorised."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = ""
    """Where the results go. Left out: the folder evaluation of the run, or here without a run."""
    sampling: tyro.conf.OmitArgPrefixes[SamplingSettings] = SamplingSettings()
    data: tyro.conf.AvoidSubcommands[DataConfig] = field(default_factory=ScenesConfig)
    hosts: Hosts = field(default_factory=Hosts)

    @property
    def folder(self) -> str:
        """Where the results go."""
        if self.out or not self.model or not user_path(self.model).is_dir():
            return self.out or "evaluation"
        return str(user_path(self.model) / "evaluation")

    @property
    def weight_files(self) -> dict[str, str]:
        """--weights: network -> file."""
        return dict(word.split("=", 1) for word in self.weights)


def parse(words: Sequence[str], model: LatentDiffusion | None = None) -> EvaluateCommand:
    """The command, with what it leaves out as the model's own configuration says.

    `--data.path` makes a folder of the data, and `--data.name` a set of TFDS, whatever the model
    was trained on.
    """
    own: DataConfig = ScenesConfig() if model is None else model.config.data
    if model is not None:
        own = same_split(own, model.info)
    named = {word.partition("=")[0].replace("_", "-") for word in words}
    for option, kind in (("--data.path", FolderConfig), ("--data.name", TfdsConfig)):
        if option in named and not isinstance(own, kind):
            own = kind(size=own.size)
    default = EvaluateCommand(data=own)
    if model is not None:
        default = replace(default, sampling=model.settings)
    return cli.parse(EvaluateCommand, words, PROGRAM, default)


def parse_without_data(words: Sequence[str]) -> EvaluateCommand:
    """The command but for its data, whose options depend on the model that it names."""
    kept, skip = [], 0
    for word in words:
        if word.startswith("--data."):
            values = 2 if word.replace("_", "-") == "--data.value-range" else 1
            skip = 0 if "=" in word else values
        elif skip and not word.startswith("--"):
            skip -= 1
        else:
            kept.append(word)
            skip = 0
    return parse(kept)


def check_options(command: EvaluateCommand, words: Sequence[str]) -> None:
    """Raises UserError for options that do not go together, and for a folder that cannot be."""
    others = replace(command, sampling=SamplingSettings())  # whose options have no prefix
    if problems := [*violations(others), *violations(command.sampling)]:
        raise UserError("; ".join(problems))
    if not command.model and not command.samples:
        raise UserError("nothing to judge: give a MODEL, such as runs/scenes, or --samples FILE")
    has_data = any(word.startswith("--data.") for word in words)
    if not command.model and not command.real and not has_data:
        raise UserError("nothing to compare with: give --real FILE, --data.path FOLDER or a MODEL")
    if command.real and has_data:
        raise UserError("--real and --data do not go together: one set of images to compare with")
    if command.real and command.training:
        raise UserError("--training needs training images, and --real has none: leave one out")
    if command.samples and command.num_samples is not None:
        raise UserError("--num-samples is for a model: all images of --samples are judged")
    for word in command.weights:
        name, _, file = word.partition("=")
        if name not in ("inception", "squeezenet", "efficientnet-lite0") or not file:
            raise UserError(
                f"--weights {word}: give NETWORK=FILE, such as inception=FILE or squeezenet=FILE"
            )
        if not user_path(file).is_file():
            raise UserError(f"--weights {word}: there is no file {file}")
    for name in command.features:
        if command.features.count(name) > 1:
            raise UserError(f"--features names {name} twice")
    if user_path(command.folder).suffix:
        raise UserError(f"--out is {command.folder!r}; it is a folder")
    check_output(command.folder)
