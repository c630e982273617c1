"""Trains the autoencoder of an experiment (Sec. 3.1), or takes one that is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ldm_jax import plots
from ldm_jax.autoencoder import vq
from ldm_jax.autoencoder.perceptual import lpips
from ldm_jax.data.loader import Batch, Loader, flip, random_crops
from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.data import OpenData
from ldm_jax.experiments.models import FirstStage
from ldm_jax.experiments.run_dir import RunDir, differences, to_json
from ldm_jax.experiments.stages import train_stage
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.training.processes import together
from ldm_jax.training.sharding import fetch, gathered, in_batches, process_rows, put
from ldm_jax.training.state import TrainState

NAME = "autoencoder"
PREVIEWS = 16  # held-out images in a preview
SCORED = 512  # held-out images whose PSNR is reported, at most
USAGE_IMAGES = 256  # training images that decide which codes are in use


def first_stage_constants(experiment: Experiment, run: RunDir) -> dict[str, Any]:
    """What the first stage's step reads but does not train: the weights of LPIPS, if it has a say.

    A run that goes on has them in its checkpoint, and needs their file no more.
    """
    loss = experiment.autoencoder.loss
    trains = experiment.autoencoder.network.bottleneck != "none"
    if experiment.autoencoder.from_run or not trains or loss.perceptual_weight == 0:
        return {}
    if saved := run.checkpoints(NAME).restore_part(["constants"]):
        return saved["constants"]
    try:
        return {"perceptual": together(lambda: load_lpips(loss.perceptual, loss.perceptual_file))}
    except UserError as error:
        other = "" if loss.perceptual_file else "; or --autoencoder.loss.perceptual-file FILE"
        raise UserError(f"{error}{other}") from error


def load_autoencoder_from(experiment: Experiment) -> tuple[dict, int]:
    """(parameters of the autoencoder in another run directory, channels of its images).

    The parameters are NumPy arrays.

    Raises:
      UserError: if there is none, it is not trained to its end, or its network is not the one
        configured here.
    """
    run, network = RunDir(experiment.autoencoder.from_run), experiment.autoencoder.network
    _, theirs, facts = run.load()
    if different := differences(to_json(theirs.autoencoder.network), to_json(network)):
        raise UserError(
            f"the autoencoder of {run.path} is another network: "
            + "; ".join(f"{field} is {a} there, {b} here" for field, a, b in different)
        )
    weights = trained_autoencoder(run, theirs)
    if not run.summary().get(NAME, {}).get("finished"):
        raise UserError(f"the autoencoder of {run.path} is not trained to its end yet")
    return weights, facts.channels


def trained_autoencoder(run: RunDir, experiment: Experiment) -> dict:
    """The parameters of a run's autoencoder, NumPy arrays; a UserError if there are none."""
    name = "ema" if experiment.autoencoder.ema_decay else "params"
    if saved := run.checkpoints(NAME).restore_part([name]):
        return saved[name]["autoencoder"]
    if saved := run.checkpoints("diffusion").restore_part(["constants"]):
        return saved["constants"]["autoencoder"]
    raise UserError(f"{run.path} has no trained autoencoder")


def check_unchanged(run: RunDir, autoencoder: dict) -> None:
    """Raises UserError when a later stage of `run` began on the latents of another autoencoder.

    These would be other latents: its first stage has been trained again since.
    """
    autoencoder = fetch(autoencoder)
    for stage in ("diffusion", "classifier"):
        saved = run.checkpoints(stage).restore_part(["constants"])
        if saved is None:
            continue
        theirs = saved["constants"].get("autoencoder") or {}  # of pixels there is none
        same = jax.tree.structure(theirs) == jax.tree.structure(autoencoder)
        if not same or not jax.tree.all(jax.tree.map(np.array_equal, theirs, autoencoder)):
            raise UserError(
                f"the {stage} stage of {run.path} began on another autoencoder, which has been "
                "trained again since; choose another --run-dir"
            )


