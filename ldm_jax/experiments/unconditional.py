"""Unconditional models on 256x256 images: Sec. 4.2 (Table 12), and Fig. 7 left (Table 14).

Learning rates are the absolute ones of the tables, which are the original's rate for each image
times the batch; churches alone was trained with its rate as it stands. Every command takes the
first stage from another run, say `python train.py vq-f4 --data.path FOLDER`; without
`--autoencoder.from-run` it is trained first, on the same images.
"""

from dataclasses import replace

from ldm_jax.data.folder import FolderConfig
from ldm_jax.diffusion.schedule import ScheduleConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments.config import AutoencoderStage, DiffusionStage, Experiment
from ldm_jax.experiments.first_stages import PIXELS, kl_f8, vq_f2, vq_f4, vq_f8, vq_f16, vq_f32_c32
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.training.config import Progress
from ldm_jax.training.optimiser import OptimiserConfig

# What a model of the paper is where its row says nothing else.
LDM = DiffusionStage(
    schedule=ScheduleConfig("sqrt-linear", 1000, 0.0015, 0.0195),
    prediction="eps",
    loss_norm="l2",
    condition="none",
    drop_probability=0.0,
    scale_factor=1.0,  # of VQ latents, whose deviation is about 1 (App. D.1)
    progress=Progress(preview_every=5000),
    ema_decay=0.9999,
)
UNGUIDED = SamplingSettings(sampler="ddim", steps=200, spacing="uniform", guidance=1.0, eta=0.0)
UNET = UNetConfig(
    channels=224, channel_mult=(1, 2, 3, 4), attention_factors=(2, 4, 8), head_channels=32
)
CELEBA = FolderConfig(size=256, crop="centre", flip=False, validation=5_000 / 30_000)


def celeba256() -> Experiment:
    """Faces of CelebA-HQ, 256x256: the LDM-4 of Table 1.

    Table 12; FID 5.11, precision 0.72, recall 0.49 with 500 DDIM steps (Table 1). The original's
    README has these with 200.
    Parameters: first stage 55,322,782, UNet 274,056,163.
    Compute: 14.4 V100 days (Table 18).

        python train.py celeba256 --data.path FOLDER --autoencoder.from-run runs/vq-f4
    """
    return Experiment(
        data=CELEBA,
        autoencoder=vq_f4().autoencoder,
        diffusion=replace(
            LDM, unet=UNET, optimiser=OptimiserConfig(9.6e-5), batch_size=48, steps=410_000
        ),
        sampling=replace(UNGUIDED, steps=500),
    )


def ffhq256() -> Experiment:
    """Faces of FFHQ, 256x256: the LDM-4 of Table 1.

    Table 12; FID 4.98, precision 0.73, recall 0.50 with 200 DDIM steps (Table 1), eta 1 (Fig. 29).
    Parameters: first stage 55,322,782, UNet 274,056,163.
    Compute: 26 V100 days (Table 18).

        python train.py ffhq256 --data.path FOLDER --autoencoder.from-run runs/vq-f4
    """
    return Experiment(
        data=FolderConfig(size=256, crop="centre", flip=False, validation=10_000 / 70_000),
        autoencoder=vq_f4().autoencoder,
        diffusion=replace(
            LDM, unet=UNET, optimiser=OptimiserConfig(8.4e-5), batch_size=42, steps=635_000
        ),
        sampling=replace(UNGUIDED, eta=1.0),
    )


def lsun_beds256() -> Experiment:
    """Bedrooms of LSUN, 256x256: the LDM-4 of Table 1.

    Table 12; FID 2.95, precision 0.66, recall 0.48 with 200 DDIM steps (Table 1), eta 1 (Fig. 31).
    Parameters: first stage 55,322,782, UNet 274,056,163.
    Compute: 60 V100 days, 55 in the total of the same row (Table 18).

        python train.py lsun_beds256 --data.path FOLDER --autoencoder.from-run runs/vq-f4
    """
    return Experiment(
        data=FolderConfig(size=256, crop="centre", flip=True),
        autoencoder=vq_f4().autoencoder,
        diffusion=replace(
            LDM, unet=UNET, optimiser=OptimiserConfig(9.6e-5), batch_size=48, steps=1_900_000
        ),
        sampling=replace(UNGUIDED, eta=1.0),
    )


