"""The solvers' steps: against Bayes' rule, the DDIM paper and the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import eps_and_z0
from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.sampling.guidance import guided
from ldm_jax.sampling.solvers import SOLVERS, ddim_step, ddpm_step

SCHEDULE = make_schedule(ScheduleConfig())
ALPHA_BAR = SCHEDULE.alpha_bar
RNG = np.random.default_rng(0)
Z_T, EPS, NOISE = RNG.normal(size=(3, 1, 2, 2, 3)).astype(np.float32)
# Pairs t > s: neighbours, random ones, the whole way.
PAIRS = np.array([(1, 0), (999, 998), (999, 0), *np.sort(RNG.choice(1000, (30, 2)))[:, ::-1]])
PAIRS = PAIRS[PAIRS[:, 0] > PAIRS[:, 1]]


def denoise(z_t, t):
    """A network that always predicts EPS."""
    return eps_and_z0(SCHEDULE, "eps", jnp.asarray(EPS), z_t, jnp.full((1,), t))


def over(pairs, step, *, z_t=Z_T, noise=NOISE, eta=0.0, denoise=denoise):
    """z_s of one step for every pair (t, s), `[pairs, B, h, w, c]`."""

    def one(ts):
        return step(SCHEDULE, denoise, jnp.asarray(z_t), ts[0], ts[1], jnp.asarray(noise), eta)[0]

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(pairs)))


def column(a):
    return np.reshape(a, (-1, 1, 1, 1, 1))


def test_ddpm_samples_the_posterior_that_bayes_rule_gives():
    """q(z_s | z_t, z_0) is proportional to q(z_t | z_s) q(z_s | z_0), App. B, Eqs. (10)-(12)."""
    a_t, a_s = (column(ALPHA_BAR[PAIRS[:, i]]) for i in (0, 1))
    z_0 = (Z_T - np.sqrt(1 - a_t) * EPS) / np.sqrt(a_t)
    # The two factors, as functions of z_s: their precisions add up.
    prior, evidence = 1 / (1 - a_s), (a_t / a_s) / (1 - a_t / a_s)
    variance = 1 / (prior + evidence)
    mean = variance * (prior * np.sqrt(a_s) * z_0 + evidence * Z_T / np.sqrt(a_t / a_s))
    z_s = over(PAIRS, ddpm_step)
    np.testing.assert_allclose(z_s, mean + np.sqrt(variance) * NOISE, rtol=1e-3, atol=1e-4)
    assert variance.min() > 0


def test_ddim_is_equations_12_and_16_of_its_paper():
    a_t, a_s = (column(ALPHA_BAR[PAIRS[:, i]]) for i in (0, 1))
    for eta in (0.0, 0.4, 1.0):
        sigma = eta * np.sqrt((1 - a_s) / (1 - a_t)) * np.sqrt(1 - a_t / a_s)
        z_0 = (Z_T - np.sqrt(1 - a_t) * EPS) / np.sqrt(a_t)
        expected = np.sqrt(a_s) * z_0 + np.sqrt(1 - a_s - sigma**2) * EPS + sigma * NOISE
        z_s = over(PAIRS, ddim_step, eta=eta)
        np.testing.assert_allclose(z_s, expected, rtol=1e-3, atol=1e-4)


def test_ddim_with_eta_1_is_ddpm():
    """In mean (no noise) and in variance (the factor on the noise)."""
    for noise in (0 * NOISE, NOISE):
        ddim = over(PAIRS, ddim_step, noise=noise, eta=1.0)
        np.testing.assert_allclose(ddim, over(PAIRS, ddpm_step, noise=noise), rtol=1e-3, atol=1e-4)


def test_ddim_with_eta_0_ignores_the_noise_and_ddpm_ignores_eta():
    np.testing.assert_array_equal(over(PAIRS, ddim_step), over(PAIRS, ddim_step, noise=0 * NOISE))
    np.testing.assert_array_equal(over(PAIRS, ddpm_step), over(PAIRS, ddpm_step, eta=1.0))


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_step_to_clean_data_is_the_estimate_of_z_0(solver):
    t = jnp.array([0, 19, 999])
    pairs = np.stack([t, np.full(3, -1)], 1)
    z_0 = np.stack([denoise(jnp.asarray(Z_T), ti)[1] for ti in t])
    out = over(pairs, SOLVERS[solver], eta=1.0)
    np.testing.assert_allclose(out, z_0, rtol=1e-5, atol=1e-5)
    _, estimate = SOLVERS[solver](SCHEDULE, denoise, Z_T, t[1], jnp.int32(0), NOISE, 0.0)
    np.testing.assert_allclose(estimate, z_0[1], rtol=1e-5)


def test_ddpm_posterior_equals_the_reference(golden):
    """Its two coefficients and its variance for every t, s = t - 1."""
    pairs = np.stack([np.arange(1000), np.arange(1000) - 1], 1)
    one, zero = np.ones((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    for z_0, z_t, noise, name in (
        (one, zero, zero, "posterior_mean_coef1"),
        (zero, one, zero, "posterior_mean_coef2"),
        (zero, zero, one, "posterior_variance"),
    ):

        def known(z, t, z_0=z_0):
            return jnp.asarray(zero), jnp.asarray(z_0)

        out = over(pairs, ddpm_step, z_t=z_t, noise=noise, denoise=known).ravel()
        out = out**2 if name == "posterior_variance" else out
        expected = golden[f"ddpm_eps_v0.0/{name}"]
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-9)


def golden_pairs(golden, S):
    """The original's steps: it starts below T - 1, and ends at step 0 instead of at clean data."""
    tau = golden[f"ddim_timesteps/uniform_{S}"][::-1]
    return np.stack([tau, [*tau[1:], 0]], 1)


