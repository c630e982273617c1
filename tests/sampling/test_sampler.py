"""The sampler: what compiles, what an image depends on, what is refused."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.autoencoder.step import to_bytes
from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.errors import UserError
from ldm_jax.sampling.inputs import SamplingInputs
from ldm_jax.sampling.noise import image_keys, noise_like
from ldm_jax.sampling.sample import NotFinite, Sampler
from ldm_jax.sampling.settings import Geometry, SamplingSettings
from ldm_jax.sampling.tiling import Tiles

NULL = np.int32(9)
PARAMS, CONSTANTS = {"contrast": jnp.float32(0.8)}, {"scale_factor": jnp.float32(0.5)}


def model(params):
    """It believes in images of one colour, which the condition decides, with some structure."""

    def predict(z_t, t, y=None):
        colour = 0.0 if y is None else y[:, None, None, None] / 8 - 0.5
        return colour + params["contrast"] * jnp.tanh(z_t)

    return predict


def image(constants, z_0):
    return 0.125 * z_0 / constants["scale_factor"]


def decoded(z_0):
    return np.asarray(to_bytes(image(CONSTANTS, z_0)), int)


def make(null=NULL):
    schedule = make_schedule(ScheduleConfig(timesteps=100, beta_end=0.2))
    return Sampler(model, image, schedule, "z_0", null)


def arguments(condition=None, shape=(4, 4, 3), *, unet_tiles=None, decoder_tiles=None, **changes):
    """What a sampler is called with; `changes` are of the inputs and of the settings."""
    inputs = {"condition": condition} | {
        name: changes.pop(name) for name in INPUTS if name in changes
    }
    if condition is not None:
        inputs["n"] = len(condition)
    settings = SamplingSettings(**{"guidance": 1.0, "steps": 4} | changes)
    geometry = Geometry(*shape[:2], shape, unet_tiles, decoder_tiles)
    return PARAMS, CONSTANTS, SamplingInputs(**inputs), settings, geometry


INPUTS = [field.name for field in fields(SamplingInputs)]


@pytest.fixture(scope="module")
def draw():
    """Five conditions, or those given, by four steps unless told otherwise."""
    sampler = make()

    def run(condition=(0, 1, 2, 3, 4), *, trajectory=False, **changes):
        changes = {"batch_size": 2, "sampler": "ddpm"} | changes
        given = arguments(np.array(condition, np.int32), **changes)
        return sampler(*given, trajectory=trajectory)

    run.sampler = sampler
    return run


def test_images_are_bytes_one_for_each_condition(draw):
    images = draw()
    assert images.shape == (5, 4, 4, 3) and images.dtype == np.uint8
    assert images.std() > 10


def test_an_image_depends_on_seed_number_and_its_own_condition_alone(draw):
    images = draw()
    for batch_size in (1, 3, 16):
        np.testing.assert_array_equal(draw(batch_size=batch_size), images)
    np.testing.assert_array_equal(draw((0, 1, 2)), images[:3])
    other = draw((0, 1, 4, 3, 4))
    assert [np.array_equal(a, b) for a, b in zip(other, images, strict=True)] == [
        True, True, False, True, True,
    ]  # fmt: skip
    assert not any(np.array_equal(a, b) for a, b in zip(draw(seed=1), images, strict=True))


def test_numbers_change_the_images_and_compile_nothing(draw):
    base = {"sampler": "ddim", "guidance": 2.0, "eta": 0.5}
    images, programs = draw(**base), draw.sampler.compiled_programs()
    for change in ({"guidance": 3.0}, {"eta": 1.0}, {"temperature": 0.5}, {"seed": 2**32 - 1}):
        assert not np.array_equal(draw(**base | change), images), change
        assert draw.sampler.compiled_programs() == programs, change
    draw(**base, guidance_rescale=0.7)  # this model's contrast is the same for all conditions
    assert draw.sampler.compiled_programs() == programs


def test_spacings_with_as_many_steps_share_a_program(draw):
    images, programs = [], []
    for how in (
        {"spacing": "uniform"},
        {"spacing": "quadratic"},
        {"spacing": "compvis"},
        {"spacing": "compvis-quadratic"},
        {"timesteps": (99, 60, 30, 10)},
    ):
        images.append(draw(sampler="heun", **how))
        programs.append(draw.sampler.compiled_programs())
    assert len({image.tobytes() for image in images}) == 5 and len(set(programs)) == 1
    draw(sampler="heun", spacing="log-snr")
    draw(sampler="heun", spacing="karras")  # fractional like that
    draw(sampler="heun", spacing="compvis-dpm")
    assert draw.sampler.compiled_programs() == programs[0] + 1


@pytest.mark.parametrize("change", [{"steps": 5}, {"sampler": "ddim"}, {"guidance": 2.5}])
def test_another_program_compiles_exactly_once(change):
    sampler = make()

    def run(**changes):
        changes = {"steps": 3, "sampler": "ddpm", "batch_size": 2} | changes
        sampler(*arguments(np.arange(3, dtype=np.int32), **changes))
        return sampler.compiled_programs()

    assert [run(), run(), run(**change), run(**change), run()] == [1, 1, 2, 2, 2]


def test_guidance_pushes_away_from_the_null_condition(draw):
    """The null colour is brighter than all others: the more guidance, the darker."""
    means = [draw(sampler="ddim", guidance=s).mean() for s in (1.0, 1.5, 2.0)]
    assert means[0] > means[1] > means[2]


def test_guidance_1_is_the_conditional_model(draw):
    plain, guided = (draw(sampler="ddim", guidance=s) for s in (1.0, 1.0 + 1e-6))
    np.testing.assert_allclose(plain.astype(int), guided.astype(int), atol=1)


def test_a_negative_condition_takes_the_place_of_the_null_one(draw):
    """One program more, whatever it is; and each image has its own."""
    same = draw(guidance=2.0, negative=np.full(5, NULL))
    np.testing.assert_array_equal(same, draw(guidance=2.0))
    programs = draw.sampler.compiled_programs()
    mixed = draw(guidance=2.0, negative=np.array([NULL, 1, NULL, NULL, 7], np.int32))
    assert draw.sampler.compiled_programs() == programs
    differ = [not np.array_equal(a, b) for a, b in zip(mixed, same, strict=True)]
    assert differ == [False, True, False, False, True]
    with pytest.raises(UserError, match="negative prompt does nothing without guidance"):
        draw(guidance=1.0, negative=np.full(5, NULL))


def test_a_schedule_that_ends_in_noise_alone_takes_the_solvers_that_can_start_there():
    schedule = make_schedule(ScheduleConfig(timesteps=100, zero_terminal_snr=True))
    sampler = Sampler(model, image, schedule, "z_0", NULL)
    y = np.arange(3, dtype=np.int32)
    for solver in ("ddim", "dpmpp-2m-sde"):
        assert sampler(*arguments(y, sampler=solver)).std() > 5
    sampler(*arguments(y, spacing="karras", timesteps=(99, 50)))
    for wrong, said in (
        ({"sampler": "heun"}, "sampler heun cannot start from noise alone.*ddim, ddpm"),
        ({"sampler": "dpmpp-sde"}, "sampler dpmpp-sde cannot start from noise alone"),
        ({"spacing": "karras"}, "spacing karras cannot start .* uniform and quadratic can"),
    ):
        with pytest.raises(UserError, match=said):
            sampler(*arguments(y, **wrong))


def test_an_unconditional_model_draws_a_number_of_images():
    sampler = make(null=None)
    images = sampler(*arguments(n=3, batch_size=2))
    assert images.shape == (3, 4, 4, 3)
    with pytest.raises(UserError, match="no condition to guide by: guidance is 1"):
        sampler(*arguments(n=3, guidance=2.0))


def test_a_model_without_a_null_condition_cannot_be_guided():
    with pytest.raises(UserError, match="never trained without its condition: guidance is 1"):
        make(null=None)(*arguments(np.arange(3, dtype=np.int32), guidance=2.0))


def given(n=5, shape=(4, 4, 3), seed=0):
    """What editing gives: latents to start from, and (where it is known, z_0)."""
    rng = np.random.default_rng(seed)
    z_t, z_0 = rng.normal(size=(2, n, *shape)).astype(np.float32)
    return {"init_latents": z_t, "known": (rng.random((n, *shape[:2], 1)) < 0.5, z_0)}


def test_starting_from_the_noise_of_an_image_is_drawing_it(draw):
    z_T = np.asarray(noise_like(image_keys(7, np.arange(5)), (4, 4, 3)))
    np.testing.assert_array_equal(draw(seed=7, init_latents=z_T), draw(seed=7))


def test_images_of_one_id_have_the_same_noise(draw):
    images = draw((3, 3, 3))
    np.testing.assert_array_equal(draw((3, 3, 3), image_ids=np.array([2, 0, 2])), images[[2, 0, 2]])


def test_a_subset_of_the_inputs_has_the_same_images(draw):
    condition = np.arange(5, dtype=np.int32)
    for ids in (None, np.array([7, 7, 0, 2, 1])):
        params, constants, inputs, *how = arguments(condition, **given(), image_ids=ids)
        whole = draw.sampler(params, constants, inputs, *how)
        rows = np.array([3, 0])
        part = draw.sampler(params, constants, inputs.subset(rows), *how)
        np.testing.assert_array_equal(part, whole[rows])


def test_edited_images_do_not_depend_on_the_batch_size_either(draw):
    images = draw(**given())
    for batch_size in (1, 3, 16):
        np.testing.assert_array_equal(draw(**given(), batch_size=batch_size), images)
    assert not np.array_equal(draw(**given(seed=1)), images)


def test_other_images_to_edit_compile_nothing(draw):
    draw(**given(), guidance=2.0)
    programs = draw.sampler.compiled_programs()
    draw(**given(seed=1), guidance=3.0, seed=4)
    assert draw.sampler.compiled_programs() == programs


def test_what_is_known_is_kept_but_for_the_noise_of_the_last_step():
    """The model says that there is no noise; at the last step there is hardly any."""
    sampler = Sampler(lambda _: lambda z_t, t, y: 0 * z_t, image, make().schedule, "eps", None)
    where, z_0 = known = given()["known"]
    images = sampler(*arguments(n=5, steps=100, known=known))
    where = np.broadcast_to(where, images.shape)
    error = np.abs(images - decoded(z_0))
    assert error[where].max() <= 6 < error[~where].mean()


def test_the_canvas_may_be_larger_than_the_models(draw):
    known = given(shape=(8, 4, 3))["known"]
    images = draw(known=known)
    assert images.shape == (5, 8, 4, 3)
    np.testing.assert_array_equal(draw(known=known, batch_size=5), images)


def test_steps_may_be_left_out_at_the_noisy_end():
    seen = []

    def watched(params):
        def predict(z_t, t, y=None):
            jax.debug.callback(lambda t: seen.append(int(t[0])), t, ordered=True)
            return z_t

        return predict

    sampler = Sampler(watched, image, make().schedule, "eps", None)
    init_latents = given(1)["init_latents"]
    how = {"steps": 5, "spacing": "uniform", "first_step": 3}
    sampler(*arguments(n=1, init_latents=init_latents, **how))
    jax.effects_barrier()
    assert seen == [39, 19]


class Embedding:
    """A model whose condition has an embedding."""

    def __call__(self, z_t, t, y=None, c=None):
        return model(PARAMS)(z_t, t, 8 * (self.embed(y) if c is None else c)[:, 0])

    def embed(self, y):
        return y[:, None] / 8


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_embedded_conditions_are_those_that_the_model_makes_of_y(guidance):
    sampler = Sampler(lambda _: Embedding(), image, make().schedule, "z_0", NULL)

    def means(condition, **changes):
        return sampler(*arguments(condition, guidance=guidance, **changes)).mean((1, 2, 3))

    y, same = np.array([1, 5], np.int32), np.zeros(3, np.int32)
    np.testing.assert_array_equal(means(y), means(Embedding().embed(y), embedded=True))
    if guidance != 1:
        negative = np.array([7, 2], np.int32)
        led = means(Embedding().embed(y), embedded=True, negative=Embedding().embed(negative))
        np.testing.assert_array_equal(means(y, negative=negative), led)
        assert (led != means(y)).all()
    between = means(np.array([[1], [3], [5]], np.float32) / 8, embedded=True, image_ids=same)
    assert between[0] < between[1] < between[2]


def test_batches_are_the_same_images_one_after_another(draw):
    batches = list(draw.sampler.batches(*arguments(np.arange(5), batch_size=2)))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), draw(sampler="ddim"))


def test_a_program_that_does_not_fit_is_refused_before_it_runs():
    def refuse(program, devices):
        assert program.memory_analysis().temp_size_in_bytes > 0 and len(devices) == 1
        raise MemoryError("too large")

    sampler = Sampler(model, image, make().schedule, "z_0", NULL, before_run=refuse)
    with pytest.raises(MemoryError, match="too large"):
        sampler(*arguments(np.arange(5)))
    assert sampler.compiled_programs() == 0


def test_any_size_is_drawn_by_a_network_without_a_size(draw):
    images = draw(shape=(6, 10, 3))
    assert images.shape == (5, 6, 10, 3)
    np.testing.assert_array_equal(draw(shape=(4, 4, 3)), draw())


def test_windows_and_tiles_change_nothing_where_positions_do_not_meet(draw):
    """The model, and its decoder, look at each position alone: parts of it are as the whole."""
    whole = draw(shape=(6, 10, 3), guidance=2.0)
    parts = draw(
        shape=(6, 10, 3),
        guidance=2.0,
        unet_tiles=Tiles.square(4),
        decoder_tiles=Tiles.square(5, 0.2),
    )
    np.testing.assert_allclose(np.int32(whole), np.int32(parts), atol=1)


class Beside:
    """A model whose condition is a map `[B, 2 h, 2 w, 3]`, of which it makes one beside z_t."""

    def __call__(self, z_t, t, y=None, c=None):
        return (self.embed(y) if c is None else c) + 0.1 * jnp.tanh(z_t)

    def embed(self, y):
        return y[:, ::2, ::2]


def test_each_window_sees_its_own_part_of_a_map():
    sampler = Sampler(
        lambda _: Beside(), image, make().schedule, "z_0", null=None, concatenates=True
    )
    y = np.random.default_rng(0).normal(size=(2, 12, 20, 3)).astype(np.float32)
    settings = {"steps": 3, "shape": (6, 10, 3)}
    whole = sampler(*arguments(y, **settings))
    parts = sampler(*arguments(y, **settings, unet_tiles=Tiles.square(4)))
    np.testing.assert_allclose(np.int32(whole), np.int32(parts), atol=1)


def test_a_trajectory_has_the_estimate_of_every_step_and_ends_in_the_image(draw):
    settings = {"sampler": "ddim", "batch_size": 5}
    estimates = draw(**settings, trajectory=True)
    assert estimates.shape == (5, 4, 4, 4, 3)
    np.testing.assert_array_equal(estimates[:, -1], draw(**settings))
    spread = estimates.astype(float).std((2, 3, 4)).mean(0)
    assert len(set(spread)) == 4


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"sampler": "rk4"}, "unknown sampler 'rk4'; there are: ddim, ddpm, plms"),
        ({"spacing": "cubic"}, "unknown spacing 'cubic'; there are: uniform, quadratic"),
        ({"steps": 60, "spacing": "compvis"}, "nearest numbers that work: 50"),
        ({"steps": 0}, "steps is 0; this model takes 1 to 100"),
        ({"steps": 101}, "steps is 101; this model takes 1 to 100"),
        ({"eta": 1.5}, "eta is 1.5; it lies between 0"),
        ({"eta": float("nan")}, "eta is nan"),
        ({"eta": 0.5}, "eta is 0.5, but sampler ddpm has none: eta 0, or sampler ddim"),
        ({"eta": 0.5, "sampler": "plms"}, "eta is 0.5, but sampler plms has none"),
        ({"guidance": 2.0, "guidance_rescale": 1.5}, "guidance rescale is 1.5; it lies between 0"),
        ({"guidance_rescale": 0.5}, "guidance rescale does nothing without guidance"),
        ({"timesteps": (5, 5)}, "timesteps are 5 5; they decrease, from 99 at most"),
        ({"seed": -1}, "seed is -1; it lies between 0 and 4294967295"),
        ({"condition": ()}, "number of images is 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(settings, said, draw):
    programs = draw.sampler.compiled_programs()
    with pytest.raises(UserError, match=said):
        draw(**settings)
    assert draw.sampler.compiled_programs() == programs


def test_images_that_are_no_numbers_are_refused(draw):
    """As bytes they would be black."""
    given = arguments(np.arange(5, dtype=np.int32), batch_size=2, sampler="ddpm")
    with pytest.raises(NotFinite, match="2 of 2 images are not finite .* weights are damaged"):
        draw.sampler({"contrast": jnp.float32("nan")}, *given[1:])
