"""`pack`: a small copy of a run, for sampling; the models that come with the package are such."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import tyro
from etils import epath

from ldm_jax.commands import cli
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import AutoencoderStage, Experiment
from ldm_jax.model.config_json import to_json
from ldm_jax.model.find import find_run, is_run
from ldm_jax.model.load import autoencoder_weights, diffusion_weights, stage_weights
from ldm_jax.model.packed import encoder_digest, packed_file, read_packed, write_packed
from ldm_jax.model.run_dir import STAGES, RunDir
from ldm_jax.paths import check_output, user_path, write_whole


@dataclass(frozen=True)
class PackCommand:
    """Makes a small copy of a run: its weights as sampling uses them, in bfloat16, and its
    configuration. Wherever a run directory can be given, the copy can, but for training on in it.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """A new folder; or an earlier copy, in which the files of equal weights stay as they are. A
    first stage that the run borrowed from a copy beside it is not written again."""


def main(words: Sequence[str]) -> None:
    """`python -m ldm_jax pack RUN --out FOLDER`."""
    command = cli.parse(PackCommand, words, "python -m ldm_jax pack")
    cli.start_jax()
    print(pack(command))


def pack(command: PackCommand) -> str:
    """Writes the folder; returns a few lines about it. UserError for what cannot be packed."""
    run, out = find_run(command.run), user_path(command.out)
    check_output(out)
    if out.exists() and not RunDir(out).is_packed and any(out.iterdir()):
        raise UserError(f"{out} is no packed run, and not empty; choose another --out")
    _, experiment, _ = run.load()
    steps = run.begun()
    if not steps:
        raise UserError(f"{run.path} has no checkpoint yet; train it first")

    # Weights
    trees: dict[str, dict[str, Any]] = {}
    weights = diffusion_weights(run, experiment)
    first = weights.constants["autoencoder"] if weights else autoencoder_weights(run, experiment)
    lender = _lender(experiment.autoencoder, first, out)
    if first and not lender:
        trees["autoencoder"] = {"params": {"autoencoder": first}}
    if weights:
        trees["diffusion"] = {
            "params": weights.params,
            "scale_factor": np.float32(weights.constants["scale_factor"]),
            "encoder_digest": encoder_digest(first),
        }
    if classifier := stage_weights(run, experiment, "classifier"):
        trees["classifier"] = {"params": classifier}

    # How they were made
    stage = experiment.autoencoder
    if stage.from_run and not lender and is_run(stage.from_run):
        origin = find_run(stage.from_run)
        stage, steps = origin.load()[1].autoencoder, origin.begun() | steps
    steps = {"autoencoder": stage.steps} | steps
    stage = replace(stage, from_run=lender)

    # Files
    out.mkdir(parents=True, exist_ok=True)
    said = []
    for name in STAGES:
        file = out / f"{name}.npz"
        if name in trees:
            changed = write_packed(file, steps[name], trees[name])
            size = f"{file.stat().length / 1e6:.2f} MB"
            said.append(f"{file}: step {steps[name]}, {size}{'' if changed else ', unchanged'}")
        else:
            file.unlink(missing_ok=True)
    _write_config(run, _anywhere(replace(experiment, autoencoder=stage)), out)
    if lender:
        said.append(f"the first stage is that of {out.parent / lender}")
    return "\n".join(said)


def _lender(stage: AutoencoderStage, first: dict, out: epath.Path) -> str:
    """The name of the packed run beside `out` whose encoder the run borrowed; '': none."""
    name = epath.Path(stage.from_run).name if stage.from_run else ""
    file = packed_file(out.parent / name, "autoencoder") if name not in ("", out.name) else None
    if file is None:
        return ""
    lent = read_packed(file)["params"]["autoencoder"]
    return name if encoder_digest(lent) == encoder_digest(first) else ""


def _anywhere(experiment: Experiment) -> Experiment:
    """Without the names of files that were needed to train it, and that are elsewhere now."""
    first, second = experiment.autoencoder, experiment.diffusion
    return replace(
        experiment,
        init_from="",
        autoencoder=replace(first, loss=replace(first.loss, perceptual_file="")),
        diffusion=replace(second, tokenizer_file=""),
        evaluation=replace(experiment.evaluation, perceptual_file=""),
    )


def _write_config(run: RunDir, experiment: Experiment, out: epath.Path) -> None:
    """config.json, with the id of the run, and tokenizer.json where there is one."""
    content = json.loads((run.path / "config.json").read_bytes())
    content |= {"id": run.id, "config": to_json(experiment)}
    write_whole(out / "config.json", json.dumps(content, indent=2) + "\n")
    if (tokenizer := run.path / "tokenizer.json").exists():
        write_whole(out / "tokenizer.json", tokenizer.read_bytes())
