"""Models conditioned by concatenation: Sec. 4.3.2, 4.4 and 4.5, Tables 5 to 7 and 15.

The condition is stacked with z_t: a semantic map shrunk to the latent's size, the low-resolution
image as it is, or the latent of the masked image and the mask.

Table 15 gives in-painting a learning rate of 1e-6. That is the rate of the published configuration,
which the original multiplies by the batch, as in most rows of the table; so it is here.

The larger super-resolution model of Table 5 (552M) is left out, since its sizes are unknown.
"""

from dataclasses import replace

from ldm_jax.data.folder import FolderConfig
from ldm_jax.diffusion.schedule import ScheduleConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments.class_conditional import IMAGENET
from ldm_jax.experiments.config import AutoencoderStage, Experiment
from ldm_jax.experiments.first_stages import PIXELS, kl_f4, vq_f4, vq_f4_noattn
from ldm_jax.experiments.unconditional import LDM, UNGUIDED
from ldm_jax.training.optimiser import OptimiserConfig

MAPPED = FolderConfig(size=256, crop="random", flip=True, min_crop=2 / 3, max_crop=2 / 3)
PLACES = FolderConfig(size=256, crop="random", flip=False, min_crop=1.0)
STEEP = ScheduleConfig("sqrt-linear", 1000, 0.0015, 0.0205)
# The levels' factors are 1, 2 and 4, so that the middle alone attends.
WIDE_UNET = UNetConfig(channels=128, channel_mult=(1, 4, 8), attention_factors=(8, 16, 32), heads=8)
SUPER_RESOLUTION = replace(
    LDM,
    unet=UNetConfig(
        channels=160, channel_mult=(1, 2, 2, 4), attention_factors=(8, 16), head_channels=32
    ),
    condition="super-resolution",
    optimiser=OptimiserConfig(6.4e-5),
    batch_size=64,
    steps=860_000,
)
INPAINTING = replace(
    LDM,
    unet=WIDE_UNET,
    schedule=STEEP,
    loss_norm="l1",
    condition="inpainting",
    optimiser=OptimiserConfig(1.28e-4),
    batch_size=128,
    steps=360_000,
)


def semantic_synthesis256() -> Experiment:
    """Semantic map to landscape, 256x256 and, fully convolutional, larger: LDM-4 of Sec. 4.3.2.

    Table 15, semantic, which prints f = 8 and latents of 32x32x4 against Sec. 4.3.2; f = 4 is what
    was published. Figs. 9, 23 to 25; no metric.
    Parameters: first stage 55,322,782, UNet 215,229,315, map of 182 classes to 3 channels 546.

        python train.py semantic_synthesis256 --data.path FOLDER --autoencoder.from-run runs/vq-f4
    """
    return Experiment(
        data=MAPPED,
        autoencoder=vq_f4().autoencoder,
        diffusion=replace(
            LDM,
            unet=WIDE_UNET,
            schedule=STEEP,
            loss_norm="l1",
            condition="semantic",
            optimiser=OptimiserConfig(4.8e-5),
            batch_size=48,
            steps=360_000,
        ),
        sampling=UNGUIDED,
    )


def semantic_synthesis512() -> Experiment:
    """Semantic map to landscape, 512x512: semantic_synthesis256, trained on larger crops.

    Figs. 12 and 23, where it is fine-tuned from the smaller one; no metric.
    Parameters: first stage 55,322,782, UNet 215,229,315, map of 182 classes to 3 channels 546.

    A choice: the number of steps was never published; it is that of the smaller one.

        python train.py semantic_synthesis512 --data.path FOLDER --autoencoder.from-run runs/vq-f4
    """
    small = semantic_synthesis256()
    return replace(
        small,
        data=replace(MAPPED, size=512),
        diffusion=replace(small.diffusion, optimiser=OptimiserConfig(8e-6), batch_size=8),
    )


def sr_imagenet256() -> Experiment:
    """Super-resolution from 64x64 to 256x256 on ImageNet: the LDM-4 of Table 5.

    Table 15, SR; FID 2.8 (against the validation set), IS 166.3, PSNR 24.4, SSIM 0.69 with 100 DDIM
    steps (Table 5). Never published: the sizes are those of bsr_sr, which has as many parameters.
    Parameters: first stage 55,322,782, UNet 113,622,563, 169M in all.

    The low-resolution image is reduced by bicubic interpolation, antialiased (App. E.3.4). A
    choice: eta 1, as in the original's demonstration of bsr_sr.

        python train.py sr-imagenet256 --data.dir TFDS_FOLDER --autoencoder.from-run runs/vq-f4
    """
    return Experiment(
        data=IMAGENET,
        autoencoder=vq_f4().autoencoder,
        diffusion=SUPER_RESOLUTION,
        sampling=replace(UNGUIDED, steps=100, eta=1.0),
    )


