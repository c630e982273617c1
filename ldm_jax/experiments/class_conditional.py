"""Class-conditional models on ImageNet, 256x256: Tables 3, 10, 15, and Sec. 4.1 (Table 13).

A class is one token of width 512 that the UNet attends to (App. E.2.1). The data set is TFDS's
imagenet2012, whose archives must be put there by hand; TFDS_FOLDER stands for TFDS's data
directory. The first stages are those of Table 8, trained on other images.
"""

from dataclasses import replace

from ldm_jax.data.tfds import TfdsConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments.config import AutoencoderStage, ClassifierStage, Experiment
from ldm_jax.experiments.first_stages import PIXELS, vq_f2, vq_f4, vq_f8, vq_f16, vq_f32_c32
from ldm_jax.experiments.unconditional import LDM, UNGUIDED
from ldm_jax.training.optimiser import OptimiserConfig

IMAGENET = TfdsConfig(
    name="imagenet2012", size=256, fit="crop", crop="random", flip=False, min_crop=1.0
)
CLASSES = replace(LDM, condition="class", class_entry="cross-attention", class_dim=512)
UNET_F8 = UNetConfig(channels=256, channel_mult=(1, 2, 4), attention_factors=(1, 2, 4))
UNET_F4 = UNetConfig(channels=192, channel_mult=(1, 2, 3, 5), attention_factors=(2, 4, 8), heads=1)


def cin256() -> Experiment:
    """Classes of ImageNet, 256x256: the LDM-8 of Table 10, first version.

    FID 15.51, IS 79.03, precision 0.65, recall 0.63 with 200 DDIM steps (Table 10; 17.41 after 2.9M
    training steps); with a classifier's guidance 7.76.
    Parameters: first stage 67,717,295, UNet 394,984,196, classes 512,000 (1000, without "none",
    so there is no classifier-free guidance).
    Compute: 79 V100 days for 2.9M steps (Table 18).

    Heads have 32 channels, as published; Table 13 has one head.

        python train.py cin256 --data.dir TFDS_FOLDER --autoencoder.from-run runs/vq-f8
    """
    return Experiment(
        data=IMAGENET,
        autoencoder=vq_f8().autoencoder,
        diffusion=replace(
            CLASSES,
            unet=replace(UNET_F8, head_channels=32),
            optimiser=OptimiserConfig(6.4e-5),
            batch_size=64,
            steps=4_800_000,
        ),
        # With attention, its 111.6M parameters and the UNet's 395.0M are the 506M of LDM-8-G
        # (Table 10); its training was not published.
        classifier=ClassifierStage(unet=replace(UNET_F8, head_channels=32)),
        sampling=UNGUIDED,
    )


def cin256_v2() -> Experiment:
    """Classes of ImageNet, 256x256, with guidance: the LDM-4 of Table 3.

    Table 15, class; FID 10.56, IS 103.49, precision 0.71, recall 0.62 with 250 DDIM steps, and with
    guidance s = 1.5 FID 3.60, IS 247.67, precision 0.87, recall 0.48 (Table 3). The latter needs
    eta 1 and as many images of each class.
    Parameters: first stage 55,322,782, UNet 400,920,579 (Table 15 prints 395M), classes 512,512
    (1000 and "none").
    Compute: 271 V100 days (Table 18).

    A choice: how often training dropped the class was never published, nor was its configuration.
    The one for drawing has no running average, since its file holds one set of weights.

        python train.py cin256-v2 --data.dir TFDS_FOLDER --autoencoder.from-run runs/vq-f4
    """
    return Experiment(
        data=IMAGENET,
        autoencoder=vq_f4().autoencoder,
        diffusion=replace(
            CLASSES,
            unet=UNET_F4,
            drop_probability=0.1,
            optimiser=OptimiserConfig(1e-4),
            batch_size=1200,
            steps=178_000,
        ),
        sampling=replace(UNGUIDED, steps=250, guidance=1.5, eta=1.0),
    )


