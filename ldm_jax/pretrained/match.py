"""Which array of a published file goes where: names and shapes only, no array is touched."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flax import traverse_util

from ldm_jax.errors import UserError
from ldm_jax.pretrained.entry import Entry, Path
from ldm_jax.pretrained.layout import Layout, Shape
from ldm_jax.pretrained.report import Report, seems

Shapes = Mapping[str, Sequence[int]]

# What published files hold beside parameters.
KNOWN = {
    "noise schedule": r"betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])|lvlb_weights",
    "scale factor of the latents": r"scale_factor",
    "log-variance of the loss, which was never trained": r"(loss\.)?logvar",
    "running statistics of BatchNorm, where we have the batch's own": r".*\.(running_mean"
    r"|running_var|num_batches_tracked)",
    "positions, that is 0, 1, 2, ...": r".*position_ids",
    "output layer that is never called": r".*\bto_logits\.(weight|bias)",
    "LPIPS, which has a file of its own": r"loss\.perceptual_loss\..*",
    "discriminator, which is not asked for": r"loss\.discriminator\..*",
    "bookkeeping of the average": r"model_ema\.(decay|num_updates)",
}
# What older versions of diffusers call the layers of attention.
OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@dataclass(frozen=True)
class Part:
    """A network and where published files keep it."""

    name: str
    """Such as "autoencoder", "discriminator", "unet", "tau": its key among the parameters."""
    entries: tuple[Entry, ...]
    """Its rows of the table, from `names`."""
    shapes: Mapping
    """Our tree of its parameters, each with a `.shape`: nested dicts, as `nnx.to_pure_dict`."""
    prefix: str = ""
    """What its names begin with in CompVis files, such as "model.diffusion_model."."""
    component: str | None = None
    """Its folder in a diffusers pipeline, such as "unet"; None: diffusers does not have it."""
    optional: bool = False
    """A file may lack it as a whole; then it is left out of what is read."""

    @property
    def has_average(self) -> bool:
        """CompVis averages what is under `model.`, the diffusion model."""
        return self.prefix.startswith("model.")


@dataclass(frozen=True)
class Slot:
    """An array that a file should have, and where it goes."""

    part: str
    names: tuple[str, ...]
    """What it may be called there; the first that the file has is meant."""
    shape: Shape
    """As it is there."""
    ours: tuple[Path, ...]
    layout: Layout


Match = tuple[Report, dict[str, Slot]]  # and the file's name of an array -> its slot


def check_keys(keys: Shapes, parts: Sequence[Part], *, ema: bool = True) -> Report:
    """Matches the names and shapes of a CompVis file with our parameters, one to one.

    Args:
      keys: name -> shape of every array in the file.
      parts: what the file is to be read into.
      ema: averaged weights are taken where the file has them.

    Returns:
      the report; `report.problem` is None where every parameter has its array, of the same shape,
      and every array is used or explained. Nothing is raised about the file.
    """
    return match_compvis(keys, parts, ema=ema)[0]


def check_diffusers(keys: Mapping[str, Shapes], parts: Sequence[Part]) -> Report:
    """`check_keys` for a diffusers pipeline: component -> name -> shape.

    Names in the report are COMPONENT/NAME. Axes of size 1 at the end do not count: over the
    versions of diffusers a dense layer has been a 1x1 convolution and the other way round.

    Raises:
      UserError: diffusers does not have one of the parts, and it is not optional.
    """
    return match_diffusers(keys, parts)[0]


def match_compvis(keys: Shapes, parts: Sequence[Part], *, ema: bool) -> Match:
    """As `check_keys`, and with it where each array goes."""
    slots, explained = [], {}
    for part in parts:
        names = [part.prefix + row.compvis for row in part.entries]
        averages = [averaged(name) for name in names] if part.has_average else []
        if ema and any(name in keys for name in averages):
            names, others, what = averages, names, "weights whose average is used"
        else:
            others, what = averages, "average of weights that are used as they are"
        explained |= dict.fromkeys(others, what)
        shapes = _shapes(part)
        for name, row in zip(names, part.entries, strict=True):
            slots.append(_slot(part, shapes, [name], row.ours, row.layout))
    if not any(part.prefix == "cond_stage_model." for part in parts):
        # Where the condition is a latent too, its encoder is the first stage, stored once more.
        first_stage = [part for part in parts if part.prefix == "first_stage_model."]
        copies = [f"cond_stage_model.{row.compvis}" for p in first_stage for row in p.entries]
        explained |= dict.fromkeys(copies, "second copy of the first stage")
    return _match(keys, slots, parts, explained, tuple)


def match_diffusers(keys: Mapping[str, Shapes], parts: Sequence[Part]) -> Match:
    """As `check_diffusers`, and with it where each array goes."""
    slots = []
    for part in parts:
        if part.component is None and not part.optional:
            raise UserError(
                f"diffusers has no {part.name}: it can be read from a CompVis file only"
            )
        shapes = _shapes(part)
        for row in part.entries if part.component else ():
            layout = Layout(transposed=row.layout.transposed)
            for path, name in zip(row.ours, row.diffusers, strict=True):
                names = [f"{part.component}/{alias}" for alias in _aliases(name)]
                slots.append(_slot(part, shapes, names, (path,), layout))
    flat = {f"{folder}/{name}": s for folder, inside in keys.items() for name, s in inside.items()}
    return _match(flat, slots, parts, {}, _without_ones)


def averaged(name: str) -> str:
    """The name of the average of a parameter: no dots but the first."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def _aliases(name: str) -> Iterator[str]:
    """The names of an array in the versions of diffusers and transformers, today's first."""
    yield name
    for new, old in OLDER.items():
        if f".{new}." in name:
            yield name.replace(new, old)
    if name.startswith("text_model."):
        yield name.removeprefix("text_model.")


def _without_ones(shape: Sequence[int]) -> Shape:
    return _without_ones(shape[:-1]) if shape and shape[-1] == 1 else tuple(shape)


def _shapes(part: Part) -> dict[Path, Shape]:
    """Our paths and shapes, once it is sure that the table names each of them once."""
    shapes = {p: leaf.shape for p, leaf in traverse_util.flatten_dict(part.shapes).items()}
    named = [path for row in part.entries for path in row.ours]
    if len(named) != len(shapes) or set(named) != set(shapes):
        odd = [".".join(map(str, path)) for path in set(named) ^ set(shapes)]
        raise ValueError(f"the table of names is not that of this {part.name}: {sorted(odd)[:5]}")
    return shapes


def _slot(
    part: Part, shapes: Mapping[Path, Shape], names: Sequence[str], ours, layout: Layout
) -> Slot:
    shape = layout.shape([shapes[path] for path in ours])
    return Slot(part.name, tuple(names), shape, ours, layout)


def _match(
    keys: Shapes,
    slots: Sequence[Slot],
    parts: Sequence[Part],
    explained: Mapping[str, str],
    shape: Callable[[Sequence[int]], Shape],
) -> Match:
    """Slots and names; two shapes are equal if `shape` makes them equal."""
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
            what = explained.get(name) or _known(name)
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


def _known(name: str) -> str | None:
    return next((what for what, names in KNOWN.items() if re.fullmatch(names, name)), None)
