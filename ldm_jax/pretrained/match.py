"""Matches the arrays of a published file with parameters, by names and shapes alone.

One rule for all files: a network lies under that prefix, and in that naming, where most of its
arrays are found. So `first_stage_model.`, `vae/`, `ema.` or none need no case of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from flax import traverse_util

from ldm_jax.pretrained.array_layout import ArrayLayout, Shape
from ldm_jax.pretrained.name_rows import NameRow, Path
from ldm_jax.pretrained.report import Report, seems

Shapes = Mapping[str, Sequence[int]]

# Arrays of published files that are not parameters: what they are -> pattern of their names.
NOT_PARAMETERS = {
    "noise schedule": r"betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])|lvlb_weights",
    "scale factor of the latents": r"scale_factor",
    "marks of v-prediction": r"v_pred|ztsnr",
    "log-variance of the loss (never trained)": r"(loss\.)?logvar",
    "running statistics of BatchNorm (ldm_jax uses those of the batch)": r".*\.(running_mean"
    r"|running_var|num_batches_tracked)",
    "position numbers 0, 1, 2, ...": r".*position_ids",
    "output layer (never called)": r".*\bto_logits\.(weight|bias)",
    "LPIPS (read from a separate file)": r"loss\.perceptual_loss\..*",
    "discriminator (not requested)": r"loss\.discriminator\..*",
    "settings of the weight average (EMA)": r"model_ema\.(decay|num_updates)",
    "weight average of the loss (not requested)": r"model_ema\.loss.*",
}
# Modules that wrap a network (DistributedDataParallel, torch.compile, ...): no part of its names
WRAPPERS = r"(?<![^./])(module|_orig_mod|_forward_module|_fsdp_wrapped_module)\."
# Layers of attention: name in diffusers -> name in its older versions.
OLD_DIFFUSERS_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
FEW = 5  # a network of fewer arrays is recognised by its prefix


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
    component: str = ""
    """Folder in a diffusers pipeline, such as "unet"."""
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


@dataclass(frozen=True)
class Copy:
    """The arrays of a network in one place of a file."""

    slots: tuple[Slot, ...]
    prefix: str
    is_average: bool
    found: float
    """Share of the slots that the file has."""


Match = tuple[Report, dict[str, Slot]]  # the report, and name in the file -> slot


def check_keys(keys: Shapes, parts: Sequence[Part], *, ema: bool = True) -> Report:
    """Matches the names and shapes of a file with parameters of ldm_jax, one to one.

    Args:
      keys: name -> shape of every array in the file. Of a pipeline of diffusers: COMPONENT/NAME.
      parts: the networks to read.
      ema: use the averaged weights if the file has them.

    Returns:
      The report. `report.problem` is None if every parameter has its array, of the same shape, and
      every array is used or explained. A file that does not fit raises nothing.
    """
    return match(keys, parts, ema=ema)[0]


def match(keys: Shapes, parts: Sequence[Part], *, ema: bool = True) -> Match:
    """`check_keys`, and the slot of each array."""
    original = {plain_name(name): name for name in reversed(keys)}
    plain = {name: keys[original[name]] for name in reversed(original)}
    chosen, explained = [], {}
    for part in parts:
        copies = _copies(part, plain)
        best = _best(part, copies, ema)
        chosen.append(best)
        for copy in copies:
            what = _why_unused(part, copy, best)
            names = (name for slot in copy.slots for name in slot.names if name in plain)
            explained = {name: what for name in names} | explained
    report, found = _match(plain, chosen, parts, explained)
    name = lambda plain: original.get(plain, plain)  # noqa: E731
    report = replace(
        report,
        used={part: tuple(map(name, names)) for part, names in report.used.items()},
        wrong={name(plain): shapes for plain, shapes in report.wrong.items()},
        unknown=tuple(map(name, report.unknown)) + tuple(sorted({*keys} - {*original.values()})),
        unused={what: tuple(map(name, names)) for what, names in report.unused.items()},
    )
    return report, {name(plain): slot for plain, slot in found.items()}


def plain_name(name: str) -> str:
    """A name without the modules that wrap a network: `module.`, `_orig_mod.`, ..."""
    if name.startswith("model_ema."):
        return name.replace("_orig_mod", "")
    return re.sub(WRAPPERS, "", name)


def averaged(name: str) -> str:
    """The name of the average of a parameter in CompVis files."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def _copies(part: Part, keys: Shapes) -> list[Copy]:
    """All places of a file that hold much of a network."""
    shapes = _shapes(part)
    namings = [
        ([((row.compvis,), row.paths, row.layout) for row in part.rows], False),
        ([((row.compvis.replace(".", ""),), row.paths, row.layout) for row in part.rows], True),
        (
            [
                (tuple(_aliases(name)), (path,), ArrayLayout(transposed=row.layout.transposed))
                for row in part.rows
                for path, name in zip(row.paths, row.diffusers, strict=False)
            ],
            False,
        ),
    ]
    copies = []
    for naming, without_dots in filter(itemgetter(0), namings):
        for prefix in _prefixes(part, [names for names, *_ in naming], keys, without_dots):
            slots = tuple(
                Slot(
                    part.name,
                    tuple(prefix + name for name in names),
                    layout.shape([shapes[path] for path in paths]),
                    paths,
                    layout,
                )
                for names, paths, layout in naming
            )
            found = sum(any(name in keys for name in slot.names) for slot in slots) / len(slots)
            is_average = re.search(r"(^|[._/-])ema([._/-]|$)", prefix) is not None
            copies.append(Copy(slots, prefix, is_average, found))
    most = max((copy.found for copy in copies), default=0)
    return [copy for copy in copies if copy.found >= most / 2] or [_absent(part, shapes)]


