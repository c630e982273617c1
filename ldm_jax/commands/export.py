"""`export`: a run as a file of CompVis/latent-diffusion, or as a pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from etils import epath

from ldm_jax.commands import cli
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.find import find_run
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.load import diffusion_weights, stage_weights
from ldm_jax.model.parts import TrainedStage, network_parts
from ldm_jax.model.pipeline import pipeline_configs
from ldm_jax.model.published import DESCRIPTION, Described, description
from ldm_jax.model.run_dir import RunDir
from ldm_jax.paths import check_output, user_path
from ldm_jax.pretrained.buffers import schedule_buffers
from ldm_jax.pretrained.convert import write_compvis, write_diffusers
from ldm_jax.pretrained.files import write_ckpt, write_pipeline, write_safetensors

OTHER_FILES = (
    *(".bin", ".pt", ".pth", ".pkl", ".npz", ".h5", ".msgpack"),
    *(".onnx", ".gguf", ".tflite", ".pb", ".keras", ".zip", ".json"),
)


@dataclass(frozen=True)
class ExportCommand:
    """Writes a run's networks as CompVis/latent-diffusion or diffusers stores them.

    `convert` reads both back; they say themselves what they hold.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory, or the name of a model that comes with the package."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE|FOLDER")]
    """A new file, .ckpt or .safetensors, as CompVis stores it; or a new folder, as diffusers."""


def main(words: Sequence[str]) -> None:
    """`python -m ldm_jax export RUN --out FILE|FOLDER`."""
    command = cli.parse(ExportCommand, words, "python -m ldm_jax export")
    cli.start_jax()
    print(export(command))


def export(command: ExportCommand) -> str:
    """Writes the file or the folder; returns a line that says so."""
    run, out = find_run(command.run), user_path(command.out)
    name, experiment, info = run.load()
    if out.suffix in OTHER_FILES:
        raise UserError(
            f"--out is {command.out!r}; a file ends with .ckpt or .safetensors, anything else is a "
            "folder for diffusers"
        )
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    check_output(out)
    stage: TrainedStage = "diffusion" if "diffusion" in run.begun() else "autoencoder"
    saved = _saved(run, experiment, stage)
    if saved is None:
        raise UserError(f"{run.path} has no checkpoint yet; train it first")
    model = LatentDiffusion(experiment, info, name=name)
    words = {DESCRIPTION: description(Described(name, experiment, stage, info))}
    if out.suffix in (".ckpt", ".safetensors"):
        write = write_ckpt if out.suffix == ".ckpt" else write_safetensors
        arrays = _compvis(model, stage, saved)
        write(out, arrays, words)
        return f"{len(arrays)} arrays in {out}"
    return _diffusers(model, stage, saved, out, words)


def _saved(run: RunDir, experiment: Experiment, stage: TrainedStage) -> dict[str, Any] | None:
    """`params`, `constants` and, where there is one, the average `ema`; None: nothing is trained.

    A packed run has one copy of its weights, the averaged ones.
    """
    if not run.is_packed:
        average = ["ema"] if getattr(experiment, stage).ema_decay else []
        return run.checkpoints(stage).restore_part(["params", "constants", *average])
    if stage == "autoencoder":
        return {"params": stage_weights(run, experiment, stage)}
    weights = diffusion_weights(run, experiment)
    return {"params": weights.params, "constants": weights.constants}


def _compvis(model: LatentDiffusion, stage: TrainedStage, saved: dict[str, Any]) -> dict[str, Any]:
    params, ema, buffers, scale = saved["params"], saved.get("ema"), {}, None
    if stage == "diffusion":
        # Sampling uses tau's average; CompVis files have one copy of it, and no average
        tau = {name: tree for name, tree in (ema or {}).items() if name == "tau"}
        shared = {"autoencoder": saved["constants"]["autoencoder"]}
        params = {**(params or ema), **tau, **shared}
        ema = ema and {"unet": ema["unet"]}
        scale = float(saved["constants"]["scale_factor"])
        buffers = schedule_buffers(model.schedule)
    elif ema:
        params, ema = ema, None  # first stages are published without an average
    parts = network_parts(model, stage)
    return write_compvis(params, parts, ema=ema, scale_factor=scale, buffers=buffers)


def _diffusers(
    model: LatentDiffusion,
    stage: TrainedStage,
    saved: dict[str, Any],
    out: epath.Path,
    words: dict[str, str],
) -> str:
    """Of averaged weights, where the run has them."""
    params, scale = saved.get("ema") or saved["params"], 1.0
    if stage == "diffusion":
        constants = saved["constants"]
        params = {**params, "autoencoder": constants["autoencoder"]}
        scale = float(constants["scale_factor"])
    configs = pipeline_configs(model, stage, scale)
    parts = [part for part in network_parts(model, stage) if part.name != "discriminator"]
    components = write_diffusers(params, parts)
    if stage == "autoencoder":  # which is the folder itself
        components = {"": next(iter(components.values()))}
    write_pipeline(out, components, configs, words)
    own = [part.name for part in parts if not part.component]
    alone = f"; diffusers has no network for the condition: it is in {own[0]}/" if own else ""
    what = ", ".join(f"{name}/" for name in components if name) or "the first stage"
    return f"{what} in {out}{alone}"
