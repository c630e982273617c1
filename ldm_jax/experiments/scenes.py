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
    ConditionKind,
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
                z_channels=4,
                groups=8,
            ),
            loss=AutoencoderLossConfig(
                # L2 sharpens fastest while steps are few.
                l2_weight=1.0,
                # Far above the paper's 1e-6: it cost 0.4 dB at most, and the latents, less spread
                # out (std 1.6 instead of 5), seem easier for stage 2 to learn.
                kl_weight=3e-3,
                # The adversary pays off long after these minutes; scenes-large has it.
                disc_weight=0.0,
            ),
            optimiser=OptimiserConfig(
                4e-3, "cosine", 50, b1=0.9, b2=0.99, weight_decay=0.0, clip_norm=1.0
            ),
            progress=Progress(log_every=25, preview_every=250, save_every=250),
            batch_size=16,
            steps=2400,
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
            optimiser=OptimiserConfig(2e-3, "cosine", 100, clip_norm=1.0),
            progress=Progress(log_every=25, preview_every=500, save_every=250),
            batch_size=32,
            steps=2500,
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


def scenes_class() -> Experiment:
    """Class to image (Table 3): shape and colour of single objects at 32x32.

    python train.py scenes-class --autoencoder.from-run runs/scenes
    """
    return _single("class", steps=1500, guidance=3.0)


def scenes_unconditional() -> Experiment:
    """Single-object scenes at 32x32, from noise alone (Table 1).

    python train.py scenes-unconditional --autoencoder.from-run runs/scenes
    """
    return _single("none", steps=1500)


def scenes_layout() -> Experiment:
    """A box with its name to a single-object scene at 32x32 (Table 9).

    python train.py scenes-layout --autoencoder.from-run runs/scenes
    """
    return _single("layout", steps=2400, guidance=2.0)


def scenes_semantic() -> Experiment:
    """Semantic maps to single-object scenes at 32x32 (Sec. 4.3.2).

    python train.py scenes-semantic --autoencoder.from-run runs/scenes
    """
    return _single("semantic", steps=2800)


def scenes_inpainting() -> Experiment:
    """In-painting of single-object scenes at 32x32 (Sec. 4.5, Tables 6 and 7).

    python train.py scenes-inpainting --autoencoder.from-run runs/scenes
    """
    return _single("inpainting", steps=1200)


def _single(condition: ConditionKind, steps: int, guidance: float = 1.0) -> Experiment:
    """As scenes, on another condition, and for so many steps that 20 minutes of two cores do."""
    text = scenes()
    return replace(
        text,
        diffusion=replace(text.diffusion, condition=condition, objects=1, sections=16, steps=steps),
        sampling=replace(text.sampling, guidance=guidance),
    )


def scenes_autoencoder() -> Experiment:
    """The first stage that the tasks on scenes of several objects share, trained alone.

    python train.py scenes-autoencoder
    """
    small = scenes()
    return replace(
        small,
        data=ScenesConfig(size=32, level="pair", count=16_384, validation_count=256),
        # He's initial weights: from PyTorch's, a short run falls decibels behind.
        autoencoder=replace(small.autoencoder, init_gain=2.45),
    )


def scenes_text() -> Experiment:
    """Captions to scenes of one or two objects at 32x32 (Table 2).

    python train.py scenes-text --autoencoder.from-run runs/scenes-autoencoder
    """
    pair = scenes_autoencoder()
    return replace(pair, diffusion=replace(pair.diffusion, steps=2200))


def scenes_64() -> Experiment:
    """Captions to scenes of one or two objects at 64x64: the model that comes with the package.

    python train.py scenes-64 --autoencoder.loss.perceptual-file FILE
    """
    pair = scenes_autoencoder()
    return replace(
        pair,
        data=ScenesConfig(size=64, level="pair", count=32_768, validation_count=512),
        autoencoder=replace(
            pair.autoencoder,
            # f = 8: the latents, 8x8, cost stage 2 what those of 32x32 images cost with f = 4.
            network=replace(pair.autoencoder.network, channel_mult=(1, 2, 4, 4), z_channels=8),
            # Without LPIPS, edges are as blurred as L1 and L2 leave them.
            loss=replace(pair.autoencoder.loss, perceptual="squeezenet", perceptual_weight=0.3),
            progress=Progress(log_every=50, preview_every=750, save_every=250),
            steps=7500,
            ema_decay=0.995,
        ),
        diffusion=replace(
            pair.diffusion,
            drop_clauses=0.5,  # so that "a red cone" and "at night" are prompts, too
            progress=Progress(log_every=100, preview_every=2500, save_every=1000),
            steps=70_000,
            ema_decay=0.9995,
        ),
    )


def scenes_super_resolution() -> Experiment:
    """Super-resolution of scenes of one to four objects, 16x16 to 64x64 (Sec. 4.4, Table 5).

    python train.py scenes-super-resolution --autoencoder.from-run runs/scenes-autoencoder
    """
    pair = scenes_autoencoder()
    return replace(
        pair,
        # The first stage has no attention, so that it codes any size.
        data=ScenesConfig(size=64, level="full", count=8192, validation_count=256),
        diffusion=replace(
            pair.diffusion,
            condition="super-resolution",
            unet=UNetConfig(
                channels=48,
                channel_mult=(1, 2, 2),
                num_res_blocks=1,
                attention_factors=(2,),
                head_channels=32,
                groups=16,
            ),
            # In equal time, small batches and a short memory of gradients learn more here.
            optimiser=replace(pair.diffusion.optimiser, b2=0.99),
            batch_size=8,
            steps=5000,
        ),
        sampling=replace(pair.sampling, guidance=1.0),
        evaluation=EvaluationConfig(num_images=24),
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
