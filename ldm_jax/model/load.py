"""From a run directory or published weights to a `LatentDiffusion`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.latent_diffusion import LatentDiffusion
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


def load(path: str, model: str = "", **options: Any) -> LatentDiffusion:
    """A trained model: a run directory, or published weights.

        ldm_jax.load("runs/scenes")
        ldm_jax.load("celebahq.ckpt", model="celeba256")
        ldm_jax.load("mine.safetensors")  # as `export` writes it

    Args:
      path: a run directory; with `model` a CompVis checkpoint (.ckpt, .safetensors) or the folder
        of a diffusers pipeline.
      model: the experiment whose published weights they are.
      options: of `load_published`: `ema`, `tokenizer`, `names`, `first_stage`.

    Raises:
      UserError: nothing there, no checkpoint yet, or weights that do not fit.
    """
    if model:
        return load_published(path, published_experiment(model), **options).model
    if not user_path(path).exists():
        raise UserError(f"{path} is neither a run directory nor published weights")
    if not is_run(path):
        if own := described(path):
            return load_published(path, own, **options).model
        raise UserError(
            f"{path} is no run directory: it has no config.json; published weights need "
            'model="NAME", such as model="celeba256"'
        )
    return load_run(RunDir(path))


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
    run = RunDir(path)
    params = autoencoder_weights(run, run.load()[1])
    wanted = jax.eval_shape(model.first.objective.init, jax.random.key(0))["autoencoder"]
    shapes = [[(p, np.shape(leaf)) for p, leaf in jax.tree.leaves_with_path(tree)]
              for tree in (params, wanted)]  # fmt: skip
    if shapes[0] != shapes[1]:
        raise UserError(f"the first stage of {path} is another network than that of {model.name}")
    return params


def is_run(path: str) -> bool:
    """Whether it is a run directory, and no part of a pipeline, which may have a config.json."""
    config = user_path(path) / "config.json"
    if not config.exists():
        return False
    content = config.read_bytes()
    return b'"_class_name"' not in content and b'"architectures"' not in content


def load_run(run: RunDir) -> LatentDiffusion:
    """The model of a run: both stages, or the first alone where there is no second yet."""
    name, config, info = run.load()
    weights = diffusion_weights(run, config)
    if weights is None:
        autoencoder = autoencoder_weights(run, config)
        weights = Weights(None, {"autoencoder": autoencoder, "scale_factor": np.float32(1)})
    if damaged := not_finite((weights.params or {}) | weights.constants):
        raise UserError(f"{run.path}: the weights {damaged} hold NaN or infinity; they are damaged")
    model = LatentDiffusion(config, info, weights, f"{run.path} ({name})")
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
    """The newest checkpoint of a run's second stage; None without one.

    The parameters are the moving average where the run keeps one; NumPy arrays.
    """
    name = "ema" if config.diffusion.ema_decay else "params"
    saved = run.checkpoints("diffusion").restore_part([name, "constants"])
    return saved and Weights(saved[name], saved["constants"])


def autoencoder_weights(run: RunDir, config: Experiment) -> dict:
    """The parameters of a run's autoencoder, NumPy arrays; a UserError if there are none."""
    if parts := first_stage_weights(run, config):
        return parts["autoencoder"]
    if saved := run.checkpoints("diffusion").restore_part(["constants"]):
        return saved["constants"]["autoencoder"]
    raise UserError(f"{run.path} has no trained autoencoder")


def first_stage_weights(run: RunDir, config: Experiment) -> dict:
    """The parameters of all networks of a run's first stage, its adversary's too; {} without any.

    The moving average where the run keeps one; NumPy arrays.
    """
    name = "ema" if config.autoencoder.ema_decay else "params"
    saved = run.checkpoints("autoencoder").restore_part([name])
    return saved[name] if saved else {}
