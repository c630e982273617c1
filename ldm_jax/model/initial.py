"""Weights that training starts from, those of another run or a published model: fine-tuning."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ldm_jax.errors import UserError
from ldm_jax.model.config_json import differences, to_json
from ldm_jax.model.find import find_run, is_run, no_run
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.load import load_run, stage_weights
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.sharding import fetch, put
from ldm_jax.training.step import TrainState

log = logging.getLogger(__name__)
SHOWN = 3  # arrays that a refusal names
Pairs = list[tuple[int, int]]  # rows of two embeddings that mean the same: (here, there)


@dataclass(frozen=True)
class Rows:
    """Some rows of an array; the others stay as they are initialised."""

    at: np.ndarray
    """Their numbers: int `[n]`."""
    values: np.ndarray
    """`[n, ...]`."""


ByPath = dict[str, np.ndarray | Rows]
"""Weights by their paths, such as unet/conv_in/kernel; NumPy."""


@dataclass(frozen=True)
class InitialWeights:
    """What a run starts from; what is missing starts from random weights."""

    autoencoder: ByPath = dataclasses.field(default_factory=dict)
    """Of the first stage, with its discriminator where that fits."""
    diffusion: ByPath = dataclasses.field(default_factory=dict)
    """Of the second stage."""
    scale_factor: float = 0.0
    """What the second stage expects latents to be multiplied with; 0: nothing."""
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Which run they are of, and how far it was trained; JSON."""


def read_initial(path: str, model: LatentDiffusion, stages: Sequence[str]) -> InitialWeights:
    """The weights of a run as `model` can start from them: those that sampling uses.

    Embeddings of words and classes are matched by name. The log says what is taken over.

    Args:
      path: a run directory, also that of a published model, or the name of a shipped one.
      model: the one to train. stages: those of it that are to start from there.

    Raises:
      UserError: there is no such run, it has no weights yet, or networks of other sizes.
    """
    if not is_run(path):
        raise UserError(
            f"--init-from {no_run(path)}; published weights become a run directory by: "
            "python -m ldm_jax convert FILE --model NAME --out RUN"
        )
    run = find_run(path)
    source = load_run(run)
    initial = InitialWeights(origin={"run": run.id, "steps": run.begun()})
    if "autoencoder" in stages:
        initial = dataclasses.replace(initial, autoencoder=_autoencoder(run, source, model))
    if "diffusion" in stages and source.weights.params is None:
        log.info("diffusion: %s has no second stage; it starts from random weights", run.path)
    elif "diffusion" in stages:
        weights = _diffusion(run, source, model)
        initial = dataclasses.replace(initial, diffusion=weights, scale_factor=source.scale_factor)
    return initial


def check_frozen(model: LatentDiffusion, initial: InitialWeights, stages: Sequence[str]) -> None:
    """Raises UserError when an encoder that is not to be trained would have random weights.

    Args:
      stages: those that start from `initial`.
    """
    config = model.config
    if (
        "autoencoder" in stages
        and config.autoencoder.freeze_encoder
        and not _part("autoencoder", initial.autoencoder)
    ):
        raise UserError(
            "--autoencoder.freeze-encoder True: the encoder is not trained, so its weights have to "
            "be in --init-from RUN: a run with the same first stage"
        )
    if (
        "diffusion" in stages
        and config.diffusion.freeze_encoder
        and model.spec.tau
        and not _part("tau", initial.diffusion)
    ):
        raise UserError(
            "--diffusion.freeze-encoder True: the encoder of the condition is not trained, so its "
            "weights have to be in --init-from RUN: a run with the same encoder, such as a "
            "published model after python -m ldm_jax convert FILE --model NAME --out RUN"
        )


def start_from(state: TrainState, weights: ByPath) -> TrainState:
    """A new state with these weights, also as the start of their average; all processes call it."""

    def leaf(path: Any, fresh: jax.Array) -> jax.Array:
        new = weights.get(_name(path))
        if new is None:
            return fresh
        if isinstance(new, Rows):
            whole = np.array(fetch(fresh))
            whole[new.at] = new.values
            new = whole
        return put(np.asarray(new, fresh.dtype), fresh.sharding)

    params, ema = (
        jax.tree_util.tree_map_with_path(leaf, tree) for tree in (state.params, state.ema)
    )
    return dataclasses.replace(state, params=params, ema=ema)


def _autoencoder(run: RunDir, source: LatentDiffusion, model: LatentDiffusion) -> ByPath:
    here = _by_path(jax.eval_shape(model.first.objective.init, jax.random.key(0)))
    # The second stage's own first stage, and the players beside it
    there = _by_path(stage_weights(run, source.config, "autoencoder"))
    there |= _by_path({"autoencoder": source.weights.constants.get("autoencoder") or {}})
    networks = (one.config.autoencoder.network for one in (source, model))
    why = _other_sizes("autoencoder.network", *networks)
    found = _fitting(run, "autoencoder", there, here, {}, why)
    discriminator, wrong = _matched(_part("discriminator", there), _part("discriminator", here), {})
    log.info("autoencoder: starts from %s", run.path)
    if _part("discriminator", here) and wrong:
        log.info("autoencoder: its discriminator starts from random weights")
    return found | ({} if wrong else discriminator)


