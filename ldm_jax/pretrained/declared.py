"""What published files say of a model beside its weights: what shapes alone do not tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.errors import UserError
from ldm_jax.pretrained.match import plain_name
from ldm_jax.pretrained.pickled import LIGHTNING

ROUNDING = 5e-3  # of files in half precision
MOST_TIMESTEPS = 1_000_000
PREDICTIONS = {
    "epsilon": "eps", "eps": "eps",
    "sample": "z_0", "x0": "z_0",
    "v_prediction": "v", "v": "v",
}  # fmt: skip
BETA_SCHEDULES = {"scaled_linear": "sqrt-linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
# Fields of diffusers' and transformers' configurations that every network of ldm_jax fixes.
# A field that is absent or null has the value that is meant here.
FIXED = {
    "unet": {
        "flip_sin_to_cos": True, "freq_shift": 0, "act_fn": "silu", "norm_eps": 1e-5,
        "mid_block_scale_factor": 1, "downsample_padding": 1, "center_input_sample": False,
        "time_embedding_type": "positional", "only_cross_attention": False,
        "dual_cross_attention": False, "resnet_skip_time_act": False, "attention_type": "default",
    },
    "vae": {"act_fn": "silu", "norm_type": "group", "shift_factor": 0},
    "text_encoder": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
}  # fmt: skip


@dataclass(frozen=True)
class Declared:
    """What a file says; None or empty: nothing."""

    scale_factor: float | None = None
    """By what latents are multiplied (App. G)."""
    beta: np.ndarray | None = None
    """The noise schedule `[T]`; that of a scheduler as it is before it ends with noise alone."""
    alpha_bar: np.ndarray | None = None
    """Likewise, from a file that has this alone."""
    prediction: str | None = None
    """eps, z_0 or v."""
    zero_terminal_snr: bool | None = None
    """Whether the schedule ends with noise alone."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """unet, vae, text_encoder, scheduler -> its configuration in a pipeline of diffusers."""


def declared(
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    configs: Mapping[str, Mapping[str, Any]],
) -> Declared:
    """What a checkpoint says, or the folder of a pipeline.

    Args:
      arrays: of which those are read that are no parameters.
      metadata: of a .safetensors file.
      configs: folder ('' for the one that was given) -> its configuration.

    Raises:
      UserError: it says something that cannot be.
    """
    try:
        return _declared(arrays, metadata, configs)
    except UserError:
        raise
    except Exception as error:  # a text, null or a list where a number belongs
        raise UserError(
            f"what the file says of itself, in scheduler, vae or buffers, is damaged: {error}"
        ) from error


def _declared(
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    configs: Mapping[str, Mapping[str, Any]],
) -> Declared:
    names = {plain_name(name).split(".")[-1]: name for name in arrays if name.count(".") < 2}
    configs = dict(_by_kind(configs))
    scheduler, found = configs.get("scheduler", {}), {}
    arguments = {
        name.removeprefix(f"{LIGHTNING}."): text
        for name, text in metadata.items()
        if name.startswith(f"{LIGHTNING}.")
    }
    if "scale_factor" in names:
        found["scale_factor"] = float(np.asarray(arrays[names["scale_factor"]]).ravel()[0])
    elif (scale := configs.get("vae", {}).get("scaling_factor")) is not None:
        found["scale_factor"] = float(scale)
    elif "scale_factor" in arguments and arguments.get("scale_by_std") != "True":  # or measured
        found["scale_factor"] = float(arguments["scale_factor"])
    if not 0 < found.get("scale_factor", 1.0) < math.inf:
        raise UserError(
            f"the file says that latents are multiplied by {found['scale_factor']}, which cannot be"
        )
    if "betas" in names:
        found["beta"] = np.asarray(arrays[names["betas"]], np.float64)
    elif "alphas_cumprod" in names:
        found["alpha_bar"] = np.asarray(arrays[names["alphas_cumprod"]], np.float64)
    else:
        found["beta"] = _beta(scheduler or _compvis_scheduler(arguments))
    words = metadata.get("modelspec.prediction_type") or scheduler.get("prediction_type")
    words = words or arguments.get("parameterization")
    if "v_pred" in names:
        words = "v"
    if words is not None:
        if words not in PREDICTIONS:
            raise UserError(
                f"the file says that it predicts {words!r}, which ldm_jax does not know"
            )
        found["prediction"] = PREDICTIONS[words]
    ends = found.get("beta"), found.get("alpha_bar")
    if "ztsnr" in names:
        found["zero_terminal_snr"] = True
    elif (flag := scheduler.get("rescale_betas_zero_snr")) is not None:
        found["zero_terminal_snr"] = bool(flag)
    elif any(table is not None for table in ends):
        found["zero_terminal_snr"] = _is_rescaled(*ends)
    return Declared(**found, configs=configs)


def schedule_of(beta: np.ndarray) -> ScheduleConfig | None:
    """The configuration that has this schedule `[T]`; None if there is none."""
    start, end = (float(f"{b:.5g}") for b in (beta[0], beta[-1]))
    for kind in ("sqrt-linear", "linear", "cosine"):
        ends = {} if kind == "cosine" else {"beta_start": start, "beta_end": end}
        config = ScheduleConfig(kind, len(beta), **ends)
        if 0 < start <= end < 1 and same_schedule(Declared(beta=beta), config):
            return config
    return None


def same_schedule(file: Declared, config: ScheduleConfig) -> bool:
    """Whether a file's schedule is this one, apart from its end; True if it has none."""
    schedule = make_schedule(
        replace(config, zero_terminal_snr=_is_rescaled(file.beta, file.alpha_bar))
    )
    pairs = (file.beta, schedule.beta), (file.alpha_bar, schedule.alpha_bar)
    return all(
        theirs is None
        or (theirs.shape == ours.shape and np.allclose(theirs, ours, ROUNDING, atol=1e-5))
        for theirs, ours in pairs
    )


