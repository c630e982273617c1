"""The noise schedule as published checkpoints store it beside the weights."""

from __future__ import annotations

import numpy as np

from ldm_jax.diffusion.schedule import Schedule


def schedule_buffers(schedule: Schedule) -> dict[str, np.ndarray]:
    """Name in the original -> float32 `[T]` (posterior: App. B, Eqs. 11 and 12)."""
    beta, alpha_bar = schedule.beta, schedule.alpha_bar
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    variance = beta * (1.0 - before) / (1.0 - alpha_bar)
    with np.errstate(divide="ignore"):  # infinite where the schedule ends with noise alone
        recip = np.sqrt(1.0 / alpha_bar), np.sqrt(1.0 / alpha_bar - 1.0)
    tables = {
        "betas": beta,
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(alpha_bar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - alpha_bar),
        "log_one_minus_alphas_cumprod": np.log(1.0 - alpha_bar),
        "sqrt_recip_alphas_cumprod": recip[0],
        "sqrt_recipm1_alphas_cumprod": recip[1],
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": beta * np.sqrt(before) / (1.0 - alpha_bar),
        "posterior_mean_coef2": (1.0 - before) * np.sqrt(1.0 - beta) / (1.0 - alpha_bar),
    }
    return {name: table.astype(np.float32) for name, table in tables.items()}