def _diffusion(run: RunDir, source: LatentDiffusion, model: LatentDiffusion) -> ByPath:
    there, here = source.config.diffusion, model.config.diffusion
    params = _by_path(source.weights.params)
    shapes = _by_path(jax.eval_shape(model.objective.init, jax.random.key(0)))
    rows = shared_rows(source, model)
    why = _other_sizes("diffusion.unet", there.unet, here.unet)
    if bool(source.spec.context_dim) != bool(model.spec.context_dim):
        # With tokens of a condition or without: other attention layers, and all else is alike.
        params, shapes = _without_attention(params), _without_attention(shapes)
        log.info("diffusion: the attention layers start from random weights")
    found = _fitting(run, "unet", params, shapes, rows, why)
    kinds = [(one.info.condition, one.config.diffusion.tokenizer) for one in (source, model)]
    if kinds[0] == kinds[1]:
        why = _other_sizes("diffusion", *(_encoder(stage) for stage in (there, here)))
        found |= _fitting(run, "tau", params, shapes, rows, why)
    elif _part("tau", shapes):
        log.info("diffusion: the encoder of its condition starts from random weights")
    log.info("diffusion: starts from %s", run.path)
    for name in ("prediction", "schedule"):
        if getattr(there, name) != getattr(here, name):
            log.warning("diffusion: it was trained with another --diffusion.%s", name)
    return found


def shared_rows(source: LatentDiffusion, model: LatentDiffusion) -> dict[str, Pairs]:
    """Which rows of embeddings mean the same in two models, by the path of the embedding.

    Classes and words are matched by name, places in a caption by their number. Embeddings that are
    not in it are taken over as a whole.
    """
    theirs, ours = source.info, model.info
    if theirs.condition != ours.condition:
        return {}
    if ours.condition == "class":
        rows = _by_name("classes", ours.class_names, theirs.class_names)
        if source.guidable and model.guidable:  # the last row is that of no class
            rows.append((len(ours.class_names), len(theirs.class_names)))
        return dict.fromkeys(("unet/label/embedding", "tau/embedding/embedding"), rows)
    if ours.condition == "text" and ours.vocabulary and theirs.vocabulary:
        words = _by_name("words", ours.vocabulary, theirs.vocabulary)
        length = min(theirs.caption_length, ours.caption_length)
        return {
            # padding, unknown words, then the vocabulary
            "tau/tok_emb/embedding": [(0, 0), (1, 1), *((i + 2, j + 2) for i, j in words)],
            "tau/pos_emb/embedding": [(i, i) for i in range(length)],
        }
    if ours.condition == "layout" and theirs.box_names != ours.box_names:
        log.warning("diffusion: the objects have other names there; what they mean is learned anew")
    return {}


def _by_name(what: str, ours: Sequence[str], theirs: Sequence[str]) -> Pairs:
    number = {name: j for j, name in enumerate(theirs)}
    rows = [(i, number[name]) for i, name in enumerate(ours) if name in number]
    new = [name for name in ours if name not in number]
    shown = f"; new: {', '.join(new[:10])}{', ...' if len(new) > 10 else ''}" if new else ""
    log.info("diffusion: %d of %d %s are known%s", len(rows), len(ours), what, shown)
    return rows


def _fitting(
    run: RunDir,
    part: str,
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    rows: Mapping[str, Pairs],
    why: str,
) -> ByPath:
    """The arrays of one part; UserError, naming some that do not fit, and `why`."""
    found, wrong = _matched(_part(part, there), _part(part, here), rows)
    if wrong:
        more = f"; {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError(
            f"--init-from {run.path}: its {part} does not fit"
            f"{why and ': '}{why} ({'; '.join(wrong[:SHOWN])}{more})"
        )
    return found


def _matched(
    there: Mapping[str, Any], here: Mapping[str, Any], rows: Mapping[str, Pairs]
) -> tuple[ByPath, list[str]]:
    """(the arrays that have the shapes of `here`, what is wrong with the others)."""
    found, wrong = {}, []
    for path in sorted(there.keys() | here.keys()):
        if path not in there or path not in here:
            wrong.append(f"{path} is {'missing there' if path in here else 'not in this model'}")
        elif path in rows and there[path].shape[1:] == here[path].shape[1:]:
            pairs = np.array(rows[path], int).reshape(-1, 2)
            found[path] = Rows(pairs[:, 0], np.asarray(there[path])[pairs[:, 1]])
        elif there[path].shape != here[path].shape:
            shapes = (list(one[path].shape) for one in (there, here))
            wrong.append("{} is {} there, {} here".format(path, *shapes))
        else:
            found[path] = there[path]
    return found, wrong


def _other_sizes(prefix: str, there: Any, here: Any) -> str:
    """The options in which two configurations differ, with both values."""
    rows = differences(to_json(there), to_json(here), prefix)
    return "; ".join(f"--{option} is {a} there, {b} here" for option, a, b in rows)


def _encoder(stage: Any) -> dict[str, Any]:
    names = ("text", "class_dim", "objects", "sections")
    return {name: to_json(getattr(stage, name)) for name in names}


def _without_attention(weights: Mapping[str, Any]) -> dict[str, Any]:
    """All but the layers in which positions, and the tokens of a condition, attend."""
    return {path: leaf for path, leaf in weights.items() if "/attention/" not in path}


def _part(name: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    return {path: leaf for path, leaf in weights.items() if path.startswith(f"{name}/")}


def _by_path(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