def bsr_sr() -> Experiment:
    """Super-resolution of images with unknown degradation, x4, on OpenImages: LDM-BSR.

    App. D.6.1, Figs. 18 and 19; no metric. It learns from blurred, noisy and compressed images.
    Parameters: first stage 55,322,782, UNet 113,622,563.

    A choice: the number of steps was never published; it is that of Table 15, SR.

        python train.py bsr_sr --data.path FOLDER --autoencoder.from-run runs/vq-f4
    """
    return Experiment(
        data=FolderConfig(size=256, crop="random", flip=False, min_crop=1.0),
        autoencoder=vq_f4().autoencoder,
        diffusion=replace(
            SUPER_RESOLUTION,
            schedule=ScheduleConfig("sqrt-linear", 1000, 0.0015, 0.0155),
            degradation="bsrgan-light",
        ),
        sampling=replace(UNGUIDED, steps=100, eta=1.0),
    )


def inpainting_big() -> Experiment:
    """In-painting on Places, 256x256 and, fully convolutional, larger: the big LDM-4 of Table 7.

    With 512x512 images in the end, for half an epoch: FID 1.50, LPIPS 0.137 on all test
    images, 9.39 and 0.246 where 40 to 50 % are masked; without, 2.40, 0.142 and 12.89, 0.257
    (Table 7).
    Parameters: first stage 53,219,486, UNet 387,245,827.

    The original multiplies its rate, 1e-6 times the batch, by a half cosine from 0.1 down to 1e-4
    at step 50,000, after a warm-up of 1000 steps. A choice: no number of steps was published; here
    training ends with the cosine.

        python train.py inpainting_big --data.path FOLDER
            --autoencoder.from-run runs/vq-f4-noattn
    """
    return Experiment(
        data=PLACES,
        autoencoder=vq_f4_noattn().autoencoder,
        diffusion=replace(
            INPAINTING,
            unet=UNetConfig(
                channels=256,
                channel_mult=(1, 2, 3, 4),
                attention_factors=(2, 4, 8),
                heads=8,
                resample_in_res_blocks=True,
            ),
            optimiser=OptimiserConfig(
                1.28e-5, "cosine", decay_steps=50_000, final_rate=1.28e-8, warmup_steps=1000
            ),
            steps=50_000,
        ),
        sampling=replace(UNGUIDED, steps=50),
    )


def inpainting_f1() -> Experiment:
    """In-painting on Places, 256x256: the pixel-based LDM-1 of Table 6.

    FID 24.74 after six epochs (Table 6). No first stage, UNet 215,230,467 parameters. Never
    published; a choice: all is as in inpainting-vq-f4, but on pixels.

        python train.py inpainting-f1 --data.path FOLDER
    """
    return _table_6(PIXELS)


def inpainting_kl_f4() -> Experiment:
    """In-painting on Places, 256x256: the LDM-4 (KL) of Table 6.

    FID 15.21 after six epochs (Table 6). Never published; all is as in inpainting-vq-f4, but for
    the first stage, whose latents are divided by their deviation.
    Parameters: first stage 55,312,063, UNet 215,230,467.

        python train.py inpainting-kl-f4 --data.path FOLDER --autoencoder.from-run runs/kl-f4
    """
    small = _table_6(kl_f4().autoencoder)
    return replace(small, diffusion=replace(small.diffusion, scale_factor=0.0))


def inpainting_vq_f4() -> Experiment:
    """In-painting on Places, 256x256: the LDM-4 (VQ) of Tables 6 and 7.

    Table 15, in-painting; FID 14.99 after six epochs (Table 6), in the end 2.15 and LPIPS 0.144 on
    all test images (Table 7, with attention).
    Parameters: first stage 55,322,782, UNet 215,230,467 (Table 15 prints 215M).

    Never published; a choice: betas and loss are those of inpainting_big, and heads and attention
    those of semantic_synthesis256, whose channels Table 15 gives to both.

        python train.py inpainting-vq-f4 --data.path FOLDER --autoencoder.from-run runs/vq-f4
    """
    return _table_6(vq_f4().autoencoder)


def inpainting_vq_f4_noattn() -> Experiment:
    """In-painting on Places, 256x256: the LDM-4 of Tables 6 and 7 on a VQ without attention.

    FID 15.95 after six epochs (Table 6), in the end 2.37 and LPIPS 0.145 on all test images
    (Table 7, without attention). Never published; all but the first stage as inpainting-vq-f4.
    Parameters: first stage 53,219,486, UNet 215,230,467.

        python train.py inpainting-vq-f4-noattn --data.path FOLDER
            --autoencoder.from-run runs/vq-f4-noattn
    """
    return _table_6(vq_f4_noattn().autoencoder)


def _table_6(first: AutoencoderStage) -> Experiment:
    return Experiment(
        data=PLACES,
        autoencoder=first,
        diffusion=INPAINTING,
        sampling=replace(UNGUIDED, steps=50),
    )
