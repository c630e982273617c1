"""`python sample.py RUN` with --classifier-scale or --guide-image, and what it refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.sample.command import GuideOptions
from ldm_jax.commands.sample.guide import make_guides
from ldm_jax.commands.sample.plan import Request
from ldm_jax.data.images import fit
from ldm_jax.diffusion.classifier import log_likelihood
from ldm_jax.model.classifier import Classifier
from ldm_jax.model.run_dir import RunDir
from ldm_jax.sampling.guides import downsample

pytestmark = pytest.mark.slow

CUBE = ["--class-label", "red cube"]


@pytest.fixture(scope="module")
def unconditional(train_tiny, trained, photographs, tmp_path_factory):
    """An unconditional model of images that have classes, with a classifier."""
    run = tmp_path_factory.mktemp("runs") / "unconditional"
    words = ["--data.path", photographs / "classes", "--data.crop", "centre", "--run-dir", run]
    words += ["--diffusion.condition", "none", "--autoencoder.from-run", trained("classes")[1]]
    for stage in ("both", "classifier"):
        ended = train_tiny("folder", *words, "--stage", stage)
        assert ended.code == 0, ended.err
    return run


@pytest.fixture
def drawn(sample, tmp_path):
    """`drawn(run, ...)`: (the pixels that `sample.py RUN ...` writes, their metadata)."""

    def draw(run, *words):
        out = tmp_path / "out.png"
        ended = sample(run, "--num-images", 2, *words, "--out", out)
        assert ended.code == 0, ended.err
        image = Image.open(out)
        return np.asarray(image), image.text

    return draw


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """An image to resemble: blue above, orange below."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20], pixels[20:] = (60, 90, 200), (230, 140, 40)
    file = tmp_path_factory.mktemp("files") / "scene.png"
    Image.fromarray(pixels).save(file)
    return file


def test_an_unconditional_model_draws_classes_by_its_classifier(unconditional, drawn, sample):
    labels = ["--class-label", "red", "blue"]
    plain, _ = drawn(unconditional)
    guided, text = drawn(unconditional, *labels, "--classifier-scale", 20)
    assert text["conditions"] == "red\nred\nblue\nblue" and text["classifier_scale"] == "20.0"
    other, _ = drawn(unconditional, *labels, "--classifier-scale", 40)
    assert guided.shape[0] > plain.shape[0] and not np.array_equal(guided, other)
    error = sample(unconditional, *labels).error
    assert "classes only to guide towards, with --classifier-scale" in error


def test_a_model_of_classes_is_led_to_the_class_it_draws(of_classes, drawn):
    (plain, text), (guided, more) = (
        drawn(of_classes, "--class-label", "red", *words)
        for words in ([], ["--classifier-scale", 20])
    )
    assert "classifier_scale" not in text and more["classifier_scale"] == "20.0"
    assert text["guidance"] == more["guidance"] != "1.0"  # works beside it
    assert not np.array_equal(plain, guided)


def test_a_model_of_captions_has_classes_beside_captions_or_in_their_place(classified, drawn):
    run, scale = classified[1], ["--classifier-scale", 9]
    captions = ["--prompt", "a red cube", "a blue ball"]
    _, text = drawn(run, *captions, *CUBE, *scale)
    asked = ["a red cube, towards red cube", "a blue ball, towards red cube"]
    assert text["conditions"].split("\n")[::2] == asked and text["guidance"] == "3.0"
    _, text = drawn(run, *captions, *CUBE, "blue ball", *scale)
    assert "a blue ball, towards blue ball" in text["conditions"]
    _, text = drawn(run, *CUBE, "green cone", *scale)
    assert text["conditions"].split("\n")[::2] == ["red cube", "green cone"]
    assert text["guidance"] == "1.0"  # nothing is asked for that could be left out


@pytest.fixture(scope="module")
def library(classified, loaded):
    """`library(guides)`: eight images without a prompt, guided by these."""
    model = loaded(classified[1])
    null = {"condition": model.condition.null[None]}
    settings = replace(model.settings, guidance=1.0, steps=10, batch_size=8)
    request = Request(model, null, ["red cube"], 8, settings)

    def draw(guides=()):
        inputs = replace(request.inputs(), guides=guides)
        return np.concatenate(list(model.batches(inputs, settings)))

    def guides(**options):
        return make_guides(GuideOptions(**options), request, RunDir(classified[1]), ["red cube"])

    draw.run, draw.model, draw.guides = RunDir(classified[1]), model, guides
    return draw