def lsun_churches256() -> Experiment:
    """Churches of LSUN, 256x256: the LDM-8 (KL) of Table 1.

    Table 12; FID 4.02, precision 0.64, recall 0.52 with 200 DDIM steps (Table 1). Fig. 30 has 4.48
    for 200 steps at eta 0; the original's README has 4.02 for 400, of which its sampler made 500.
    Parameters: first stage 83,653,863, UNet 294,966,916 (Table 18 prints 256M).
    Compute: 18 V100 days, for 410K steps (Table 18).

    The latents are divided by their measured deviation (App. G). The rate 5e-5 is not multiplied
    by the batch.

        python train.py lsun_churches256 --data.path FOLDER --autoencoder.from-run runs/kl-f8
    """
    return Experiment(
        data=FolderConfig(size=256, crop="centre", flip=True),
        autoencoder=kl_f8().autoencoder,
        diffusion=replace(
            LDM,
            unet=UNetConfig(
                channels=192,
                channel_mult=(1, 2, 2, 4, 4),
                attention_factors=(1, 2, 4, 8),
                heads=8,
                scale_shift=True,
                resample_in_res_blocks=True,
            ),
            schedule=ScheduleConfig("sqrt-linear", 1000, 0.0015, 0.0155),
            loss_norm="l1",
            scale_factor=0.0,
            optimiser=OptimiserConfig(5e-5, warmup_steps=10_000),
            batch_size=96,
            steps=500_000,
        ),
        sampling=UNGUIDED,
    )


# Table 14: 500,000 steps on CelebA-HQ at every f, or fewer where one has converged. Fig. 7 has the
# FID of 5000 samples for 10 to 200 DDIM steps, and Table 14 the rounded sizes 270M, 265M, 274M,
# 258M, 260M, 258M. The UNets below have the numbers of parameters that are given with them.


def celeba256_f1() -> Experiment:
    """CelebA-HQ, 256x256, f = 1: the pixel-based LDM-1 of Fig. 7.

    Table 14; no first stage, UNet 270,458,115 parameters.

        python train.py celeba256-f1 --data.path FOLDER
    """
    unet = UNetConfig(channels=192, channel_mult=(1, 1, 2, 2, 4, 4), attention_factors=(8, 16, 32))
    return _fig_7(PIXELS, unet, learning_rate=9e-5, batch_size=9)


def celeba256_f2() -> Experiment:
    """CelebA-HQ, 256x256, f = 2: the LDM-2 of Fig. 7.

    Table 14; latents of 128x128x2, UNet 264,510,722 parameters.

        python train.py celeba256-f2 --data.path FOLDER --autoencoder.from-run runs/vq-f2
    """
    unet = UNetConfig(channels=192, channel_mult=(1, 2, 2, 4, 4), attention_factors=(4, 8, 16))
    return _fig_7(vq_f2().autoencoder, unet, learning_rate=1.1e-4, batch_size=11)


def celeba256_f4() -> Experiment:
    """CelebA-HQ, 256x256, f = 4: the LDM-4 of Fig. 7.

    Table 14; latents of 64x64x3, UNet 274,056,163 parameters: celeba256, trained for longer.

        python train.py celeba256-f4 --data.path FOLDER --autoencoder.from-run runs/vq-f4
    """
    return _fig_7(vq_f4().autoencoder, UNET, learning_rate=9.6e-5, batch_size=48)


def celeba256_f8() -> Experiment:
    """CelebA-HQ, 256x256, f = 8: the LDM-8 of Fig. 7.

    Table 14; latents of 32x32x4, UNet 257,733,124 parameters.

        python train.py celeba256-f8 --data.path FOLDER --autoencoder.from-run runs/vq-f8
    """
    return _fig_7(vq_f8().autoencoder, _SMALL, learning_rate=9.6e-5, batch_size=96)


def celeba256_f16() -> Experiment:
    """CelebA-HQ, 256x256, f = 16: the LDM-16 of Fig. 7.

    Table 14; latents of 16x16x8, UNet 257,751,560 parameters.

        python train.py celeba256-f16 --data.path FOLDER --autoencoder.from-run runs/vq-f16
    """
    return _fig_7(vq_f16().autoencoder, _SMALL, learning_rate=1.3e-4, batch_size=128)


def celeba256_f32() -> Experiment:
    """CelebA-HQ, 256x256, f = 32: the LDM-32 of Fig. 7.

    Table 14; latents of 8x8x32 (printed 88x8x32), UNet 257,862,176 parameters.

        python train.py celeba256-f32 --data.path FOLDER --autoencoder.from-run runs/vq-f32-c32
    """
    return _fig_7(vq_f32_c32().autoencoder, _SMALL, learning_rate=1.3e-4, batch_size=128)


_SMALL = UNetConfig(channels=256, channel_mult=(1, 2, 4), attention_factors=(1, 2, 4))


def _fig_7(
    first: AutoencoderStage, unet: UNetConfig, *, learning_rate: float, batch_size: int
) -> Experiment:
    return Experiment(
        data=CELEBA,
        autoencoder=first,
        diffusion=replace(
            LDM,
            unet=replace(unet, head_channels=32),
            optimiser=OptimiserConfig(learning_rate),
            batch_size=batch_size,
            steps=500_000,
        ),
        sampling=UNGUIDED,
    )