def train_autoencoder(
    experiment: Experiment,
    data: OpenData,
    run: RunDir,
    mesh: jax.sharding.Mesh,
    key: jax.Array,
    constants: dict[str, Any],
) -> tuple[dict, dict[str, Any]]:
    """Stage 1 inside a run directory: (parameters of the autoencoder, summary).

    Args:
      constants: as from `first_stage_constants`.
    """
    config = experiment.autoencoder
    first = FirstStage(experiment, data.facts)
    reconstruct = jax.jit(first.reconstruct)
    held_out = data.validation.read(np.arange(min(PREVIEWS, len(data.validation))))["image"]

    def transform(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
        batch = {"image": batch["image"]}
        if config.crop_size:
            batch = random_crops(batch, config.crop_size, rngs)
        return flip(batch, rngs) if experiment.data.flip else batch

    def preview(state: TrainState, step: int) -> None:
        weights = state.params if state.ema is None else state.ema
        weights = gathered(weights["autoencoder"], mesh)
        x_hat = in_batches(reconstruct, (weights,), (held_out,), mesh)
        if jax.process_index() == 0:
            file = run.sample_file(f"autoencoder_{step:07d}")
            plots.save_png(file, plots.reconstructions(held_out, x_hat))

    trained = train_stage(
        NAME,
        config,
        first.problem,
        Loader(
            data.train,
            config.batch_size,
            experiment.seed,
            transform=transform,
            rows=process_rows(config.batch_size, mesh),
            threads=experiment.loader.threads,
            prefetch=experiment.loader.ahead,
        ),
        run,
        mesh,
        key,
        constants=lambda: constants,
        preview=preview,
        edit=_dead_code_reset(first, data, mesh, experiment.seed)
        if first.bottleneck == "vq"
        else None,
        edit_every=config.reset_dead_codes_every,
    )
    weights, constants = gathered((trained.weights["autoencoder"], trained.state.constants), mesh)
    scores = score_autoencoder(experiment, data, mesh, weights, constants)
    return weights, trained.summary | scores


def score_autoencoder(
    experiment: Experiment,
    data: OpenData,
    mesh: jax.sharding.Mesh,
    weights: dict,
    constants: dict[str, Any],
) -> dict[str, float]:
    """How far held-out images are from their reconstructions (Table 8), and which codes they use.

    PSNR in dB, LPIPS where its network is among `constants`.
    """
    first = FirstStage(experiment, data.facts)
    x = data.validation.read(np.arange(min(SCORED, len(data.validation))))["image"]
    x_hat = in_batches(jax.jit(first.reconstruct), (weights,), (x,), mesh)
    decibels = psnr(x, x_hat)
    scores = {
        "psnr": round(float(np.mean(decibels)), 2),
        "psnr_std": round(float(np.std(decibels)), 2),
        "held_out_images": len(x),
    }
    if constants:
        network = experiment.autoencoder.loss.perceptual
        distance = jax.jit(lambda p, *xs: lpips(p, network, *(x / 127.5 - 1.0 for x in xs)))
        distances = in_batches(distance, (constants["perceptual"],), (x, x_hat), mesh)
        scores[f"lpips_{network}"] = round(float(np.mean(distances)), 4)
    if first.bottleneck == "vq":
        encoded = in_batches(jax.jit(first.encode), (weights,), (x,), mesh)
        counts = fetch(_counts(encoded, weights["codebook"]))
        scores["codebook_usage"] = round(float(vq.usage(counts)), 4)
        scores["codebook_perplexity"] = round(float(vq.perplexity(counts)), 1)
    return scores


@jax.jit
def _counts(encoded: jax.Array, codebook: jax.Array) -> jax.Array:
    return vq.code_counts(vq.nearest_code(encoded, codebook), len(codebook))


def _dead_code_reset(
    first: FirstStage, data: OpenData, mesh: jax.sharding.Mesh, seed: int
) -> Callable[[TrainState, int], TrainState]:
    """(state, step) -> the state with codes that no training image uses put onto latents."""
    encode = jax.jit(first.encode)

    @jax.jit
    def renewed(codebook, counts, encoded, key):
        return vq.reset_dead_codes(codebook, counts, encoded.reshape(-1, encoded.shape[-1]), key)

    def edit(state: TrainState, step: int) -> TrainState:
        rng = np.random.default_rng([seed, 2, step])
        rows = rng.permutation(len(data.train))[:USAGE_IMAGES]
        images = data.train.read(np.sort(rows))["image"]
        weights = gathered(state.params["autoencoder"], mesh)
        encoded = fetch(encode(weights, images))
        counts = fetch(_counts(encoded, weights["codebook"]))
        key = jax.random.key(rng.integers(2**31))

        def with_codebook(params):  # the average too, where codes in use keep theirs
            if params is None:
                return None
            old = params["autoencoder"]["codebook"]
            new = put(renewed(fetch(old), counts, encoded, key), old.sharding)
            return params | {"autoencoder": params["autoencoder"] | {"codebook": new}}

        return dataclasses.replace(
            state, params=with_codebook(state.params), ema=with_codebook(state.ema)
        )

    return edit