def _absent(part: Part, shapes: Mapping[Path, Shape]) -> Copy:
    slots = (
        Slot(
            part.name,
            (part.prefix + row.compvis,),
            row.layout.shape([shapes[path] for path in row.paths]),
            row.paths,
            row.layout,
        )
        for row in part.rows
    )
    return Copy(tuple(slots), part.prefix, False, 0.0)


def _prefixes(
    part: Part, rows: Sequence[Sequence[str]], keys: Shapes, without_dots: bool
) -> set[str]:
    """Prefixes under which a few of the arrays are; others may be missing."""
    probes = rows[:: max(1, len(rows) // 8)]
    ends = "model_ema\\.\\w*" if without_dots else "|.*[./]"
    prefixes = {
        key.removesuffix(name) for names in probes for name in names for key in keys
        if key.endswith(name) and re.fullmatch(ends, key.removesuffix(name))
    }  # fmt: skip
    if len(part.rows) < FEW:
        known = part.prefix, part.prefix.replace(".", ""), f"{part.component or part.name}/"
        prefixes = {prefix for prefix in prefixes if prefix.endswith(known)}
    return prefixes


def _best(part: Part, copies: Sequence[Copy], ema: bool) -> Copy:
    def rank(copy: Copy) -> tuple:
        usual = bool(part.prefix) and copy.prefix.endswith(part.prefix)
        of_condition = "cond_stage" in copy.prefix and "cond_stage" not in part.prefix
        return copy.is_average != ema, not usual, of_condition, -copy.found, len(copy.prefix)

    return min(copies, key=rank)


def _why_unused(part: Part, copy: Copy, best: Copy) -> str:
    if copy.is_average != best.is_average:
        if best.is_average:
            return "weights whose average is used"
        return "average of weights that are used without averaging"
    return f"second copy of the {'first stage' if part.name == 'autoencoder' else part.name}"


def _aliases(name: str) -> Iterator[str]:
    """The names of an array in all versions of diffusers and transformers, the newest first."""
    yield name
    for new, old in OLD_DIFFUSERS_NAMES.items():
        if f".{new}." in name:
            yield name.replace(new, old)
    if name.startswith("text_model."):
        yield name.removeprefix("text_model.")


def _without_ones(shape: Sequence[int]) -> Shape:
    """Depending on its version, a program stores a dense layer as such or as a 1x1 convolution."""
    return _without_ones(shape[:-1]) if shape and shape[-1] == 1 else tuple(shape)


def _shapes(part: Part) -> dict[Path, Shape]:
    """Path -> shape of each parameter; ValueError unless the rows name each exactly once."""
    shapes = {p: leaf.shape for p, leaf in traverse_util.flatten_dict(part.shapes).items()}
    named = [path for row in part.rows for path in row.paths]
    if len(named) != len(shapes) or set(named) != set(shapes):
        odd = [".".join(map(str, path)) for path in set(named) ^ set(shapes)]
        raise ValueError(f"the rows of names do not fit this {part.name}: {sorted(odd)[:5]}")
    return shapes


def _match(
    keys: Shapes,
    chosen: Sequence[Copy],
    parts: Sequence[Part],
    explained: Mapping[str, str],
) -> Match:
    """Matches the slots of the chosen copies with the file's names."""
    found, missing, wrong = {}, [], {}
    for part, copy in zip(parts, chosen, strict=True):
        for slot in copy.slots:
            name = next((name for name in slot.names if name in keys), None)
            if name is not None:
                found[name] = slot
                if _without_ones(keys[name]) != _without_ones(slot.shape):
                    wrong[name] = tuple(keys[name]), slot.shape
            elif copy.found or not part.optional:
                missing.append(slot.names[0])
    prefixes = [copy.prefix for copy in chosen if copy.found]
    alone = not any(part.name in ("unet", "tau") for part in parts)
    unused, unknown = {}, []
    for name in keys:
        if name not in found:
            what = explained.get(name) or _not_parameter(name) or _elsewhere(name, prefixes, alone)
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
    what = NOT_PARAMETERS.items()
    return next((one for one, names in what if re.fullmatch(rf"(.*[./])?({names})", name)), None)


def _elsewhere(name: str, prefixes: Sequence[str], alone: bool) -> str | None:
    """What an array belongs to outside of all networks that are read."""
    folders = {prefix.split("/")[0] for prefix in prefixes if "/" in prefix}
    folder, slash, _ = name.partition("/")
    if slash and folder not in folders:
        return f"another part of the pipeline, {folder}"
    if alone and prefixes and not any(name.startswith(prefix) for prefix in prefixes):
        return "other networks of the file"
    return None
