"""What only scenes can say, as their world is known: words, coverage, nearest true renders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ldm_jax import plots
from ldm_jax.commands.evaluate.prompts import further_lines
from ldm_jax.commands.train.held_out import HeldOut
from ldm_jax.commands.train.judge import distances, read_conditions
from ldm_jax.data.loader import Batch
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.errors import UserError
from ldm_jax.evaluation.held_out_words import held_out_report, share_of
from ldm_jax.evaluation.scene_captions import parse_caption
from ldm_jax.evaluation.scene_coverage import Coverage, coverage
from ldm_jax.evaluation.scene_damage import blur
from ldm_jax.evaluation.scene_guess import guess_scenes, object_masks
from ldm_jax.evaluation.scene_match import Match
from ldm_jax.evaluation.scene_match_set import match_set
from ldm_jax.evaluation.scene_network import SIZE, SMALL
from ldm_jax.evaluation.scene_reader import read
from ldm_jax.evaluation.scene_reports import (
    Seen,
    right_captions,
    scores_by_count,
    seen_in,
    validity_in,
)

MATCHED = 64  # images of each set whose nearest true render is searched
SHOWN = 16  # of them in the figure
READ = ("samples", "reconstructions", "held_out")
BLUR = 0.7  # standard deviation in pixels of the blur that good samples should be better than
MAIN_WORDS = ("whole", "objects", "relation")


def can_be_read(data: Any, side: int) -> bool:
    """Whether the images are scenes of a size that the reader reads."""
    return isinstance(data, ScenesConfig) and side in (SMALL, SIZE)


def blurred(images: np.ndarray) -> np.ndarray:
    """Images uint8 `[n, H, H, 3]`, a little out of focus."""
    return np.stack([blur(image, BLUR * 32 / len(image)) for image in images])


def judge_scenes(
    sets: Mapping[str, np.ndarray],
    examples: HeldOut,
    data: ScenesConfig,
    kind: str,
    folder: epath.Path,
    lpips: dict | None = None,
) -> dict[str, Any]:
    """Every word read back, coverage of the world, nearest true renders: as JSON.

    `words`: agreement with the conditions, of samples, of reconstructions and of the true images;
    of captions also `words_by_objects`: apart for one object, two, and so on. `valid`: the share of
    proper scenes, as the reader sees them (`validity`).
    `coverage`: of each factor, against the known distribution. `nearest_renders`: the share of
    proper scenes among some images of each set, and how far their objects are from a true render.

    Args:
      sets: images, as `rows.Sets`.
      examples: those whose conditions the samples have, in turns.
      data: the scenes. kind: of the model's condition; 'none' also where the samples have
        conditions that are not known.
      folder: gets scenes.png, samples (or else reconstructions) above their nearest true renders.
      lpips: weights of LPIPS on SqueezeNet, or None to do without.
    """
    level = data.level
    images = {
        "samples": sets.get("samples"),
        "reconstructions": sets.get("reconstructions"),
        "held_out": sets["examples"],
    }
    images = {name: images[name] for name in READ if images[name] is not None}
    parts = ("words", "valid", "coverage", "nearest_renders")
    report: dict[str, dict[str, Any]] = {part: {} for part in parts}
    figures, by_count = [], {}
    for name, x in images.items():
        truth = _in_turns(examples.truth, len(x))
        seen, valid = _read(x)
        words = read_conditions(kind, level, truth, x)
        report["words"][name] = words | {"images": len(x)}
        if "valid" not in words:  # which is what is said where there is no condition
            report["valid"][name] = share_of(valid)._asdict()
        if kind == "text":
            by_count[name] = scores_by_count(seen, truth["caption"])
        report["coverage"][name] = _coverage(seen, level)
        matches = _matches(x[:MATCHED], level)
        report["nearest_renders"][name] = _distances(x[:MATCHED], matches, lpips)
        figures.append(_figure(x[:SHOWN], matches[:SHOWN]))
    if by_count:
        report["words_by_objects"] = _by_objects(by_count)
    if data.held_out_words and kind == "text" and "samples" in images:
        report["held_out_words"] = _held_out(images["samples"], examples.truth, data.held_out_words)
    folder.mkdir(parents=True, exist_ok=True)
    plots.save_png(folder / "scenes.png", figures[0])
    return report


def _read(images: np.ndarray) -> tuple[list[Seen], np.ndarray]:
    """What is in each image, and whether it is a proper scene: bool `[n]`."""
    reading = read(images)
    return seen_in(reading), validity_in(reading) == 1


def _by_objects(by_count: Mapping[str, Mapping[int, dict[str, float]]]) -> dict[str, Any]:
    """Number of objects -> set -> shares; with `whole` as a share of the reconstructions' one."""
    found: dict[str, Any] = {}
    for count in sorted(by_count["held_out"]):
        own = {name: scores[count] for name, scores in by_count.items() if count in scores}
        best = own.get("reconstructions", {}).get("whole")
        if best and "samples" in own:
            own["samples"]["of_reconstructions"] = own["samples"]["whole"] / best
        found[str(count)] = own
    return found


