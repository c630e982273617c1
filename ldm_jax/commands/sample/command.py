"""The options of `python sample.py`, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import tyro

from ldm_jax.bounds import LARGEST_SIDE, Bounds, Count, Finite, Seed, Side, violations
from ldm_jax.commands.hosts import Hosts
from ldm_jax.commands.sample.outputs import OutputKind, output_kind
from ldm_jax.errors import UserError
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.shipped import DEFAULT

File = Annotated[str, tyro.conf.arg(metavar="FILE")]
Texts = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]
JobName = Literal["draw", "edit", "interpolate", "invert", "reconstruct"]


@dataclass(frozen=True)
class ConditionOptions:
    """Conditions: what the model was trained on. Files: images have the size that the file has, but
    for a border that the networks cannot have; or --height and --width, to which it is cropped and
    resized. For in-painting: --image and --mask."""

    prompt: Texts = ()
    """Prompts, each in quotes, for a model of captions."""
    class_label: Texts = ()
    """Names or numbers of classes, or all, for a model of classes; with --classifier-scale, for any
    model, the classes to guide towards: one for each prompt, or one for all."""
    negative_prompt: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """What guidance leads away from, for a model of captions: one for all prompts."""
    from_file: File = ""
    """A text file with one prompt or class a line."""
    layout: File = ""
    """Boxes, as shares of the image: {"objects": [{"label": "red ball", "box": [left, top, right,
    bottom]}, ...]}, or a list of such."""
    semantic_map: File = ""
    """A .png whose pixels are class numbers."""
    low_res: File = ""
    """An image to enlarge, f times."""
    embedding: File = ""
    """A .npy with an embedding, or several of one image: floats [dim] or [M, dim]."""


@dataclass(frozen=True)
class EditOptions:
    """Editing: --image changes an image, --interpolate goes between two conditions or seeds,
    --invert finds the noise of an image, --reconstruct encodes and decodes images."""

    image: File = ""
    """An image to start from, cropped to the proportions of --height and --width and resized."""
    strength: Finite | None = None
    """How much of --image is changed, above 0 up to 1: the last round(strength S) of the S steps
    are made. Left out: 0.6, or 1 with --mask or --outpaint."""
    mask: File = ""
    """An image as large as --image, white where it is to be filled; other pixels are unchanged, and
    so are those where the mask is transparent. alpha: fills where --image is transparent."""
    outpaint: Annotated[tuple[int, ...], Bounds(0, LARGEST_SIDE)] = ()
    """Pixels to add to --image: on each side; above and below, left and right; or top, right,
    bottom, left."""
    interpolate: Annotated[int, Bounds(2, 10_000, why="it counts both ends")] | None = None
    """Number of images from one of two prompts or classes to the other, from the same noise; or
    from --seed to --to-seed. --num-images is the number of rows."""
    to_seed: Seed | None = None
    """The seed where --interpolate ends."""
    along: Literal["sphere", "line"] | None = None
    """The path of --interpolate. Left out: sphere between seeds, line between conditions."""
    invert: File = ""
    """An image: finds the noise from which DDIM draws it, draws it again, and measures."""
    reconstruct: Annotated[str, tyro.conf.arg(metavar="FILE|FOLDER")] = ""
    """An image, or a folder of images, to encode and decode."""


@dataclass(frozen=True)
class GuideOptions:
    """Guides (App. C): the model's classifier guides towards --class-label, --guide-image towards
    an image."""

    classifier_scale: Finite = 0.0
    """Scale s of the classifier that train.py --stage classifier has trained; 0: none."""
    guide_image: File = ""
    """An image to resemble, cropped to the proportions of --height and --width and resized."""
    guide_scale: Finite = 1.0
    """Scale s of --guide-image. With noise in every step, --eta 1, it works best."""
    guide_factor: Side = 1
    """Downsampling factor n at which both are compared. There are n^2 times fewer pixels then, so
    each should count more: --guide-scale n^2."""


@dataclass(frozen=True)
class SampleCommand:
    """Samples images from a trained model: a grid, an animation, an array, or single files.

    Options of sampling that are left out are those of the model's own configuration.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = DEFAULT
    """The run directory, such as runs/scenes, or the name of a model that comes with the package.
    """
    num_images: Annotated[int, Bounds(1, 10_000_000)] = 4
    """Images for each prompt, class or other condition; in all for an unconditional model."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE|FOLDER")] = "samples.png"
    """Where they go: FILE.png a grid, FILE.gif an animation of the denoising, FILE.npz one array
    (ADM's format), FOLDER single images. The same command completes an array or folder that was
    interrupted. The settings are in the metadata."""
    trajectory: Count = 0
    """In the grid, this number of estimates of z_0 on the way to each image; 0: none."""
    condition: tyro.conf.OmitArgPrefixes[ConditionOptions] = ConditionOptions()
    sampling: tyro.conf.OmitArgPrefixes[SamplingSettings] = SamplingSettings()
    edit: tyro.conf.OmitArgPrefixes[EditOptions] = EditOptions()
    guide: tyro.conf.OmitArgPrefixes[GuideOptions] = GuideOptions()
    hosts: Hosts = field(default_factory=Hosts)

    @property
    def job(self) -> JobName:
        """Which of the five jobs it is."""
        edit = self.edit
        if edit.reconstruct:
            return "reconstruct"
        if edit.invert:
            return "invert"
        if edit.interpolate is not None:
            return "interpolate"
        return "edit" if edit.image else "draw"


def given(options: Any, default: Any | None = None) -> dict[str, Any]:
    """The fields of a dataclass that differ from its defaults, by name."""
    default = type(options)() if default is None else default
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


# Job: the option that asks for it, the outputs that it has, and the options that it understands
# beside those of `_ALWAYS`.
_CONDITIONS = {
    "prompt",
    "class_label",
    "from_file",
    "layout",
    "semantic_map",
    "low_res",
    "embedding",
}
_NEGATIVE = {"negative_prompt"}
_SIZE = {"height", "width", "window", "tile"}
_GUIDES = {"classifier_scale", "guide_image", "guide_scale", "guide_factor"}
_ALWAYS = {"num_images", "out"} | {f.name for f in fields(SamplingSettings)} - _SIZE
JOBS: dict[JobName, tuple[str, set[OutputKind], set[str]]] = {
    "draw": (
        "",
        {"grid", "animation", "archive", "folder"},
        _CONDITIONS | _NEGATIVE | _SIZE | _GUIDES | {"trajectory"},
    ),
    "edit": (
        "image",
        {"grid", "animation", "archive", "folder"},
        _CONDITIONS
        | _NEGATIVE
        | _SIZE
        | _GUIDES
        | {"image", "strength", "mask", "outpaint", "trajectory"},
    ),
    "interpolate": (
        "interpolate",
        {"grid", "archive", "folder"},
        _CONDITIONS | _NEGATIVE | _SIZE | {"interpolate", "to_seed", "along"},
    ),
    "invert": ("invert", {"grid"}, _CONDITIONS | _SIZE | {"invert"}),
    "reconstruct": ("reconstruct", {"grid"}, {"reconstruct"}),
}
# Options that need another one, and pairs that do not go together.
_NEEDS = {
    "strength": "image",
    "mask": "image",
    "outpaint": "image",
    "to_seed": "interpolate",
    "along": "interpolate",
    "guide_scale": "guide_image",
    "guide_factor": "guide_image",
}
_CONFLICTS = [
    ("mask", "outpaint"),
    ("strength", "outpaint"),
    ("classifier_scale", "outpaint"),
    ("guide_image", "outpaint"),
    ("timesteps", "steps"),
    ("timesteps", "spacing"),
]


def check_options(command: SampleCommand, own: SamplingSettings | None = None) -> OutputKind:
    """Raises UserError for options that do not go together; reads no file. The kind of output.

    Args:
      own: the settings of the model, which are those of the command where it says nothing.
    """
    groups = (command.condition, command.sampling, command.edit, command.guide)
    alone = SampleCommand(command.model, command.num_images, command.out, command.trajectory)
    if problems := [text for part in (alone, *groups) for text in violations(part)]:
        raise UserError("; ".join(problems))
    options = {}
    for group in groups:
        options |= given(group, own if group is command.sampling else None)
    if command.trajectory:
        options["trajectory"] = command.trajectory
    jobs = [name for name, *_ in JOBS.values() if name in options]
    if len(jobs) > 1:
        raise UserError(f"{' and '.join(map(option, jobs))} do not go together: one at a time")
    for name, needed in _NEEDS.items():
        if name in options and needed not in options:
            raise UserError(f"{option(name)} needs {option(needed)}")
    for one, other in _CONFLICTS:
        if one in options and other in options:
            raise UserError(f"{option(one)} and {option(other)} do not go together: one at a time")
    name, outputs, known = JOBS[command.job]
    if unknown := [n for n in options if n not in known | _ALWAYS]:
        raise UserError(f"{option(name)} takes no {option(unknown[0])}")
    kind = output_kind(command.out)
    if kind not in outputs:
        raise UserError(f"--out is {command.out!r}; with {option(name)} it is {_files(outputs)}")
    if command.trajectory and kind != "grid":
        raise UserError("--trajectory is a number of columns of a grid: --out FILE.png")
    return kind


def option(name: str) -> str:
    """A field as the command line spells it."""
    return f"--{name.replace('_', '-')}"


def _files(outputs: set[OutputKind]) -> str:
    endings = {
        "grid": "FILE.png",
        "animation": "FILE.gif",
        "archive": "FILE.npz",
        "folder": "FOLDER",
    }
    return " or ".join(text for kind, text in endings.items() if kind in outputs)
