"""Whether a file's own words contradict an experiment, and the option that follows them."""

from dataclasses import replace

import numpy as np
import pytest

from ldm_jax.conditioning.clip_text import ClipTextConfig
from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.errors import UserError
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.contradictions import contradictions
from ldm_jax.pretrained.buffers import schedule_buffers
from ldm_jax.pretrained.declared import declared, schedule_of
from ldm_jax.pretrained.diffusers_configs import (
    clip_text_config,
    scheduler_config,
    unet_config,
    vae_config,
)

SD = EXPERIMENTS["stable-diffusion-v1"]()
FACES = EXPERIMENTS["celeba256"]()


def configs(experiment):
    """As diffusers has them: folder -> configuration."""
    stage, first = experiment.diffusion, experiment.autoencoder.network
    context = 768 if stage.condition == "text" else 0
    return {
        "unet": unet_config(stage.unet, (4, 4), 64, context_dim=context, classes=0),
        "vae": vae_config(first, 3, 512, stage.scale_factor),
        "scheduler": scheduler_config(stage.schedule, stage.prediction),
        "text_encoder": clip_text_config(ClipTextConfig()),
        "safety_checker": {"architectures": ["StableDiffusionSafetyChecker"], "hidden_act": "gelu"},
    }


def said(experiment, folder="", both=True, **changes):
    files = configs(experiment)
    if folder:
        files[folder] |= changes
    return list(contradictions(experiment, declared({}, {}, files), both=both))


@pytest.mark.parametrize("experiment", [SD, FACES])
def test_its_own_configurations_do_not_contradict_it(experiment):
    assert said(experiment) == []


@pytest.mark.parametrize(
    "folder, field, value, expected",
    [
        ("scheduler", "prediction_type", "v_prediction", "--diffusion.prediction v"),
        ("scheduler", "prediction_type", "sample", "--diffusion.prediction z_0"),
        (
            "scheduler",
            "beta_end",
            0.0155,
            "beta-start 0.00085 --diffusion.schedule.beta-end 0.0155",
        ),
        ("scheduler", "beta_schedule", "linear", "--diffusion.schedule.kind linear"),
        ("scheduler", "beta_schedule", "squaredcos_cap_v2", "--diffusion.schedule.kind cosine"),
        ("scheduler", "num_train_timesteps", 500, "--diffusion.schedule.timesteps 500"),
        ("scheduler", "trained_betas", [0.1, 0.3, 0.2], "which ldm_jax has not"),
        ("scheduler", "rescale_betas_zero_snr", True, "schedule.zero-terminal-snr True"),
        ("vae", "scaling_factor", 0.13025, "--diffusion.scale-factor 0.13025"),
        ("vae", "norm_num_groups", 16, "--autoencoder.network.groups 16"),
        ("vae", "shift_factor", 0.1159, "shift_factor 0.1159"),
        ("unet", "attention_head_dim", 16, "--diffusion.unet.heads 16"),
        ("unet", "attention_head_dim", [5, 10, 20, 20], "--diffusion.unet.head-channels 64"),
        ("unet", "attention_head_dim", [5, 7, 20, 20], "heads that ldm_jax has not"),
        ("unet", "flip_sin_to_cos", False, "flip_sin_to_cos False"),
        ("unet", "freq_shift", 1, "freq_shift 1"),
        ("unet", "norm_num_groups", 16, "--diffusion.unet.groups 16"),
        ("unet", "resnet_time_scale_shift", "scale_shift", "--diffusion.unet.scale-shift True"),
        ("text_encoder", "hidden_act", "gelu", "hidden_act 'gelu'"),
    ],
)
def test_what_a_pipeline_says(folder, field, value, expected):
    (one,) = said(SD, folder, **{field: value})
    assert expected in one


def test_only_the_first_stage_counts_where_it_is_alone():
    assert said(SD, "scheduler", both=False, prediction_type="v_prediction") == []
    assert len(said(SD, "vae", both=False, norm_num_groups=16)) == 1


def test_heads_are_counted_by_their_width_without_cross_attention():
    assert said(FACES, "unet", attention_head_dim=32) == []
    (one,) = said(FACES, "unet", attention_head_dim=8)
    assert "--diffusion.unet.head-channels 8" in one


def test_arrays_of_a_file():
    stage = replace(FACES.diffusion, scale_factor=0.0)
    open_experiment = replace(FACES, diffusion=stage)
    arrays = {"scale_factor": np.full((1,), 0.25, np.float16)}
    assert list(contradictions(open_experiment, declared(arrays, {}, {}), both=True)) == []
    (one,) = contradictions(FACES, declared(arrays, {}, {}), both=True)
    assert one.endswith("--diffusion.scale-factor 0.25")
    alpha_bar = make_schedule(ScheduleConfig("linear", 1000, 1e-4, 0.02)).alpha_bar
    arrays = {"module.alphas_cumprod": alpha_bar.astype(np.float32)}
    (one,) = contradictions(FACES, declared(arrays, {}, {}), both=True)
    assert "another noise schedule" in one
    (one,) = contradictions(FACES, declared({"ztsnr": np.zeros(1)}, {}, {}), both=True)
    assert one.endswith("--diffusion.schedule.zero-terminal-snr True")
    zero = replace(FACES.diffusion.schedule, zero_terminal_snr=True)
    rescaled = replace(FACES, diffusion=replace(FACES.diffusion, schedule=zero))
    arrays = schedule_buffers(make_schedule(zero))
    assert list(contradictions(rescaled, declared(arrays, {}, {}), both=True)) == []
    assert "snr True" in next(contradictions(FACES, declared(arrays, {}, {}), both=True))


def test_a_prediction_that_is_unknown():
    with pytest.raises(UserError, match="predicts 'flow'"):
        declared({}, {"modelspec.prediction_type": "flow"}, {})


@pytest.mark.parametrize(
    "folder, changes",
    [
        ("scheduler", {"beta_start": None}),
        ("scheduler", {"beta_end": "x"}),
        ("scheduler", {"beta_end": 5}),
        ("scheduler", {"beta_schedule": ["linear"]}),
        ("scheduler", {"prediction_type": ["v_prediction"]}),
        ("scheduler", {"num_train_timesteps": 10**12}),
        ("scheduler", {"trained_betas": ["x"]}),
        ("vae", {"scaling_factor": "x"}),
        ("vae", {"scaling_factor": 0}),
        ("vae", {"scaling_factor": float("nan")}),
    ],
)
def test_what_a_pipeline_cannot_say_is_refused(folder, changes):
    with pytest.raises(UserError):
        said(FACES, folder, **changes)


def test_a_scale_factor_that_cannot_be_is_refused():
    for value in ([], [0.0], [np.inf]):
        with pytest.raises(UserError):
            declared({"scale_factor": np.array(value)}, {}, {})


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("kind", ["sqrt-linear", "linear", "cosine"])
def test_a_schedule_is_recognised(kind, dtype):
    config = ScheduleConfig(kind, 200, 0.001, 0.02)
    config = ScheduleConfig(kind, 200) if kind == "cosine" else config
    found = schedule_of(make_schedule(config).beta.astype(dtype))
    assert (found.kind, found.timesteps) == (kind, 200)
    np.testing.assert_allclose(found.beta_end, config.beta_end, 1e-3)


def test_what_diffusers_cannot_build_is_said():
    for unet, context in (
        (UNetConfig(heads=8), 0),
        (UNetConfig(heads=8, resample_in_res_blocks=True), 5),
    ):
        with pytest.raises(UserError, match="diffusers has no UNet with"):
            unet_config(unet, (3, 3), 8, context_dim=context, classes=0)