def _is_rescaled(beta: np.ndarray | None, alpha_bar: np.ndarray | None) -> bool:
    """Whether a schedule ends with noise alone."""
    at_end = beta is not None and beta[-1] > 1 - 1e-6
    return at_end or (alpha_bar is not None and alpha_bar[-1] < 1e-9)


def odd_fields(file: Declared, kinds: Sequence[str]) -> Iterator[str]:
    """`unet flip_sin_to_cos false` for each field whose value no network of ldm_jax has.

    Args:
      kinds: of the configurations that count.
    """
    for kind in kinds:
        config = file.configs.get(kind, {})
        for name, value in FIXED[kind].items():
            theirs = config.get(name)
            if theirs is not None and theirs != value:
                yield f"{kind} {name} {theirs!r}, where ldm_jax has {value!r}"


def heads_of(file: Declared, channels: int, level: int) -> int | None:
    """Attention heads of the UNet at a level with this many channels; None if it does not say."""
    config = file.configs.get("unet", {})
    conditional = "Condition" in str(config.get("_class_name", ""))
    value = config.get("num_attention_heads") if conditional else None
    # What a UNet2DConditionModel calls the width of a head is the number of heads
    value = value or config.get("attention_head_dim") or config.get("num_head_channels")
    if isinstance(value, list):
        value = value[level] if level < len(value) else None
    if not isinstance(value, int) or value < 1:
        return None
    return value if conditional else channels // value


def _by_kind(
    configs: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(kind, configuration): what it is of says its class, not its folder."""
    classes = {
        "UNet2D": "unet", "Autoencoder": "vae", "VQModel": "vae", "CLIPText": "text_encoder",
        "Scheduler": "scheduler",
    }  # fmt: skip
    for config in configs.values():
        name = str(config.get("_class_name") or config.get("architectures") or "")
        for part, kind in classes.items():
            if part in name:
                yield kind, config


def _compvis_scheduler(arguments: Mapping[str, str]) -> dict[str, str]:
    """The arguments of CompVis' DDPM as diffusers would write them; {} where they name none."""
    names = {
        "linear_start": "beta_start",
        "linear_end": "beta_end",
        "timesteps": "num_train_timesteps",
    }
    if not {"linear_start", "linear_end", "beta_schedule"} & arguments.keys():
        return {}
    found = {new: arguments[old] for old, new in names.items() if old in arguments}
    kind = arguments.get("beta_schedule", "linear")
    kinds = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "squaredcos_cap_v2"}
    ends = {"beta_start": "1e-4", "beta_end": "2e-2"}
    return ends | found | {"beta_schedule": kinds.get(kind, kind)}


def _beta(scheduler: Mapping[str, Any]) -> np.ndarray | None:
    """The schedule `[T]` of a scheduler's configuration."""
    if scheduler.get("trained_betas"):
        return np.asarray(scheduler["trained_betas"], np.float64)
    kind = scheduler.get("beta_schedule")
    if kind is None:
        return None
    if kind not in BETA_SCHEDULES:
        raise UserError(f"the scheduler has beta_schedule {kind!r}, which ldm_jax does not know")
    ends = {
        name: float(scheduler[name]) for name in ("beta_start", "beta_end") if name in scheduler
    }
    steps = int(scheduler.get("num_train_timesteps", 1000))
    if not 1 <= steps <= MOST_TIMESTEPS:
        raise UserError(f"the scheduler has {steps} timesteps; ldm_jax has 1 to {MOST_TIMESTEPS}")
    return make_schedule(ScheduleConfig(BETA_SCHEDULES[kind], steps, **ends)).beta
