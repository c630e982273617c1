"""The solvers' steps: against Bayes' rule, their papers and the reference."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import eps_and_z0
from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.errors import UserError
from ldm_jax.sampling.multistep import ADAMS_BASHFORTH
from ldm_jax.sampling.single_step import ddim_step, ddpm_step
from ldm_jax.sampling.solvers import SOLVERS, Solver, check_eta

# Compiling takes longer than computing here.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SCHEDULE = make_schedule(ScheduleConfig())
ALPHA_BAR = SCHEDULE.alpha_bar
RNG = np.random.default_rng(0)
Z_T, EPS, NOISE = RNG.normal(size=(3, 1, 2, 2, 3)).astype(np.float32)
ONE, ZERO = np.ones((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
# Pairs t > s: neighbours, random ones, the whole way.
PAIRS = np.array([(1, 0), (999, 998), (999, 0), *np.sort(RNG.choice(1000, (30, 2)))[:, ::-1]])
PAIRS = PAIRS[PAIRS[:, 0] > PAIRS[:, 1]]


def denoise(z_t, t):
    """A network that always predicts EPS."""
    return eps_and_z0(SCHEDULE, "eps", jnp.asarray(EPS), z_t, jnp.full((1,), t))


def changing(z_t, t):
    """A network whose prediction depends on z_t and t."""
    eps = jnp.tanh(z_t + t / 500)
    return eps_and_z0(SCHEDULE, "eps", eps, z_t, jnp.full((1,), t))


def over(pairs, solver, *, z_t=Z_T, noise=NOISE, eta=0.0, denoise=denoise):
    """z_s of one first step for every pair (t, s), `[pairs, B, h, w, c]`."""
    z_t, noise = jnp.asarray(z_t), jnp.asarray(noise)
    if solver.noises == 2 and noise.ndim == z_t.ndim:
        noise = jnp.stack([noise, 0.5 - noise], axis=1)

    def one(grid):
        memory = () if solver.memory is None else (solver.memory(z_t, grid),)
        return solver.step(SCHEDULE, denoise, z_t, *grid, noise, eta, *memory)[0]

    return np.asarray(jit(jax.vmap(one))(jnp.asarray(pairs)))


def column(a):
    return np.reshape(a, (-1, 1, 1, 1, 1))


DDPM, DDIM = SOLVERS["ddpm"], SOLVERS["ddim"]
A_T, A_S = (column(ALPHA_BAR[PAIRS[:, i]]) for i in (0, 1))
LAMBDA_T, LAMBDA_S = (0.5 * np.log(a / (1 - a)) for a in (A_T, A_S))


def z_0_of(eps, z_t=Z_T):
    return (z_t - np.sqrt(1 - A_T) * eps) / np.sqrt(A_T)


def test_ddpm_samples_the_posterior_that_bayes_rule_gives():
    """q(z_s | z_t, z_0) is proportional to q(z_t | z_s) q(z_s | z_0), App. B, Eqs. (10)-(12)."""
    # The two factors, as functions of z_s: their precisions add up.
    prior, evidence = 1 / (1 - A_S), (A_T / A_S) / (1 - A_T / A_S)
    variance = 1 / (prior + evidence)
    mean = prior * np.sqrt(A_S) * z_0_of(EPS) + evidence * Z_T / np.sqrt(A_T / A_S)
    expected = variance * mean + np.sqrt(variance) * NOISE
    np.testing.assert_allclose(over(PAIRS, DDPM), expected, rtol=1e-3, atol=1e-4)
    assert variance.min() > 0


def test_ddim_is_equations_12_and_16_of_its_paper():
    for eta in (0.0, 0.4, 1.0):
        sigma = eta * np.sqrt((1 - A_S) / (1 - A_T)) * np.sqrt(1 - A_T / A_S)
        direction = np.sqrt(1 - A_S - sigma**2) * EPS
        expected = np.sqrt(A_S) * z_0_of(EPS) + direction + sigma * NOISE
        np.testing.assert_allclose(over(PAIRS, DDIM, eta=eta), expected, rtol=1e-3, atol=1e-4)


def test_ddim_with_eta_1_is_ddpm():
    """In mean (no noise) and in variance (the factor on the noise)."""
    for noise in (0 * NOISE, NOISE):
        ddim = over(PAIRS, DDIM, noise=noise, eta=1.0)
        np.testing.assert_allclose(ddim, over(PAIRS, DDPM, noise=noise), rtol=1e-3, atol=1e-4)


def test_first_order_dpm_solver_is_euler_and_ddim_with_eta_0():
    """Each as its own paper writes it."""
    eps = np.tanh(Z_T + column(PAIRS[:, 0]) / 500)
    u_t, u_s = np.sqrt(1 / A_T - 1), np.sqrt(1 / A_S - 1)
    euler = np.sqrt(A_S) * (Z_T / np.sqrt(A_T) + (u_s - u_t) * eps)
    h = LAMBDA_S - LAMBDA_T
    dpm = np.sqrt((1 - A_S) / (1 - A_T)) * Z_T - np.sqrt(A_S) * np.expm1(-h) * z_0_of(eps)
    np.testing.assert_allclose(dpm, euler, rtol=1e-9, atol=1e-9)
    for sampler in ("dpmpp-1", "euler", "ddim"):
        out = over(PAIRS, SOLVERS[sampler], denoise=changing)
        np.testing.assert_allclose(out, dpm, rtol=1e-4, atol=1e-4)


def at(z, lam):
    """What `changing` says in float64 at a lambda: (eps, z_0)."""
    alpha, sigma = (1 + np.exp(-2 * lam)) ** -0.5, (1 + np.exp(2 * lam)) ** -0.5
    log_alpha = np.append(0.0, 0.5 * np.log(ALPHA_BAR))
    t = np.interp(np.log(alpha), log_alpha[::-1], np.arange(-1, 1000)[::-1])
    eps = np.tanh(z + t / 500)
    return eps, (z - sigma * eps) / alpha, alpha, sigma


def test_heun_is_the_trapezoidal_rule_in_sigma_over_alpha():
    eps_t, z_0, alpha_t, sigma_t = at(Z_T, LAMBDA_T)
    _, _, alpha_s, sigma_s = at(Z_T, LAMBDA_S)
    eps_s = at(alpha_s * z_0 + sigma_s * eps_t, LAMBDA_S)[0]
    slope = (eps_t + eps_s) / 2
    expected = alpha_s * (Z_T / alpha_t + (sigma_s / alpha_s - sigma_t / alpha_t) * slope)
    out = over(PAIRS, SOLVERS["heun"], denoise=changing)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)
    first_of_plms = over(PAIRS, SOLVERS["plms"], denoise=changing)
    np.testing.assert_allclose(first_of_plms, expected, rtol=1e-3, atol=1e-4)


def test_dpmpp_2s_is_algorithm_1_of_its_paper():
    h = LAMBDA_S - LAMBDA_T
    _, z_0, _, sigma_t = at(Z_T, LAMBDA_T)
    _, _, alpha_m, sigma_m = at(Z_T, LAMBDA_T + h / 2)
    _, _, alpha_s, sigma_s = at(Z_T, LAMBDA_S)
    u = sigma_m / sigma_t * Z_T - alpha_m * np.expm1(-h / 2) * z_0
    D = at(u, LAMBDA_T + h / 2)[1]
    expected = sigma_s / sigma_t * Z_T - alpha_s * np.expm1(-h) * D
    out = over(PAIRS, SOLVERS["dpmpp-2s"], denoise=changing)
    np.testing.assert_allclose(out, expected, rtol=2e-3, atol=2e-3)


def ancestral(u_t, u_s):
    """How k-diffusion splits a step in u = sigma/alpha: (down to, noise)."""
    up = np.sqrt(u_s**2 * (u_t**2 - u_s**2) / u_t**2)
    return np.sqrt(u_s**2 - up**2), up


def test_euler_a_is_euler_down_to_less_noise_and_noise_again():
    u_t, u_s = np.sqrt(1 / A_T - 1), np.sqrt(1 / A_S - 1)
    down, up = ancestral(u_t, u_s)
    x = Z_T / np.sqrt(A_T)
    eps = at(Z_T, LAMBDA_T)[0]
    expected = np.sqrt(A_S) * (x + (down - u_t) * eps + up * NOISE)
    out = over(PAIRS, SOLVERS["euler-a"], denoise=changing)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=2e-4)
    ddim = over(PAIRS, SOLVERS["ddim"], eta=1.0, denoise=changing)
    np.testing.assert_allclose(ddim, expected, rtol=1e-3, atol=2e-4)


def test_dpmpp_sde_is_two_ancestral_steps_from_the_same_place():
    """In x = z/alpha, as k-diffusion writes it: to the middle, and from t again to s."""
    h = LAMBDA_S - LAMBDA_T
    u_t, u_m, u_s = (np.exp(-LAMBDA_T - share * h) for share in (0, 0.5, 1))
    x = Z_T / np.sqrt(A_T)

    def step(u_s, D, noise):
        down, up = ancestral(u_t, u_s)
        return down / u_t * x - np.expm1(np.log(down / u_t)) * D + up * noise

    middle = step(u_m, at(Z_T, LAMBDA_T)[1], NOISE)
    alpha_m = (1 + u_m**2) ** -0.5
    D = at(alpha_m * middle, LAMBDA_T + h / 2)[1]
    # Of one Brownian motion: what the noise to the middle has become at s, and new noise.
    kept = ancestral(u_t, u_m)[1] * (u_s / u_m) ** 2
    new = ancestral(u_m, u_s)[1]
    np.testing.assert_allclose(np.hypot(kept, new), ancestral(u_t, u_s)[1], rtol=1e-9)
    noise = (kept * NOISE + new * (0.5 - NOISE)) / np.hypot(kept, new)
    expected = np.sqrt(A_S) * step(u_s, D, noise)
    out = over(PAIRS, SOLVERS["dpmpp-sde"], denoise=changing)
    np.testing.assert_allclose(out, expected, rtol=5e-3, atol=5e-3)


def test_dpmpp_2m_sde_is_the_formula_of_k_diffusion():
    """Two steps, in x = z/alpha: the second goes on with the z_0 of the first."""
    grid = np.array([900, 500, 200] + [100] * 14)  # as many that the last is not of first order
    lams = 0.5 * np.log(ALPHA_BAR[grid] / (1 - ALPHA_BAR[grid]))
    z, old, previous = np.float64(Z_T), None, None
    for now, then in ((lams[0], lams[1]), (lams[1], lams[2])):
        h, D = then - now, at(z, now)[1]
        alpha_now, alpha_then = ((1 + np.exp(-2 * lam)) ** -0.5 for lam in (now, then))
        x = np.exp(-2 * h) * z / alpha_now - np.expm1(-2 * h) * D
        if old is not None:
            x -= 0.5 * np.expm1(-2 * h) * h / (now - previous) * (D - old)
        x += np.exp(-then) * np.sqrt(-np.expm1(-2 * h)) * NOISE
        z, old, previous = alpha_then * x, D, now

    solver = SOLVERS["dpmpp-2m-sde"]
    z_t, memory = jnp.asarray(Z_T), solver.memory(jnp.asarray(Z_T), jnp.asarray(grid))
    for t, s in ((900, 500), (500, 200)):
        t, s = jnp.int32(t), jnp.int32(s)
        z_t, _, memory = solver.step(SCHEDULE, changing, z_t, t, s, NOISE, 0.0, memory)
    np.testing.assert_allclose(z_t, z, rtol=2e-3, atol=2e-3)


def test_adams_bashforth_integrates_polynomials_through_the_past():
    """k weights are exact for degree k - 1: the mean over [0, 1] of x^d seen at 0, -1, -2, -3."""
    for k, weights in enumerate(ADAMS_BASHFORTH[1:], start=2):
        for degree in range(k):
            mean = sum(w * (-float(j)) ** degree for j, w in enumerate(weights))
            assert mean == pytest.approx(1 / (degree + 1))
        assert (weights[k:] == 0).all()


@pytest.mark.parametrize("sampler", SOLVERS)
def test_eta_0_ignores_the_noise_unless_the_solver_is_stochastic(sampler):
    with_noise, without = (over(PAIRS, SOLVERS[sampler], noise=n) for n in (NOISE, 0 * NOISE))
    assert np.array_equal(with_noise, without) == (not SOLVERS[sampler].stochastic)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_only_a_solver_that_has_eta_heeds_it(sampler):
    outs = [over(PAIRS, SOLVERS[sampler], eta=eta) for eta in (0.0, 1.0)]
    assert np.array_equal(*outs) == (not SOLVERS[sampler].has_eta)
    check_eta(sampler, 0.0)
    if not SOLVERS[sampler].has_eta:
        with pytest.raises(UserError, match=f"eta is 0.1, but sampler {sampler} has none"):
            check_eta(sampler, 0.1)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_the_step_to_clean_data_is_the_estimate_of_z_0(sampler):
    t = jnp.array([0, 19, 999])
    pairs = np.stack([t, np.full(3, -1)], 1)
    z_0 = np.stack([changing(jnp.asarray(Z_T), ti)[1] for ti in t])
    out = over(pairs, SOLVERS[sampler], eta=1.0, denoise=changing)
    np.testing.assert_allclose(out, z_0, rtol=1e-5, atol=1e-5)
    upper = over(pairs, Solver(partial(ddpm_step, v=1.0)), denoise=changing)
    np.testing.assert_allclose(upper, z_0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_a_step_from_a_timestep_to_itself_goes_nowhere(sampler):
    """The published quadratic grid has such steps."""
    out = over(np.array([[1, 1], [500, 500]]), SOLVERS[sampler], denoise=changing)
    np.testing.assert_allclose(out, np.stack([Z_T, Z_T]), atol=1e-3)


def test_the_estimate_of_a_step_is_returned():
    z_0 = denoise(jnp.asarray(Z_T), 19)[1]
    for step in (ddim_step, ddpm_step):
        _, estimate = step(SCHEDULE, denoise, Z_T, jnp.int32(19), jnp.int32(0), NOISE, 0.0)
        np.testing.assert_allclose(estimate, z_0, rtol=1e-5)


ALL_PAIRS = np.stack([np.arange(1000), np.arange(1000) - 1], 1)


def response(z_0, z_t, noise, v=0.0):
    """z_{t-1} of DDPM for constant z_0, z_t, noise, for every t: `[T]`."""

    def known(z, t):
        return jnp.asarray(ZERO), jnp.asarray(z_0)

    solver = Solver(partial(ddpm_step, v=v))
    return over(ALL_PAIRS, solver, z_t=z_t, noise=noise, denoise=known).ravel()


def test_ddpm_mean_equals_the_reference(golden):
    for z_0, z_t, name in ((ONE, ZERO, "coef1"), (ZERO, ONE, "coef2")):
        expected = golden[f"ddpm/posterior_mean_{name}"]
        np.testing.assert_allclose(response(z_0, z_t, ZERO), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("v", [0.0, 0.5])
def test_ddpm_variance_equals_the_reference(v, golden):
    """Its table has v beta_0 at t = 0; there, as here, it is not used."""
    variance = response(ZERO, ZERO, ONE, v) ** 2
    assert variance[0] == 0
    expected = golden[f"ddpm_v{v}/posterior_variance"]
    np.testing.assert_allclose(variance[1:], expected[1:], rtol=1e-4)
    log_variance = golden[f"ddpm_v{v}/posterior_log_variance_clipped"]
    np.testing.assert_allclose(np.log(variance[1:]), log_variance[1:], rtol=1e-4)


def test_weights_of_the_bound_equal_the_reference(golden):
    """Those of eps are App. B's, Eqs. (13) and (15); t = 0 repeats t = 1."""
    t = jnp.arange(1, 1000)
    snr, snr_before = SCHEDULE.snr(t), SCHEDULE.snr(t - 1)
    expected = golden["ddpm_eps_v0.0/lvlb_weights"]
    weight = 0.5 * (snr_before / snr - 1)
    np.testing.assert_allclose(weight, expected[1:], rtol=2e-4)
    assert expected[0] == expected[1]
    # With v it is the square of the mean's factor on eps over twice the variance.
    beta, alpha_bar = SCHEDULE.beta[1:], ALPHA_BAR[1:]
    variance = response(ZERO, ZERO, ONE, 0.5)[1:] ** 2
    weight = beta**2 / (1 - beta) / (1 - alpha_bar) / (2 * variance)
    np.testing.assert_allclose(weight, golden["ddpm_eps_v0.5/lvlb_weights"][1:], rtol=1e-4)
    # Of z_0 it has "2 * 1 - alpha_bar" where 2 (1 - alpha_bar) was meant.
    weight = 0.5 * np.sqrt(alpha_bar) / (2 - alpha_bar)
    np.testing.assert_allclose(weight, golden["ddpm_x0/lvlb_weights"][1:], rtol=1e-4)


def test_z_0_from_eps_equals_the_reference(golden):
    t = jnp.arange(1000)
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    np.testing.assert_allclose(1 / alpha, golden["ddpm/sqrt_recip_alphas_cumprod"], rtol=1e-4)
    expected = golden["ddpm/sqrt_recipm1_alphas_cumprod"]
    np.testing.assert_allclose(sigma / alpha, expected, rtol=1e-4)


def test_ddim_noise_equals_the_reference(golden):
    """Its steps end at timestep 0 instead of at clean data."""
    tau = golden["ddim_timesteps/uniform_50"][::-1]
    pairs = np.stack([tau, [*tau[1:], 0]], 1)

    def nothing(z, t):
        return jnp.asarray(ZERO), jnp.asarray(ZERO)

    sigmas = over(pairs, DDIM, z_t=ZERO, noise=ONE, eta=1.0, denoise=nothing).ravel()
    np.testing.assert_allclose(sigmas, golden["ddim_params/S50_eta1_sigmas"][::-1], rtol=1e-4)
    for i, name in enumerate(("alphas", "alphas_prev")):
        np.testing.assert_allclose(
            ALPHA_BAR[pairs[:, i]], golden[f"ddim_params/S50_{name}"][::-1], rtol=1e-6
        )
