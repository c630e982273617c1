"""Experiments on the embedded scenes, which need no download."""

from dataclasses import replace

from ldm_jax.autoencoder.discriminator import DiscriminatorConfig
from ldm_jax.autoencoder.loss import AutoencoderLossConfig
from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.conditioning.transformer import TransformerConfig
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments.config import (
    AutoencoderStage,
    ClassifierStage,
    DiffusionStage,
    EvaluationConfig,
    Experiment,
)
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.training.config import Progress
from ldm_jax.training.optimiser import OptimiserConfig


def scenes() -> Experiment:
    """Text to image on single-object scenes at 32x32, both stages: minutes on a laptop."""
    return Experiment(
        # At 64x64 with f = 8, equal time on two cores gave an autoencoder 4 dB worse.
        data=ScenesConfig(size=32, level="single", count=16_384, validation_count=512),
        autoencoder=AutoencoderStage(
            network=AutoencoderConfig(
                channels=16,
                channel_mult=(1, 2, 4),  # f = 4; f = 8 with as many latent values lost 4.5 dB
                num_res_blocks=1,
                mid_attention=False,  # with it, as many steps ended 2.5 dB lower
                z_channels=8,  # as many as sharp edges seem to need
                groups=8,
            ),
            loss=AutoencoderLossConfig(
                # L2 sharpens fastest while steps are few.
                l2_weight=1.0,
                # It costs 0.2 dB; the second stage learns faster on such latents.
                equivariance_weight=0.25,
                # Far above the paper's 1e-6: it cost 0.4 dB at most, and the latents, less spread
                # out (std 1.6 instead of 5), seem easier for stage 2 to learn.
                kl_weight=3e-3,
                # The adversary pays off long after these minutes; scenes-large has it.
                disc_weight=0.0,
            ),
            optimiser=OptimiserConfig(
                # After 700 steps 1.7 to 2 dB ahead of Adam (benchmarks/README.md).
                8e-3,
                "cosine",
                50,
                kind="muon",
                b2=0.99,
                weight_decay=0.0,
                clip_norm=1.0,
            ),
            progress=Progress(log_every=25, preview_every=250, save_every=250),
            # He's initial weights: from PyTorch's, a short run falls decibels behind.
            init_gain=2.45,
            batch_size=16,
            steps=1500,
            ema_decay=0.99,
        ),
        diffusion=DiffusionStage(
            unet=UNetConfig(
                channels=64,
                channel_mult=(1, 2),
                num_res_blocks=1,
                attention_factors=(1, 2),
                head_channels=32,
                groups=16,
            ),
            text=TransformerConfig(dim=96, depth=1, heads=2),
            class_dim=96,
            prediction="v",
            # A step of Muon takes longer, and teaches far more of the words.
            optimiser=OptimiserConfig(3e-3, "cosine", 100, kind="muon", clip_norm=1.0),
            timestep_density="logit-normal",  # the mid noise levels, where shapes are decided
            progress=Progress(log_every=25, preview_every=500, save_every=250),
            batch_size=32,
            steps=1000,
            ema_decay=0.995,  # remembers about 200 steps
        ),
        classifier=ClassifierStage(
            unet=UNetConfig(
                channels=32,
                channel_mult=(1, 2),
                num_res_blocks=1,
                attention_factors=(2,),
                head_channels=32,
                groups=8,
            ),
            optimiser=OptimiserConfig(2e-3, "cosine", 50, clip_norm=1.0),
            progress=Progress(log_every=25, preview_every=250, save_every=250),
            batch_size=64,
            steps=1000,
            ema_decay=0.99,
        ),
        sampling=SamplingSettings(steps=25, guidance=3.0),
        evaluation=EvaluationConfig(num_images=32),
    )


