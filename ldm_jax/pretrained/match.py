"""Matches the arrays of a published file with parameters, by names and shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flax import traverse_util

from ldm_jax.errors import UserError
from ldm_jax.pretrained.array_layout import ArrayLayout, Shape
from ldm_jax.pretrained.name_rows import NameRow, Path
from ldm_jax.pretrained.report import Report, seems

Shapes = Mapping[str, Sequence[int]]

# Arrays of published files that are not parameters: what they are -> pattern of their names.
NOT_PARAMETERS = {
    "noise schedule": r"betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])|lvlb_weights",
    "scale factor of the latents": r"scale_factor",
    "log-variance of the loss (never trained)": r"(loss\.)?logvar",
    "running statistics of BatchNorm (ldm_jax uses those of the batch)": r".*\.(running_mean"
    r"|running_var|num_batches_tracked)",
    "position numbers 0, 1, 2, ...": r".*position_ids",
    "output layer (never called)": r".*\bto_logits\.(weight|bias)",
    "LPIPS (read from a separate file)": r"loss\.perceptual_loss\..*",
    "discriminator (not requested)": r"loss\.discriminator\..*",
    "settings of the weight average (EMA)": r"model_ema\.(decay|num_updates)",
}
# Layers of attention: name in diffusers -> name in its older versions.
OLD_DIFFUSERS_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@dataclass(frozen=True)
class Part:
    """A network, and where it is in published files."""

    name: str
    """Key among the parameters: "autoencoder", "discriminator", "unet" or "tau"."""
    rows: tuple[NameRow, ...]
    """The names of its parameters, from `names`."""
    shapes: Mapping
    """Its parameters in ldm_jax as nested dicts; each leaf has a `.shape`."""
    prefix: str = ""
    """Prefix of its names in CompVis files, such as "model.diffusion_model."."""
    component: str | None = None
    """Folder in a diffusers pipeline, such as "unet"; None: diffusers does not have it."""
    optional: bool = False
    """The file need not have it; then it is not read."""

    @property
    def has_average(self) -> bool:
        """CompVis averages only what is under `model.`: the diffusion model."""
        return self.prefix.startswith("model.")


@dataclass(frozen=True)
class Slot:
    """An array that a file should have, and the parameters that it holds."""

    part: str
    names: tuple[str, ...]
    """Possible names in the file; the first that exists is used."""
    shape: Shape
    """Shape in the file."""
    paths: tuple[Path, ...]
    """Paths of the parameters in the tree of ldm_jax."""
    layout: ArrayLayout


Match = tuple[Report, dict[str, Slot]]  # the report, and name in the file -> slot


def check_keys(keys: Shapes, parts: Sequence[Part], *, ema: bool = True) -> Report:
    """Matches the names and shapes of a CompVis file with parameters of ldm_jax, one to one.

    Args:
      keys: name -> shape of every array in the file.
      parts: the networks to read.
      ema: use the averaged weights if the file has them.

    Returns:
      The report. `report.problem` is None if every parameter has its array, of the same shape, and
      every array is used or explained. A file that does not fit raises nothing.
    """
    return match_compvis(keys, parts, ema=ema)[0]


def check_diffusers(keys: Mapping[str, Shapes], parts: Sequence[Part]) -> Report:
    """`check_keys` for a diffusers pipeline: component -> name -> shape.

    Names in the report are COMPONENT/NAME. Axes of size 1 at the end are ignored: depending on the
    version of diffusers, a layer is dense or a 1x1 convolution.

    Raises:
      UserError: diffusers does not have one of the parts that are not optional.
    """
    return match_diffusers(keys, parts)[0]


def match_compvis(keys: Shapes, parts: Sequence[Part], *, ema: bool) -> Match:
    """`check_keys`, and the slot of each array."""
    slots, explained = [], {}
    for part in parts:
        names = [part.prefix + row.compvis for row in part.rows]
        averages = [averaged(name) for name in names] if part.has_average else []
        if ema and any(name in keys for name in averages):
            names, unused, what = averages, names, "weights whose average is used"
        else:
            unused, what = averages, "average of weights that are used without averaging"
        explained |= dict.fromkeys(unused, what)
        shapes = _shapes(part)
        for name, row in zip(names, part.rows, strict=True):
            slots.append(_slot(part, shapes, [name], row.paths, row.layout))
    if not any(part.prefix == "cond_stage_model." for part in parts):
        # If the condition is a latent, its encoder is the first stage, and the file has it twice.
        first_stage = [part for part in parts if part.prefix == "first_stage_model."]
        copies = [f"cond_stage_model.{row.compvis}" for p in first_stage for row in p.rows]
        explained |= dict.fromkeys(copies, "second copy of the first stage")
    return _match(keys, slots, parts, explained, tuple)


def match_diffusers(keys: Mapping[str, Shapes], parts: Sequence[Part]) -> Match:
    """`check_diffusers`, and the slot of each array."""
    slots = []
    for part in parts:
        if part.component is None and not part.optional:
            raise UserError(f"diffusers has no {part.name}; only a CompVis file can have it")
        shapes = _shapes(part)
        for row in part.rows if part.component else ():
            layout = ArrayLayout(transposed=row.layout.transposed)
            for path, name in zip(row.paths, row.diffusers, strict=True):
                names = [f"{part.component}/{alias}" for alias in _aliases(name)]
                slots.append(_slot(part, shapes, names, (path,), layout))
    flat = {f"{folder}/{name}": s for folder, inside in keys.items() for name, s in inside.items()}
    return _match(flat, slots, parts, {}, _without_ones)


def averaged(name: str) -> str:
    """The name of the average of a parameter in CompVis files."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def _aliases(name: str) -> Iterator[str]:
    """The names of an array in all versions of diffusers and transformers, the newest first."""
    yield name
    for new, old in OLD_DIFFUSERS_NAMES.items():
        if f".{new}." in name:
            yield name.replace(new, old)
    if name.startswith("text_model."):
        yield name.removeprefix("text_model.")


