"""The first stage of a run (Sec. 3.1): what is trained, and how good it has become."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import jax
import numpy as np

from ldm_jax import plots
from ldm_jax.autoencoder import vq
from ldm_jax.autoencoder.perceptual import PerceptualNetwork, lpips
from ldm_jax.commands.train.stage import StageTask
from ldm_jax.data.loader import Batch, Loader, flip, random_crops
from ldm_jax.data.source import Source
from ldm_jax.data.spread import spread
from ldm_jax.errors import UserError
from ldm_jax.evaluation.distortion import psnr
from ldm_jax.evaluation.jpeg import jpeg_psnr
from ldm_jax.experiments.config import AutoencoderStage
from ldm_jax.model.config_json import differences, to_json
from ldm_jax.model.data import OpenData
from ldm_jax.model.find import find_run, is_run, no_run
from ldm_jax.model.first_stage import FirstStage
from ldm_jax.model.load import autoencoder_weights
from ldm_jax.model.run_dir import RunDir
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.training.config import LoaderConfig
from ldm_jax.training.loop import Hook
from ldm_jax.training.processes import on_all
from ldm_jax.training.sharding import fetch, map_batches, process_rows, put, replicate_fsdp
from ldm_jax.training.step import TrainState

log = logging.getLogger(__name__)
PREVIEWS = 16  # held-out images in a preview
FOLLOWED = 64  # held-out images whose PSNR is followed while training, at most
MEASURED = 512  # held-out images whose PSNR is reported, at most
USAGE_IMAGES = 256  # training images that decide which codes are in use


def is_trained_here(config: AutoencoderStage) -> bool:
    """Whether a run trains its own first stage: neither another run's, nor pixels."""
    return not config.from_run and config.network.bottleneck != "none"


def perceptual_weights(config: AutoencoderStage, run: RunDir) -> dict[str, Any]:
    """What the first stage's step reads but does not train: the weights of LPIPS, if it is used.

    A run that is resumed has them in its checkpoint, and needs their file no more.
    """
    loss = config.loss
    if not is_trained_here(config) or loss.perceptual_weight == 0:
        return {}
    if saved := run.checkpoints("autoencoder").restore_part(["constants"]):
        return saved["constants"]
    try:
        return {"perceptual": on_all(lambda: load_lpips(loss.perceptual, loss.perceptual_file))}
    except UserError as error:
        other = "" if loss.perceptual_file else "--autoencoder.loss.perceptual-file FILE, "
        without = f"{other}--autoencoder.loss.perceptual-weight 0 does without LPIPS"
        raise UserError(f"{error}; or {without}") from error


def borrowed_autoencoder(config: AutoencoderStage, run: RunDir) -> tuple[dict, int]:
    """`load_autoencoder_from`, or the copy that the second stage of `run` keeps once it has begun,
    where the other run is gone.

    Raises:
      UserError: also when a later stage of `run` began on another autoencoder.
    """
    if not is_run(config.from_run):
        saved = run.checkpoints("diffusion").restore_part(["constants"])
        if saved is not None:
            log.info("%s is gone; this run keeps a copy of its autoencoder", config.from_run)
            return saved["constants"]["autoencoder"], run.load()[2].channels
    autoencoder, channels = load_autoencoder_from(config)
    check_unchanged(run, autoencoder)
    return autoencoder, channels


def load_autoencoder_from(config: AutoencoderStage) -> tuple[dict, int]:
    """(parameters of the autoencoder of another run, channels of its images).

    The parameters are NumPy arrays.

    Raises:
      UserError: there is none, it is not trained to its end, or its network is not the one
        configured here.
    """
    if not is_run(config.from_run):
        own = 'to train a first stage here: --autoencoder.from-run ""'
        raise UserError(f"{no_run(config.from_run)}; {own}")
    run = find_run(config.from_run)
    _, saved, info = run.load()
    if different := differences(to_json(saved.autoencoder.network), to_json(config.network)):
        raise UserError(
            f"the autoencoder of {run.path} is another network: "
            + "; ".join(f"{field} is {a} there, {b} here" for field, a, b in different)
        )
    weights = autoencoder_weights(run, saved)
    finished = run.summary().get("autoencoder", {}).get("finished")  # converted, or without steps
    trained = run.begun().get("autoencoder", 0)
    if not (finished or run.is_packed) and trained < saved.autoencoder.steps:
        raise UserError(f"the autoencoder of {run.path} is not trained to its end yet")
    return weights, info.channels


def check_unchanged(run: RunDir, autoencoder: dict) -> None:
    """Raises UserError when a later stage of `run` began on the latents of another autoencoder.

    These would be other latents: its first stage has been trained again since.
    """
    autoencoder = fetch(autoencoder)
    for stage in ("diffusion", "classifier"):
        saved = run.checkpoints(stage).restore_part(["constants"])
        if saved is None:
            continue
        before = saved["constants"].get("autoencoder") or {}  # of pixels there is none
        same = jax.tree.structure(before) == jax.tree.structure(autoencoder)
        if not same or not jax.tree.all(jax.tree.map(np.array_equal, before, autoencoder)):
            raise UserError(
                f"the {stage} stage of {run.path} began on another autoencoder, which has been "
                "trained again since; choose another --run-dir"
            )


