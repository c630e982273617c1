"""The sampling loop: models whose answer is known, noise that depends on the image alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import target
from ldm_jax.diffusion.schedule import ScheduleConfig, bcast, make_schedule
from ldm_jax.sampling.noise import image_keys, noise_like
from ldm_jax.sampling.sample import ReverseProcess, denoiser, sample
from ldm_jax.sampling.single_step import ddpm_step
from ldm_jax.sampling.solvers import SOLVERS, Solver
from ldm_jax.sampling.timesteps import timestep_grid

# Compiling takes longer than computing here.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SCHEDULE = make_schedule(ScheduleConfig())
SHAPE = (8, 8, 4)


def walk(predict, solver, grid, keys, z_T=None, prediction="eps", noise=(0.0, 1.0), **kwargs):
    """From z_T, or from the noise of the images, down a grid; noise: (eta, temperature)."""
    z_T = noise_like(keys, SHAPE) if z_T is None else z_T
    denoise = denoiser(predict, SCHEDULE, prediction)
    return sample(denoise, ReverseProcess(SCHEDULE, solver, grid, *noise), z_T, keys, **kwargs)


def draw(predict, solver, S, n=3, seed=0, spacing="uniform", **kwargs):
    """n latents by S steps."""
    keys = image_keys(seed, jnp.arange(n))
    grid = jnp.asarray(timestep_grid(spacing, S, SCHEDULE))
    return jit(partial(walk, predict, solver, **kwargs))(grid, keys)


def oracle(z_0, prediction):
    """What a network says that knows z_0."""

    def predict(z_t, t):
        eps = (z_t - bcast(SCHEDULE.alpha(t), z_t) * z_0) / bcast(SCHEDULE.sigma(t), z_t)
        return target(SCHEDULE, prediction, z_0, t, eps)

    return predict


@pytest.mark.parametrize(
    "prediction, S, sampler, eta, spacing",
    [
        ("eps", 1, "ddim", 0.0, "uniform"),
        ("v", 7, "ddpm", 0.0, "quadratic"),
        ("eps", 50, "ddim", 1.0, "uniform"),
        ("z_0", 333, "ddim", 0.0, "log-snr"),
        ("eps", 1, "plms", 0.0, "uniform"),
        ("z_0", 9, "plms", 0.0, "uniform"),
        ("v", 1, "heun", 0.0, "log-snr"),
        ("eps", 9, "heun", 0.0, "quadratic"),
        ("v", 2, "dpmpp-2m", 0.0, "uniform"),
        ("eps", 20, "dpmpp-2m", 0.0, "log-snr"),
        ("z_0", 1, "dpmpp-2s", 0.0, "log-snr"),
        ("eps", 9, "dpmpp-2s", 0.0, "uniform"),
    ],
)
def test_a_model_that_knows_z_0_is_led_there_by_any_number_of_steps(
    prediction, S, sampler, eta, spacing
):
    z_0 = jnp.asarray(np.random.default_rng(0).normal(size=(3, *SHAPE)), jnp.float32)
    predict = oracle(z_0, prediction)
    out = draw(
        predict, SOLVERS[sampler], S, prediction=prediction, noise=(eta, 1.0), spacing=spacing
    )
    np.testing.assert_allclose(out, z_0, atol=1e-3)


MEAN, STD = 1.5, 0.5


def gaussian(z_t, t):
    """The best possible eps for data that are N(MEAN, STD^2): the posterior's expectation."""
    alpha, sigma = bcast(SCHEDULE.alpha(t), z_t), bcast(SCHEDULE.sigma(t), z_t)
    return sigma * (z_t - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


@pytest.mark.parametrize(
    "sampler, spacing, S, eta",
    [
        ("ddim", "uniform", 200, 0.0),
        ("ddim", "uniform", 1000, 0.5),
        ("ddim", "uniform", 1000, 1.0),
        ("ddpm", "uniform", 1000, 0.0),
        ("dpmpp-2m-sde", "karras", 40, 0.0),
        ("dpmpp-sde", "log-snr", 30, 0.0),
        ("plms", "quadratic", 30, 0.0),
        ("heun", "log-snr", 30, 0.0),
        ("dpmpp-2m", "log-snr", 30, 0.0),
        ("dpmpp-2s", "log-snr", 15, 0.0),
    ],
)
def test_gaussian_data_are_drawn_with_their_mean_and_variance(sampler, spacing, S, eta):
    solver = SOLVERS[sampler]
    z_0 = np.asarray(
        draw(gaussian, solver, S, n=64, noise=(eta, 1.0), spacing=spacing)
    )  # 16384 numbers
    assert z_0.mean() == pytest.approx(MEAN, abs=0.02)
    assert z_0.std() == pytest.approx(STD, rel=0.03)
    if eta == 0.0 and not solver.stochastic:  # the z_T that a z_0 comes from is no surprise either
        z_T = np.asarray(noise_like(image_keys(0, jnp.arange(64)), SHAPE))
        assert np.corrcoef(z_T.ravel(), z_0.ravel())[0, 1] > 0.999


ZERO_SNR = make_schedule(ScheduleConfig(zero_terminal_snr=True))


@pytest.mark.parametrize("sampler", [name for name in SOLVERS if SOLVERS[name].zero_snr])
def test_from_noise_alone_the_mean_of_all_data_is_found(sampler):
    """At T-1 the best v is minus the mean; a schedule that leaks never asks for that."""

    def v(z_t, t):
        alpha, sigma = bcast(ZERO_SNR.alpha(t), z_t), bcast(ZERO_SNR.sigma(t), z_t)
        posterior = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (z_t - alpha * MEAN)
        eps = sigma * (z_t - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        return alpha * eps - sigma * (MEAN + posterior)

    keys, grid = image_keys(0, jnp.arange(16)), timestep_grid("quadratic", 200, ZERO_SNR)
    process = ReverseProcess(ZERO_SNR, SOLVERS[sampler], jnp.asarray(grid))
    denoise = denoiser(v, ZERO_SNR, "v")
    z_0, estimates = jit(partial(sample, denoise, process, trajectory=True))(
        noise_like(keys, SHAPE), keys
    )
    np.testing.assert_allclose(estimates[0], MEAN, atol=1e-5)
    assert z_0.mean() == pytest.approx(MEAN, abs=0.03)
    assert z_0.std() == pytest.approx(STD, rel=0.05)


def test_both_variances_of_ddpm_have_the_data_between_them():
    """One is right for data that are one point, the other for standard normal ones. Half-way."""
    keys, grid = image_keys(0, jnp.arange(64)), jnp.linspace(999, 400, 31).astype(int)
    stds = []
    for v in (0.0, 1.0):
        solver = Solver(partial(ddpm_step, v=v))
        run = jit(partial(walk, gaussian, solver))
        stds.append(np.asarray(run(grid, keys)).std())
    alpha, sigma = SCHEDULE.alpha(jnp.int32(400)), SCHEDULE.sigma(jnp.int32(400))
    assert stds[0] < jnp.hypot(alpha * STD, sigma) < stds[1]


def test_an_image_depends_on_seed_and_number_alone():
    def predict(z_t, t):
        return jnp.tanh(z_t + 0.001 * t[:, None, None, None])

    run = jit(partial(walk, predict, SOLVERS["ddpm"], jnp.array([999, 500, 20, -1])))
    together = run(image_keys(7, jnp.arange(5)))
    for i in (0, 3):
        np.testing.assert_allclose(run(image_keys(7, jnp.array([i])))[0], together[i], atol=1e-5)
    backwards = run(image_keys(7, jnp.arange(5)[::-1]))
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-5)
    other = run(image_keys(8, jnp.arange(5)))
    assert not np.allclose(other, together)


def test_the_noise_of_images_and_steps_is_independent():
    def keep(schedule, denoise, z_t, t, s, noise, eta):
        return noise, z_t  # so the trajectory is z_T, then the noise of each step

    _, z_ts = draw(None, Solver(keep), 4, n=4, trajectory=True)
    noise = np.asarray(z_ts).reshape(16, -1)
    assert np.abs(np.corrcoef(noise) - np.eye(16)).max() < 0.3  # five standard deviations
    assert noise.std() == pytest.approx(1.0, abs=0.03)


def test_temperature_scales_the_noise_of_the_steps_and_not_z_T():
    def add(schedule, denoise, z_t, t, s, noise, eta):
        return z_t + noise, z_t

    keys, grid = image_keys(0, jnp.arange(2)), jnp.array([0, -1])
    z_T = np.asarray(noise_like(keys, SHAPE))
    run = jit(
        lambda temperature: walk(None, Solver(add), grid, keys, z_T, noise=(0.0, temperature))
    )
    np.testing.assert_array_equal(run(0.0), z_T)
    np.testing.assert_allclose(run(0.5) - z_T, 0.5 * (run(1.0) - z_T), atol=1e-6)


@pytest.mark.slow
def test_the_loop_visits_every_step_and_ends_at_clean_data():
    visited = []

    def watch(schedule, denoise, z_t, t, s, noise, eta):
        jax.debug.callback(lambda t, s: visited.append((int(t), int(s))), t, s, ordered=True)
        assert denoise(z_t, t)[0].shape == z_t.shape
        return z_t, z_t

    def predict(z_t, t):
        assert t.shape == (3,) and t.dtype == jnp.int32
        return z_t

    jax.block_until_ready(draw(predict, Solver(watch), 3))
    jax.effects_barrier()
    assert visited == [(999, 665), (665, 332), (332, -1)]


@pytest.mark.parametrize("sampler", ["ddim", "plms", "dpmpp-2m", "heun"])
def test_a_trajectory_is_the_estimate_of_every_step_and_ends_in_z_0(sampler):
    z_0, estimates = draw(gaussian, SOLVERS[sampler], 5, trajectory=True)
    assert estimates.shape == (5, 3, *SHAPE)
    np.testing.assert_allclose(estimates[-1], z_0, atol=1e-6)
    spread = np.asarray(estimates).std((1, 2, 3, 4))
    assert spread[0] < 0.2 * spread[-1]  # from the mean of all data to one image


@pytest.mark.parametrize("sampler", SOLVERS)
def test_the_network_is_traced_once_and_scalars_and_timesteps_compile_nothing(sampler):
    traces = []

    def predict(z_t, t):
        traces.append(t)
        return jnp.tanh(z_t)

    @jit
    def run(grid, keys, eta, temperature):
        return walk(predict, SOLVERS[sampler], grid, keys, noise=(eta, temperature))

    keys = image_keys(0, jnp.arange(2))
    for values in ([999, 500, 100, -1], 0.0, 1.0), ([800, 600, 400, 0], 0.5, 0.7):
        run(*(jnp.array(value) for value in values[:1]), keys, *map(jnp.float32, values[1:]))
    assert len(traces) == 1 and run._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler, to_clean_data, to_0",
    [
        ("ddim", 4, 4),
        ("dpmpp-2m", 4, 4),
        ("dpmpp-2m-sde", 4, 4),
        ("plms", 5, 5),
        ("heun", 7, 8),
        ("dpmpp-2s", 7, 8),
        ("dpmpp-sde", 7, 8),
    ],
)
def test_the_network_is_asked_no_more_often_than_needed(sampler, to_clean_data, to_0):
    times = []

    def predict(z_t, t):
        jax.debug.callback(lambda t: times.append(float(t)), t[0], ordered=True)
        return jnp.tanh(z_t)

    @jit
    def run(grid):
        return walk(predict, SOLVERS[sampler], grid, image_keys(0, jnp.arange(2)))

    for end, count in ((-1, to_clean_data), (0, to_0)):
        times.clear()
        run(jnp.array([999, 700, 400, 100, end]))
        jax.effects_barrier()
        assert len(times) == count and min(times) >= 0


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_a_walk_may_start_in_the_middle(sampler):
    grid = jnp.array([999, 800, 500, 100, -1])
    run = partial(walk, gaussian, SOLVERS[sampler])
    keys = image_keys(0, jnp.arange(2))
    z_500 = run(grid[:3], keys)
    np.testing.assert_allclose(run(grid[2:], keys, z_T=z_500), run(grid, keys), atol=1e-5)