def test_the_larger_the_scale_the_likelier_the_class(library):
    """As the model's classifier sees the images, encoded and noised; compiled once."""
    model, classifier = library.model, Classifier(library.model)
    params = library.run.checkpoints("classifier").restore_part(["ema"])["ema"]
    y = classifier.labels.encode(["red cube"] * 8)

    @jax.jit
    def likelihood(z_0):
        return log_likelihood(classifier.objective.model(params)(z_0, jnp.full(8, 50)), y)

    (guide,) = library.guides(classifier_scale=30.0)
    assert guide.scale == 30.0 and library.guides() == ()
    images = [library((replace(guide, scale=s),)) for s in (0.0, 30.0, 100.0)]
    np.testing.assert_array_equal(images[0], library())
    log_ps = [likelihood(model.encode(x)).mean() for x in images]
    assert log_ps[0] < log_ps[1] < log_ps[2]


@pytest.mark.parametrize("factor", [1, 8])
def test_guided_by_an_image_a_smaller_view_is_nearer_to_it(factor, library, scene):
    small = fit(Image.open(scene), 32 // factor) / 127.5 - 1.0

    def distance(images):
        seen = downsample(jnp.asarray(images / 127.5 - 1.0), factor)
        return np.mean((np.asarray(seen) - small) ** 2, axis=(1, 2, 3))

    # In ten steps a scale of factor^2 overshoots.
    scale = 2 * factor
    options = {"guide_image": str(scene), "guide_scale": scale, "guide_factor": factor}
    plain, guided = library(), library(library.guides(**options))
    assert (distance(guided) < distance(plain)).all()


def test_an_image_guides_whatever_else_is_asked(classified, unconditional, drawn, scene):
    image = ["--guide-image", scene, "--guide-factor", 4]
    for run, words in (
        (classified[1], [*CUBE, "--classifier-scale", 5]),
        (classified[1], ["--prompt", "a red cube", "--image", scene]),
        (unconditional, []),
    ):
        (one, text), (other, _) = (
            drawn(run, *words, *image, "--guide-scale", scale) for scale in (0.3, 30)
        )
        assert not np.array_equal(one, other)
        settings = {"guide_image": str(scene), "guide_scale": "0.3", "guide_factor": "4"}
        assert settings.items() <= text.items()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--classifier-scale", 5], ["guides towards classes: give --class-label NAME"]),
        ([*CUBE], ["trained on captions: use --prompt, or --classifier-scale"]),
        (["--class-label", "puce cube", "--classifier-scale", 5], ["unknown class 'puce cube'"]),
        (
            [
                "--prompt",
                "a cube",
                "a ball",
                "a cone",
                *CUBE,
                "blue ball",
                "--classifier-scale",
                5,
            ],
            ["there are 3 prompts and 2 classes to guide them towards"],
        ),
        (
            [*CUBE, "--classifier-scale", "nan"],
            ["--classifier-scale is nan; it must be a finite number"],
        ),
        (["--guide-image", "nowhere.png"], ["--guide-image nowhere.png cannot be read"]),
        (["--prompt", "a cube", "--guide-scale", 2], ["--guide-scale needs --guide-image"]),
        (["--prompt", "a cube", "--guide-factor", 2], ["--guide-factor needs --guide-image"]),
        (
            ["--guide-image", "SCENE", "--guide-factor", 5],
            ["--guide-factor is 5; it must divide the 32"],
        ),
        (["--guide-image", "SCENE", "--guide-factor", 0], ["--guide-factor is 0"]),
        (
            ["--guide-image", "SCENE", "--invert", "SCENE"],
            ["--invert takes no --guide-image"],
        ),
        (
            [*CUBE, "--classifier-scale", 5, "--interpolate", 3],
            ["--interpolate takes no --classifier-scale"],
        ),
        (
            ["--guide-image", "SCENE", "--reconstruct", "SCENE"],
            ["--reconstruct takes no --guide-image"],
        ),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_bad_input_is_one_line_and_draws_nothing(
    words, said, classified, sample, scene, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    error = sample(classified[1], *(scene if word == "SCENE" else word for word in words)).error
    assert all(part in error for part in said), error
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_classifier_says_how_to_train_one(smoke, sample):
    error = sample(smoke[1], *CUBE, "--classifier-scale", 5).error
    assert "has no classifier to guide by" in error
    assert f"python train.py smoke --run-dir {smoke[1]} --stage classifier" in error