def autoencoder_task(
    config: AutoencoderStage,
    first: FirstStage,
    data: OpenData,
    mesh: jax.sharding.Mesh,
    *,
    seed: int,
    loader: LoaderConfig,
    constants: dict[str, Any],
) -> StageTask:
    """Stage 1 of a run; `constants` are the `perceptual_weights`."""
    reconstruct = jax.jit(first.reconstruct)
    held_out = data.validation.read(spread(data.validation, PREVIEWS))["image"]
    followed = data.validation.read(spread(data.validation, FOLLOWED))["image"]

    def transform(batch: Batch, rngs: list[np.random.Generator]) -> Batch:
        batch = {"image": batch["image"]}
        if config.crop_size:
            batch = random_crops(batch, config.crop_size, rngs)
        return flip(batch, rngs) if data.flip else batch

    def preview(state: TrainState) -> np.ndarray:
        weights = replicate_fsdp(state.weights["autoencoder"], mesh)
        each = first.rows_at_once(*held_out.shape[1:3])
        x_hat = map_batches(reconstruct, (weights,), (held_out,), mesh, each)
        return plots.reconstructions(held_out, x_hat)

    def measure(state: TrainState) -> dict[str, float]:
        weights = replicate_fsdp(state.weights["autoencoder"], mesh)
        x_hat = map_batches(reconstruct, (weights,), (followed,), mesh)
        return {"held_out_psnr": float(np.mean(psnr(followed, x_hat)))}

    edit = None
    if first.bottleneck == "vq" and config.reset_dead_codes_every:
        edit = _dead_code_reset(first, data.train, mesh, seed, config.reset_dead_codes_every)
    batches = Loader(
        data.train,
        config.batch_size,
        seed,
        transform=transform,
        rows=process_rows(config.batch_size, mesh),
        threads=loader.threads,
        prefetch=loader.ahead,
    )
    return StageTask(
        "autoencoder", config, first.objective, batches, constants, preview, measure, edit
    )


def measure_autoencoder(
    first: FirstStage,
    weights: dict,
    held_out: Source,
    mesh: jax.sharding.Mesh,
    perceptual: PerceptualNetwork = "vgg16",
    constants: dict[str, Any] | None = None,
) -> dict[str, float]:
    """How far held-out images are from their reconstructions (Table 8), and which codes they use.

    PSNR in dB, beside that of JPEG in as many bytes as the latent has (`evaluation.jpeg`); LPIPS
    where the weights of its network `perceptual` are among `constants`.
    """
    x = held_out.read(spread(held_out, MEASURED))["image"]
    each = first.rows_at_once(*x.shape[1:3])
    x_hat = map_batches(jax.jit(first.reconstruct), (weights,), (x,), mesh, each)
    decibels = psnr(x, x_hat)
    scores = {
        "psnr": round(float(np.mean(decibels)), 2),
        "psnr_std": round(float(np.std(decibels)), 2),
        "held_out_images": len(x),
        "latent_bytes": first.latent_bytes(*x.shape[1:3]),
    }
    scores["jpeg_psnr"] = round(float(np.mean(jpeg_psnr(x, scores["latent_bytes"]))), 2)
    if constants:
        distance = jax.jit(lambda p, *xs: lpips(p, perceptual, *(x / 127.5 - 1.0 for x in xs)))
        distances = map_batches(distance, (constants["perceptual"],), (x, x_hat), mesh)
        scores[f"lpips_{perceptual}"] = round(float(np.mean(distances)), 4)
    if first.bottleneck == "vq":
        encoded = map_batches(jax.jit(first.encode), (weights,), (x,), mesh, each)
        counts = fetch(jax.jit(vq.nearest_counts)(encoded, weights["codebook"]))
        scores["codebook_usage"] = round(float(vq.usage(counts)), 4)
        scores["codebook_perplexity"] = round(float(vq.perplexity(counts)), 1)
    return scores


def _dead_code_reset(
    first: FirstStage, train: Source, mesh: jax.sharding.Mesh, seed: int, every: int
) -> Hook:
    """Moves codes that no training image uses onto latents, every `every` steps."""
    encode, nearest_counts = jax.jit(first.encode), jax.jit(vq.nearest_counts)

    @jax.jit
    def moved(codebook, counts, encoded, key):
        return vq.reset_dead_codes(codebook, counts, encoded.reshape(-1, encoded.shape[-1]), key)

    def edit(state: TrainState, step: int) -> TrainState:
        rng = np.random.default_rng([seed, 2, step])
        rows = rng.permutation(len(train))[:USAGE_IMAGES]
        images = train.read(np.sort(rows))["image"]
        weights = replicate_fsdp(state.params["autoencoder"], mesh)
        each = first.rows_at_once(*images.shape[1:3])
        encoded = map_batches(encode, (weights,), (images,), mesh, each)
        counts = fetch(nearest_counts(encoded, weights["codebook"]))
        key = jax.random.key(rng.integers(2**31))

        def with_codebook(params):  # the average too, where codes in use keep theirs
            if params is None:
                return None
            old = params["autoencoder"]["codebook"]
            new = put(moved(fetch(old), counts, encoded, key), old.sharding)
            return params | {"autoencoder": params["autoencoder"] | {"codebook": new}}

        return dataclasses.replace(
            state, params=with_codebook(state.params), ema=with_codebook(state.ema)
        )

    return Hook(every, edit, edits=True)