# Table 13: what f costs and gains (Figs. 6, 7 right, 17), 2M steps for every f, FID and IS of 5000
# samples by 100 DDIM steps at eta 0. The FIDs of LDM-1 and LDM-8 are 38 apart then. Batches grow
# from 7 to 112, as far as one A100 holds them. One head, as the table has it. The sizes it prints
# are 396M, 391M, 391M, 395M, 395M, 395M; the UNets below have the numbers of parameters that are
# given with them, and 512,000 more for the classes.


def cin256_f1() -> Experiment:
    """Classes of ImageNet, 256x256, f = 1: the pixel-based LDM-1 of Figs. 6 and 7.

    Table 13; no first stage, UNet 396,835,971 parameters.

        python train.py cin256-f1 --data.dir TFDS_FOLDER
    """
    unet = UNetConfig(channels=192, channel_mult=(1, 1, 2, 2, 4, 4), attention_factors=(8, 16, 32))
    return _fig_6(PIXELS, unet, learning_rate=4.9e-5, batch_size=7)


def cin256_f2() -> Experiment:
    """Classes of ImageNet, 256x256, f = 2: the LDM-2 of Figs. 6 and 7.

    Table 13; latents of 128x128x2, UNet 390,888,578 parameters.

        python train.py cin256-f2 --data.dir TFDS_FOLDER --autoencoder.from-run runs/vq-f2
    """
    unet = UNetConfig(channels=192, channel_mult=(1, 2, 2, 4, 4), attention_factors=(4, 8, 16))
    return _fig_6(vq_f2().autoencoder, unet, learning_rate=6.3e-5, batch_size=9)


def cin256_f4() -> Experiment:
    """Classes of ImageNet, 256x256, f = 4: the LDM-4 of Figs. 6 and 7.

    Table 13; latents of 64x64x3, UNet 400,920,579 parameters.

        python train.py cin256-f4 --data.dir TFDS_FOLDER --autoencoder.from-run runs/vq-f4
    """
    return _fig_6(vq_f4().autoencoder, UNET_F4, learning_rate=8e-5, batch_size=40)


def cin256_f8() -> Experiment:
    """Classes of ImageNet, 256x256, f = 8: the LDM-8 of Figs. 6 and 7.

    Table 13; latents of 32x32x4, UNet 394,984,196 parameters: cin256 but for the heads, after 2M
    steps.

        python train.py cin256-f8 --data.dir TFDS_FOLDER --autoencoder.from-run runs/vq-f8
    """
    return _fig_6(vq_f8().autoencoder, UNET_F8, learning_rate=6.4e-5, batch_size=64)


def cin256_f16() -> Experiment:
    """Classes of ImageNet, 256x256, f = 16: the LDM-16 of Figs. 6 and 7.

    Table 13; latents of 16x16x8, UNet 395,002,632 parameters.

        python train.py cin256-f16 --data.dir TFDS_FOLDER --autoencoder.from-run runs/vq-f16
    """
    return _fig_6(vq_f16().autoencoder, UNET_F8, learning_rate=4.5e-5, batch_size=112)


def cin256_f32() -> Experiment:
    """Classes of ImageNet, 256x256, f = 32: the LDM-32 of Figs. 6 and 7.

    Table 13; latents of 8x8x32 (printed 88x8x32), UNet 395,113,248 parameters.

        python train.py cin256-f32 --data.dir TFDS_FOLDER --autoencoder.from-run runs/vq-f32-c32
    """
    return _fig_6(vq_f32_c32().autoencoder, UNET_F8, learning_rate=4.5e-5, batch_size=112)


def _fig_6(
    first: AutoencoderStage, unet: UNetConfig, *, learning_rate: float, batch_size: int
) -> Experiment:
    return Experiment(
        data=IMAGENET,
        autoencoder=first,
        diffusion=replace(
            CLASSES,
            unet=replace(unet, heads=1),
            optimiser=OptimiserConfig(learning_rate),
            batch_size=batch_size,
            steps=2_000_000,
        ),
        sampling=replace(UNGUIDED, steps=100),
    )