def scenes_64() -> Experiment:
    """Captions to scenes of one or two objects at 64x64: the model that comes with the package.

    python train.py scenes-64 --autoencoder.loss.perceptual-file FILE
    """
    small = scenes()
    return replace(
        small,
        data=ScenesConfig(size=64, level="pair", count=32_768, validation_count=512),
        autoencoder=replace(
            small.autoencoder,
            # f = 8: the latents, 8x8, cost stage 2 what those of 32x32 images cost with f = 4.
            network=replace(small.autoencoder.network, channel_mult=(1, 2, 4, 4)),
            loss=replace(
                small.autoencoder.loss,
                # Without LPIPS, edges are as blurred as L1 and L2 leave them.
                perceptual="squeezenet",
                perceptual_weight=0.3,
            ),
            # The weights that come with the package were trained by Adam.
            optimiser=replace(small.autoencoder.optimiser, kind="adam", learning_rate=4e-3),
            progress=Progress(log_every=50, preview_every=750, save_every=250),
            steps=7500,
            ema_decay=0.995,
        ),
        diffusion=replace(
            small.diffusion,
            text=replace(small.diffusion.text, depth=2),
            drop_clauses=0.5,  # so that "a red cone" and "at night" are prompts, too
            optimiser=replace(small.diffusion.optimiser, learning_rate=2e-3),
            progress=Progress(log_every=50, preview_every=1000, save_every=250),
            batch_size=64,  # Muon takes its time by the step
            steps=9600,
            ema_decay=0.999,
        ),
    )


def scenes_large() -> Experiment:
    """Text to image on scenes of one to four objects at 64x64, with the adversary: for one GPU."""
    return Experiment(
        data=ScenesConfig(size=64, level="full", count=50_000, validation_count=1000),
        autoencoder=AutoencoderStage(
            network=AutoencoderConfig(
                channels=64, channel_mult=(1, 2, 4), z_channels=4, mid_attention=True
            ),
            loss=AutoencoderLossConfig(
                l2_weight=1.0, kl_weight=3e-3, disc_weight=0.5, disc_start=20_000
            ),
            discriminator=DiscriminatorConfig(channels=64, layers=3),
            optimiser=OptimiserConfig(
                4e-4, "cosine", 500, b1=0.5, b2=0.9, weight_decay=0.0, clip_norm=1.0
            ),
            batch_size=64,
            steps=40_000,
            ema_decay=0.999,
        ),
        diffusion=DiffusionStage(
            unet=UNetConfig(
                channels=128, channel_mult=(1, 2, 3), num_res_blocks=2, attention_factors=(1, 2, 4)
            ),
            text=TransformerConfig(dim=256, depth=4, heads=4),
            class_dim=256,
            prediction="v",
            optimiser=OptimiserConfig(3e-4, "cosine", 1000, clip_norm=1.0),
            batch_size=256,
            steps=60_000,
            ema_decay=0.9995,
        ),
        sampling=SamplingSettings(steps=50, guidance=3.0),
        evaluation=EvaluationConfig(num_images=64),
    )


def smoke() -> Experiment:
    """Everything that scenes does, far too small to be good: does it run? Under two minutes."""
    return Experiment(
        data=ScenesConfig(size=32, level="single", count=256, validation_count=64),
        autoencoder=AutoencoderStage(
            network=AutoencoderConfig(
                channels=8,
                channel_mult=(1, 2),
                num_res_blocks=1,
                z_channels=2,
                groups=4,
                mid_attention=False,
            ),
            loss=AutoencoderLossConfig(l2_weight=1.0, disc_weight=0.5, disc_start=20),
            discriminator=DiscriminatorConfig(channels=8, layers=1),
            optimiser=OptimiserConfig(2e-3, b1=0.5, b2=0.9, weight_decay=0.0),
            progress=Progress(log_every=5, preview_every=20, save_every=10),
            batch_size=8,
            steps=40,
        ),
        diffusion=DiffusionStage(
            unet=UNetConfig(
                channels=16,
                channel_mult=(1, 2),
                num_res_blocks=1,
                attention_factors=(),  # the middle attends always
                head_channels=8,
                groups=8,
            ),
            text=TransformerConfig(dim=16, depth=1, heads=1),
            class_dim=16,
            optimiser=OptimiserConfig(1e-3),
            progress=Progress(log_every=5, preview_every=20, save_every=10),
            batch_size=16,
            steps=40,
            ema_decay=0.9,
        ),
        classifier=ClassifierStage(
            unet=UNetConfig(
                channels=16,
                channel_mult=(1, 2),
                num_res_blocks=1,
                attention_factors=(),
                head_channels=8,
                groups=8,
            ),
            optimiser=OptimiserConfig(2e-3),
            progress=Progress(log_every=5, preview_every=20, save_every=10),
            batch_size=16,
            steps=40,
            ema_decay=0.9,
        ),
        sampling=SamplingSettings(steps=5),
        evaluation=EvaluationConfig(judged_images=32),
    )