def _in_turns(truth: Batch, n: int) -> Batch:
    rows = np.arange(n) % len(truth["image"])
    return {key: values[rows] for key, values in truth.items()}


def _coverage(seen: Sequence[Seen], level: str) -> dict[str, Any]:
    return {name: _as_json(one) for name, one in coverage(seen, level).items()}


def _as_json(one: Coverage) -> dict[str, Any]:
    return {
        "chi_square": float(one.statistic),
        "degrees": int(one.degrees),
        "p_value": None if one.p_value is None else float(one.p_value),
        "missing": [" ".join(map(str, words)) for words in one.missing],
        "total_variation": float(one.total_variation),
        "total_variation_of_true": float(one.total_variation_of_true),
        "unread": int(one.unread),
    }


def _matches(images: np.ndarray, level: str) -> list[Match | None]:
    """The nearest true render of each image; None where the reader detects no object."""
    seen = read(images)
    guesses, masks = guess_scenes(seen), object_masks(seen)
    chosen = [i for i, guess in enumerate(guesses) if guess.objects]
    found: list[Match | None] = [None] * len(images)
    matched = match_set(
        images[chosen], [guesses[i] for i in chosen], masks[chosen], level, progress=True
    )
    for i, one in zip(chosen, matched, strict=True):
        found[i] = one
    return found


def _distances(
    images: np.ndarray, matches: Sequence[Match | None], lpips: dict | None
) -> dict[str, Any]:
    matched = [one for one in matches if one is not None]
    median = float(np.median([one.psnr for one in matched])) if matched else -math.inf
    found = {
        "proper": float(np.mean([one is not None and one.is_proper for one in matches])),
        "median_psnr": round(median, 2) if math.isfinite(median) else None,
        "images": len(matches),
    }
    if lpips is not None and matched:
        own = images[[one is not None for one in matches]]
        nearest = np.stack([one.nearest for one in matched])
        found["lpips_squeezenet"] = distances(own, nearest, lpips)["lpips_squeezenet"]
    return found


def _held_out(images: np.ndarray, truth: Batch, combinations: Sequence[str]) -> dict[str, Any]:
    """Whole captions read right, with and without a held-out combination of words, as JSON."""
    captions = _in_turns(truth, len(images))["caption"]
    asked = [parse_caption(str(text)) for text in captions]
    try:
        found = held_out_report(asked, right_captions(images, captions), combinations)
    except UserError as error:  # no caption of a kind among the samples
        return {"note": str(error)}
    shares = {"held_out": found.held_out, "seen": found.seen}
    return {name: share._asdict() for name, share in shares.items()} | {
        "combinations": {name: share._asdict() for name, share in found.combinations.items()}
    }


def _figure(images: np.ndarray, matches: Sequence[Match | None]) -> np.ndarray:
    """Images above their nearest true renders, white where there is none."""
    renders = [np.full_like(images[0], 255) if one is None else one.render for one in matches]
    return plots.stacked([images, np.stack(renders)])


def scene_lines(report: Mapping[str, Any]) -> list[str]:
    """The main numbers."""
    said = []
    for name, scores in report["words"].items():
        parts = [f"{key} {value:.1%}" for key, value in scores.items() if key != "images"]
        said.append(
            f"read in {name.replace('_', '-')}: {', '.join(parts)} (N = {scores['images']})"
        )
    for count, sets in report.get("words_by_objects", {}).items():
        parts = [f"{name.replace('_', '-')} {_main_words(one)}" for name, one in sets.items()]
        said.append(f"captions of {count} object{'s' * (count != '1')}: {'; '.join(parts)}")
    parts = [
        f"{name.replace('_', '-')} {one['share']:.1%}" for name, one in report["valid"].items()
    ]
    if parts:
        said.append(f"proper scenes, as the reader sees them: {', '.join(parts)}")
    for name, one in report["nearest_renders"].items():
        median = one["median_psnr"]
        far = "no object" if median is None else f"median {median} dB"
        said.append(
            f"nearest true renders of {name.replace('_', '-')}: {one['proper']:.1%} proper scenes, "
            f"{far} (N = {one['images']})"
        )
    if "clauses" in report:
        said += further_lines(report)
    if "seen" in (words := report.get("held_out_words", {})):
        parts = (
            f"{name.replace('_', '-')} {words[name]['share']:.1%} ± "
            f"{words[name]['standard_error']:.1%} (N = {words[name]['n']})"
            for name in ("held_out", "seen")
        )
        said.append(f"whole captions, combinations of words: {', '.join(parts)}")
    missing = [
        combination
        for one in report["coverage"].get("samples", {}).values()
        for combination in one["missing"]
    ]
    if missing:
        said.append(f"never in the samples: {', '.join(missing[:8])}")
    return said


def _main_words(scores: Mapping[str, float]) -> str:
    parts = [f"{name} {scores[name]:.1%}" for name in MAIN_WORDS if name in scores]
    if (share := scores.get("of_reconstructions")) is not None:
        parts[0] += f" ({share:.1%} of what reconstructions score)"
    return f"{', '.join(parts)} (N = {scores['images']})"