def _without_ones(shape: Sequence[int]) -> Shape:
    return _without_ones(shape[:-1]) if shape and shape[-1] == 1 else tuple(shape)


def _shapes(part: Part) -> dict[Path, Shape]:
    """Path -> shape of each parameter; ValueError unless the rows name each exactly once."""
    shapes = {p: leaf.shape for p, leaf in traverse_util.flatten_dict(part.shapes).items()}
    named = [path for row in part.rows for path in row.paths]
    if len(named) != len(shapes) or set(named) != set(shapes):
        odd = [".".join(map(str, path)) for path in set(named) ^ set(shapes)]
        raise ValueError(f"the rows of names do not fit this {part.name}: {sorted(odd)[:5]}")
    return shapes


def _slot(
    part: Part, shapes: Mapping[Path, Shape], names: Sequence[str], paths, layout: ArrayLayout
) -> Slot:
    shape = layout.shape([shapes[path] for path in paths])
    return Slot(part.name, tuple(names), shape, paths, layout)


def _match(
    keys: Shapes,
    slots: Sequence[Slot],
    parts: Sequence[Part],
    explained: Mapping[str, str],
    shape: Callable[[Sequence[int]], Shape],
) -> Match:
    """Matches the slots with the file's names; `shape` normalises shapes before a comparison."""
    present = {slot.part for slot in slots if any(name in keys for name in slot.names)}
    wanted = {part.name for part in parts if not part.optional} | present
    found, missing, wrong = {}, [], {}
    for slot in slots:
        name = next((name for name in slot.names if name in keys), None)
        if name is not None:
            found[name] = slot
            if shape(keys[name]) != shape(slot.shape):
                wrong[name] = tuple(keys[name]), slot.shape
        elif slot.part in wanted:
            missing.append(slot.names[0])
    unused, unknown = {}, []
    for name in keys:
        if name not in found:
            what = explained.get(name) or _not_parameter(name)
            (unused.setdefault(what, []) if what else unknown).append(name)
    used = {part.name: [n for n in found if found[n].part == part.name] for part in parts}
    report = Report(
        used={part: tuple(names) for part, names in used.items() if names},
        parameters={
            part: sum(math.prod(found[name].shape) for name in names)
            for part, names in used.items()
            if names
        },
        missing=tuple(missing),
        wrong=wrong,
        unknown=tuple(unknown),
        unused={what: tuple(names) for what, names in unused.items()},
        seems=seems(keys),
    )
    return report, found


def _not_parameter(name: str) -> str | None:
    return next((what for what, names in NOT_PARAMETERS.items() if re.fullmatch(names, name)), None)