def test_ddim_noise_equals_the_reference(golden):
    pairs = golden_pairs(golden, 50)
    zero, one = np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)

    def nothing(z, t):
        return jnp.asarray(zero), jnp.asarray(zero)

    sigmas = over(pairs, ddim_step, z_t=zero, noise=one, eta=1.0, denoise=nothing).ravel()
    np.testing.assert_allclose(sigmas, golden["ddim_params/S50_eta1_sigmas"][::-1], rtol=1e-4)
    for i, name in enumerate(("alphas", "alphas_prev")):
        np.testing.assert_allclose(
            ALPHA_BAR[pairs[:, i]], golden[f"ddim_params/S50_{name}"][::-1], rtol=1e-6
        )


@pytest.mark.parametrize("S", [10, 50])
@pytest.mark.parametrize("scale, name", [(1.0, "ddim"), (3.0, "ddim_cfg3")])
def test_ddim_from_start_to_end_equals_the_reference(S, scale, name, golden):
    """eps = 0.5 z_t + 0.1 t/1000 + c; guided, c = (.05, -.02), and without condition (0, .01)."""
    c = jnp.array([0.05, -0.02, 0.0, 0.01]) * (name == "ddim_cfg3")

    def model(z_t, t, y):
        return 0.5 * z_t + (0.1 * t / 1000 + c[y])[:, None, None, None]

    @jax.jit
    def walk(z_T, i):  # one picture, since each has a null condition of its own here
        predict = guided(model, i[None], 2 + i, scale)

        def denoise(z_t, t):
            t = jnp.full((1,), t)
            return eps_and_z0(SCHEDULE, "eps", predict(z_t, t), z_t, t)

        def body(z_t, ts):
            return ddim_step(SCHEDULE, denoise, z_t, ts[0], ts[1], 0.0, 0.0)[0], None

        return jax.lax.scan(body, z_T[None], jnp.asarray(golden_pairs(golden, S)))[0][0]

    z_T = golden["sampler/x_T"].transpose(0, 2, 3, 1)
    z_0 = np.stack([walk(z_T[i], jnp.int32(i)) for i in range(2)])
    expected = golden[f"sampler/{name}_{S}"].transpose(0, 2, 3, 1)
    assert np.linalg.norm(z_0 - expected) < 1e-4 * np.linalg.norm(expected)