def test_what_is_known_is_blended_in_before_each_step_and_not_after_the_last():
    seen = []

    def add_one(schedule, denoise, z_t, t, s, noise, eta):
        return z_t + 1, z_t

    def blend(z_t, t, keys):
        jax.debug.callback(lambda t: seen.append(int(t)), t, ordered=True)
        return 10 * z_t

    zeros = jnp.zeros((3, *SHAPE))
    z_0, z_ts = draw(None, Solver(add_one), 3, z_T=zeros, blend=blend, trajectory=True)
    jax.effects_barrier()
    assert seen == [999, 665, 332]
    assert z_ts[:, 0, 0, 0, 0].tolist() == [0, 10, 110] and (z_0 == 111).all()


def test_the_noise_of_blending_is_new_in_each_step_and_no_other_noise():
    def keep(schedule, denoise, z_t, t, s, noise, eta):
        return noise, z_t

    def blend(z_t, t, keys):
        return noise_like(keys, SHAPE)

    blended = draw(None, Solver(keep), 4, n=2, blend=blend, trajectory=True)[1]
    plain = draw(None, Solver(keep), 4, n=2, trajectory=True)[1]
    noise = np.concatenate([blended, plain]).reshape(16, -1)
    assert np.abs(np.corrcoef(noise) - np.eye(16)).max() < 0.3
