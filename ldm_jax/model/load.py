"""From a run, a shipped model or published weights to a `LatentDiffusion`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.find import find_run, is_run, no_run
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.packed import encoder_digest, packed_file, read_packed
from ldm_jax.model.published import (
    Described,
    PublishedModel,
    described,
    published_experiment,
    read_first_stage,
    read_published,
)
from ldm_jax.model.run_dir import RunDir
from ldm_jax.model.weights import Weights
from ldm_jax.parameters import not_finite
from ldm_jax.paths import user_path
from ldm_jax.shipped import FOLDER


def load(path: str, model: str = "", **options: Any) -> LatentDiffusion:
    """A trained model: one that comes with the package, a run directory, or published weights.

        ldm_jax.load("scenes-64")
        ldm_jax.load("runs/scenes")
        ldm_jax.load("celebahq.ckpt", model="celeba256")
        ldm_jax.load("mine.safetensors")  # as `export` writes it

    Args:
      path: the name of a shipped model, or a run directory; with `model` a CompVis checkpoint
        (.ckpt, .safetensors) or the folder of a diffusers pipeline.
      model: the experiment whose published weights they are.
      options: of `load_published`: `ema`, `tokenizer`, `names`, `first_stage`.

    Raises:
      UserError: nothing there, no checkpoint yet, or weights that do not fit.
    """
    if model:
        return load_published(path, published_experiment(model), **options).model
    if is_run(path):
        return load_run(find_run(path))
    if own := described(path):
        return load_published(path, own, **options).model
    published = '; published weights need model="NAME", such as model="celeba256"'
    raise UserError(no_run(path) + published * user_path(path).exists())


def load_published(
    path: str, of: Described, *, first_stage: str = "", **options: Any
) -> PublishedModel:
    """`published.read_published` with these options.

    Args:
      first_stage: another file, folder or run directory, whose first stage is used; '': its own.
    """
    autoencoder = partial(load_first_stage, first_stage) if first_stage else None
    return read_published(path, of, autoencoder=autoencoder, **options)


def load_first_stage(path: str, model: LatentDiffusion) -> dict:
    """The parameters of a first stage for a model, from published weights or a run directory.

    Raises:
      UserError: it is another network.
    """
    if not is_run(path):
        return read_first_stage(path, model)
    run = find_run(path)
    params = autoencoder_weights(run, run.load()[1])
    wanted = jax.eval_shape(model.first.objective.init, jax.random.key(0))["autoencoder"]
    shapes = [[(p, np.shape(leaf)) for p, leaf in jax.tree.leaves_with_path(tree)]
              for tree in (params, wanted)]  # fmt: skip
    if shapes[0] != shapes[1]:
        raise UserError(f"the first stage of {path} is another network than that of {model.name}")
    return params


def load_run(run: RunDir) -> LatentDiffusion:
    """The model of a run: both stages, or the first alone where there is no second yet."""
    name, config, info = run.load()
    weights = diffusion_weights(run, config)
    if weights is None:
        autoencoder = autoencoder_weights(run, config)
        weights = Weights(None, {"autoencoder": autoencoder, "scale_factor": np.float32(1)})
    if damaged := not_finite((weights.params or {}) | weights.constants):
        raise UserError(f"{run.path}: the weights {damaged} hold NaN or infinity; they are damaged")
    called = f"{run.path} ({name})"
    if run.path.is_relative_to(user_path(FOLDER)):  # of these nobody asks where they lie
        called = run.path.relative_to(user_path(FOLDER)).as_posix()
    model = LatentDiffusion(config, info, weights, called)
    _check_shapes(run, model)
    return model


def _check_shapes(run: RunDir, model: LatentDiffusion) -> None:
    """Raises UserError where the weights of a run are not those of the networks of its config."""
    key, weights = jax.random.key(0), model.weights
    parts = [(model.objective, weights.params)] if weights.params is not None else []
    wanted = [jax.eval_shape(objective.init, key) for objective, _ in parts]
    found = [params for _, params in parts]
    if model.first.bottleneck != "none":
        wanted.append(jax.eval_shape(model.first.objective.init, key)["autoencoder"])
        found.append(weights.constants["autoencoder"])
    there, here = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
         for path, leaf in jax.tree.leaves_with_path(trees)}
        for trees in (found, wanted)
    )  # fmt: skip
    for path in sorted(there.keys() | here.keys()):
        if there.get(path) != here.get(path):
            sizes = (one.get(path, "missing") for one in (there, here))
            what = path.partition("/")[2]
            raise UserError(
                "{}: its checkpoint does not fit its config.json: {} is {} there, {} by the "
                "configuration; one of the two was changed".format(run.path, what, *sizes)
            )


def diffusion_weights(run: RunDir, config: Experiment) -> Weights | None:
    """What sampling needs of a run's second stage, at its newest checkpoint; None without one.

    The parameters are the moving average where the run keeps one; NumPy arrays.
    """
    if run.is_packed:
        return _packed_diffusion(run, config)
    name = _average(config, "diffusion")
    saved = run.checkpoints("diffusion").restore_part([name, "constants"])
    return saved and Weights(saved[name], saved["constants"])


def autoencoder_weights(run: RunDir, config: Experiment) -> dict:
    """The parameters of a run's autoencoder, NumPy arrays; a UserError if there are none."""
    if parts := stage_weights(run, config, "autoencoder"):
        return parts["autoencoder"]
    if run.is_packed:
        if config.autoencoder.network.bottleneck == "none":
            return {}
        return _beside(run, config.autoencoder.from_run)
    if saved := run.checkpoints("diffusion").restore_part(["constants"]):
        return saved["constants"]["autoencoder"]
    raise UserError(f"{run.path} has no trained autoencoder")


def stage_weights(run: RunDir, config: Experiment, stage: str) -> dict:
    """The parameters of all networks that a stage of a run has trained; {} without any.

    Of the first stage also its adversary's, unless it is packed. The moving average where the run
    keeps one; NumPy arrays.
    """
    if run.is_packed:
        file = packed_file(run.path, stage)
        return read_packed(file)["params"] if file else {}
    name = _average(config, stage)
    saved = run.checkpoints(stage).restore_part([name])
    return saved[name] if saved else {}


def _average(config: Experiment, stage: str) -> str:
    return "ema" if getattr(config, stage).ema_decay else "params"


def _packed_diffusion(run: RunDir, config: Experiment) -> Weights | None:
    file = packed_file(run.path, "diffusion")
    if file is None:
        return None
    tree, autoencoder = read_packed(file), autoencoder_weights(run, config)
    if encoder_digest(autoencoder) != tree["encoder_digest"]:
        raise UserError(f"{run.path}: its diffusion.npz was trained on another encoder")
    constants = {"autoencoder": autoencoder, "scale_factor": tree["scale_factor"]}
    return Weights(tree["params"], constants)


def _beside(run: RunDir, name: str) -> dict:
    """The autoencoder of another packed run, in the same folder as this one."""
    file = packed_file(run.path.parent / name, "autoencoder") if name else None
    if file is None:
        place = f", and {run.path.parent / name} has none" if name else ""
        raise UserError(f"{run.path} has no autoencoder.npz{place}")
    return read_packed(file)["params"]["autoencoder"]
