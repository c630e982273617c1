"""What people call an option leads to the one that is there."""

import pytest

from ldm_jax.commands.suggest import suggestion

TRAIN = [
    "--run-dir",
    "--data.size",
    "--data.path",
    "--autoencoder.batch-size",
    "--autoencoder.steps",
    "--autoencoder.remat",
    "--autoencoder.optimiser.learning-rate",
    "--diffusion.batch-size",
    "--diffusion.steps",
    "--diffusion.optimiser.learning-rate",
    "--mesh.data",
    "--precision",
]
SAMPLE = ["--num-images", "--out", "--prompt", "--class-label", "--steps", "--guidance", "--eta"]
SAMPLE += ["--image", "--height", "--width", "--seed", "--batch-size"]


@pytest.mark.parametrize(
    "wanted, options, meant",
    [
        ("--epochs", TRAIN, "--autoencoder.steps or --diffusion.steps"),
        ("--steps", TRAIN, "--autoencoder.steps or --diffusion.steps"),
        ("--lr=1e-4", TRAIN, "--autoencoder.optimiser.learning-rate or --diffusion."),
        ("--diffusion.lr", TRAIN, "--diffusion.optimiser.learning-rate"),
        ("--diffusion.learning_rate", TRAIN, "--diffusion.optimiser.learning-rate"),
        ("--batch-size", TRAIN, "--autoencoder.batch-size or --diffusion.batch-size"),
        ("--autoencoder.batchsize", TRAIN, "--autoencoder.batch-size"),
        ("--resume", TRAIN, "--run-dir"),
        ("--resume_from", TRAIN, "--run-dir"),
        ("--logdir", TRAIN, "--run-dir"),
        ("--resolution", TRAIN, "--data.size"),
        ("--dataset", TRAIN, "--data.path"),
        ("--gpus", TRAIN, "--mesh.data"),
        ("--fp16", TRAIN, "--precision"),
        ("--gradient-checkpointing", TRAIN, "--autoencoder.remat"),
        ("--caption", SAMPLE, "--prompt"),
        ("--ddim_steps", SAMPLE, "--steps"),
        ("--num_inference_steps", SAMPLE, "--steps"),
        ("--cfg-scale", SAMPLE, "--guidance"),
        ("--n_samples", SAMPLE, "--num-images"),
        ("-n", SAMPLE, "--num-images"),
        ("--outdir", SAMPLE, "--out"),
        ("--H", SAMPLE, "--height"),
        ("--promt", SAMPLE, "--prompt"),
        ("--init-img", SAMPLE, "--image"),
    ],
)
def test_the_option_that_there_is_is_named(wanted, options, meant):
    assert f"; perhaps you meant {meant}" in suggestion(wanted, options)


@pytest.mark.parametrize("wanted", ["--zebra", "--x", "--autoencoder"])
def test_what_comes_close_to_nothing_has_no_suggestion(wanted):
    assert suggestion(wanted, SAMPLE) == ""


def test_only_options_of_this_command_are_named():
    assert "--prompt" not in suggestion("--caption", TRAIN)
    assert "without an option" in suggestion("--resume", TRAIN)
