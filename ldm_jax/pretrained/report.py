"""The report on how each array of a published file was matched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ldm_jax.pretrained.array_layout import Shape

# Files that are no model of ldm_jax: what they are -> pattern of a name in them
OTHERS = {
    "a LoRA, which changes another model's weights: merge it into them first": r"\.lora\."
    r"|(^|\.)lora_(unet|te)|lora_(up|down|A|B)\b",
    "an embedding of textual inversion": r"^(string_to_param|emb_params|<.*>)",
    "a ControlNet": r"(^|\.)control_model\.|controlnet_cond_embedding",
    "Stable Diffusion XL": r"conditioner\.embedders\.|add_embedding\.linear_1|text_encoder_2/",
    "Stable Diffusion 2 (its text encoder is OpenCLIP)": r"cond_stage_model\.model\."
    r"(transformer|token)",
    "a transformer for diffusion (Stable Diffusion 3, Flux, DiT)": r"(joint|double)_blocks\.|"
    r"adaLN_modulation",
}


@dataclass(frozen=True)
class Report:
    """How each array of a file was matched, and which arrays it lacks."""

    used: Mapping[str, tuple[str, ...]]
    """Part -> names of its arrays in the file; parts that the file lacks are left out."""
    parameters: Mapping[str, int]
    """Part -> number of parameters."""
    missing: tuple[str, ...] = ()
    """Names that the file should have but lacks."""
    wrong: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)
    """Name -> (shape in the file, required shape)."""
    unknown: tuple[str, ...] = ()
    """Names in the file that could not be identified."""
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Description -> names that were identified but are not needed."""
    seems: str = ""
    """Description of what the file seems to hold; '' if unclear."""

    @property
    def problem(self) -> str | None:
        """One line that says why the file does not fit; None if it fits."""
        problems = self._problems(examples=2)
        return f"the weights do not fit: {'; '.join(problems)}" if problems else None

    def summary(self) -> str:
        """Readable lines: what is used, what is not used and why, and what is wrong."""
        lines = [
            f"{part}: {self.parameters[part]:,} parameters in {_arrays(names)}"
            for part, names in self.used.items()
        ]
        lines += [f"not needed: {_arrays(names)}: {what}" for what, names in self.unused.items()]
        return "\n".join(lines + self._problems(examples=10))

    def _problems(self, examples: int) -> list[str]:
        wrong = [f"{name} is {_x(has)}, not {_x(need)}" for name, (has, need) in self.wrong.items()]
        kinds = {"missing": self.missing, "of another shape": wrong, "unknown": self.unknown}
        lines = [
            f"{_arrays(names)} {kind} ({', '.join(names[:examples])}"
            f"{', ...' if len(names) > examples else ''})"
            for kind, names in kinds.items()
            if names
        ]
        return lines + [f"the file seems to hold {self.seems}"] * bool(lines and self.seems)


def _arrays(names: Sequence[str]) -> str:
    return f"{len(names):,} array{'s' * (len(names) != 1)}"


def _x(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def seems(shapes: Mapping[str, Shape]) -> str:
    """Describes a file by a few characteristic names in it; '' if it has none of them."""

    def first(pattern: str, axes: int) -> Shape | None:
        matches = (s for name, s in shapes.items() if re.search(pattern, name) and len(s) == axes)
        return next(matches, None)

    found = [what for what, pattern in OTHERS.items() if any(re.search(pattern, n) for n in shapes)]
    unet = first(r"input_blocks\.0\.0\.weight$", 4) or first(r"(^|unet[./])conv_in\.weight$", 4)
    if unet:
        context = first(r"attn2\.to_k\.weight$", 2)
        attends = f"cross-attention to {context[1]}" if context else "no cross-attention"
        if context and context[1] == 1024:
            attends += " (as Stable Diffusion 2)"
        found.append(f"a UNet with {unet[1]} inputs, {unet[0]} channels and {attends}")
    latent = first(r"decoder\.conv_in\.weight$", 4)
    if latent:
        levels = {m[1] for name in shapes if (m := re.search(r"encoder\.down\w*\.(\d+)\.", name))}
        codebook = first(r"quantize\.embedding\.weight$", 2)
        kind = f"VQ, {codebook[0]} codes" if codebook else "KL"
        f = 2 ** max(len(levels) - 1, 0)
        found.append(f"a first stage with f = {f}, {latent[1]} latent channels, {kind}")
    return " and ".join(found)
