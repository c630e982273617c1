"""A text model of scenes, asked for less: single clauses, nothing at all; and guided otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from etils import epath

from ldm_jax.commands.evaluate.generated import draw
from ldm_jax.commands.sample.plan import Request
from ldm_jax.evaluation.held_out_words import share_of
from ldm_jax.evaluation.measures import FEWEST
from ldm_jax.evaluation.saturation import saturation
from ldm_jax.evaluation.scene_prompts import clause_prompts
from ldm_jax.evaluation.scene_reports import true_captions, validity
from ldm_jax.sampling.settings import unguided

PART = 8  # of so many samples of whole captions there is one of each further set
GUIDANCE = (1.0, 3.0, 6.0)
"""The scales s at which saturation is measured."""


def further_requests(main: Request) -> dict[str, Request]:
    """What is sampled besides whole captions: `clauses`, `null`, and the scales of guidance.

    Each has an eighth as many images as there are whole captions, and at least `FEWEST`. A scale
    that the main samples have is left out, and all but the clauses where the model has no null
    condition.
    """
    model, settings = main.model, main.settings
    n = max(FEWEST, -(-len(main.all_labels) // PART))
    prompts = [prompt.text for prompt in clause_prompts(n)]
    # Words that the model never saw are unknown to it, which is no error here.
    tokens = model.condition.to_cache({"caption": prompts})
    found = {"clauses": Request(model, tokens, prompts, 1, settings)}
    if model.guidable:
        found["null"] = Request(model, model.parse(None), [""], n, unguided(settings))
    first = {name: rows[:n] for name, rows in main.conditions.items()}
    for s in GUIDANCE if model.guidable else ():
        guided = unguided(settings) if s == 1 else replace(settings, guidance=s)
        if s != settings.guidance:
            found[_name(s)] = Request(model, first, [""] * n, 1, guided)
    return found


def draw_further(
    main: Request, samples: np.ndarray, folder: epath.Path, weights: str
) -> dict[str, np.ndarray]:
    """Images of all `further_requests`, and the first of the main samples by their scale.

    Args:
      samples: the images of `main`. folder, weights: as `generated.draw` takes them.
    """
    found = {
        name: draw(request, folder, weights).images
        for name, request in further_requests(main).items()
    }
    n = len(found["clauses"])
    return found | {_name(main.settings.guidance): samples[:n]}


def _name(s: float) -> str:
    return f"s = {s:g}"


def judge_further(images: Mapping[str, np.ndarray], truth: np.ndarray) -> dict[str, Any]:
    """What these images say, as JSON.

    `clauses`: of prompts of an object, of a floor, of a sky, and of all of them, the share in
    whose samples that is read. `null`: the share of proper scenes without a prompt, as `validity`
    has it. `saturation`: means of the samples at each scale of guidance and of the true images of
    the same captions, and how large they are beside the latter.

    Args:
      images: as `draw_further` gives them. truth: true images of the captions, uint8
        `[n, H, W, 3]`, in turns.
    """
    prompts = clause_prompts(len(images["clauses"]))
    right = true_captions(images["clauses"], [prompt.text for prompt in prompts])
    kinds = np.array([prompt.kind for prompt in prompts])
    chosen = {kind: kinds == kind for kind in dict.fromkeys(kinds.tolist())}
    report: dict[str, Any] = {
        "clauses": {
            name: share_of(right[rows])._asdict()
            for name, rows in (chosen | {"all": slice(None)}).items()
        }
    }
    if "null" in images:
        report["null"] = share_of(validity(images["null"]) == 1)._asdict()
    n = len(images["clauses"])
    own = float(saturation(truth[np.arange(n) % len(truth)]).mean())
    report["saturation"] = {"held_out": {"mean": round(own, 4), "of_held_out": 1.0, "n": n}}
    for name in sorted(name for name in images if name.startswith("s = ")):
        mean = float(saturation(images[name]).mean())
        ratio = round(mean / own, 4) if own else None
        report["saturation"][name] = {"mean": round(mean, 4), "of_held_out": ratio, "n": n}
    return report


def further_lines(report: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    said = [f"prompts of one clause, read in samples: {_shares(report['clauses'])}"]
    if "null" in report:
        said.append(f"no prompt, proper scenes: {_shares({'': report['null']})}")
    rows = dict(report["saturation"])
    truth = rows.pop("held_out")
    parts = [
        f"{name} {one['mean']:.3f}" + _beside(one["of_held_out"]) for name, one in rows.items()
    ]
    text = f"saturation: held-out {truth['mean']:.3f}, samples at {', '.join(parts)}"
    return [*said, f"{text} (N = {truth['n']} each)"]


def _beside(ratio: float | None) -> str:
    return "" if ratio is None else f" ({ratio - 1:+.0%})"


def _shares(rows: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{name} {one['share']:.1%} ± {one['standard_error']:.1%} (N = {one['n']})".strip()
        for name, one in rows.items()
    )
