"""The first stages of Table 8: one function a row, each trained alone.

The networks, losses, batches and steps of the published ones are those of the original. A docstring
says so where a row was never published; what the paper leaves open is then as in the nearest
published row. Images are OpenImages, at 256x256; the scores are on ImageNet's validation set.

The original gives a batch for each device and a learning rate of 4.5e-6 for each image in it. One
device is assumed: 533,066 steps of 8 images in 29 V100 days (Table 18, vq-f4) are 3.7 images a
second on an A100, and the 971,043 steps of 10 in 66 days (vq-f8) come to the same.
"""

from dataclasses import replace

from ldm_jax.autoencoder.discriminator import DiscriminatorConfig
from ldm_jax.autoencoder.loss import AutoencoderLossConfig
from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.data.folder import FolderConfig
from ldm_jax.experiments.config import AutoencoderStage, DiffusionStage, Experiment
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.training.optimiser import OptimiserConfig

# f = 1: the diffusion model works on the pixels themselves.
PIXELS = AutoencoderStage(
    network=AutoencoderConfig(bottleneck="none", channel_mult=(1,), z_channels=3)
)


def kl_f2() -> Experiment:
    """First stage KL, f = 2: latents of 128x128x2.

    Table 8: R-FID 0.086, R-IS 232.66, PSNR 32.47, PSIM 0.20, SSIM 0.93. Never published; a choice:
    kl-f4 without its last level, which leaves the attention in the middle 16,384 positions.

        python train.py kl-f2 --data.path FOLDER
    """
    return _kl((1, 2), 2, batch_size=10, steps=176_991)


def kl_f4() -> Experiment:
    """First stage KL, f = 4: latents of 64x64x3.

    Table 8: R-FID 0.27, R-IS 227.57, PSNR 27.53, PSIM 0.55, SSIM 0.82.
    Parameters: 55,312,063 (encoder 22,351,280, decoder 32,960,783), discriminator 2,765,633.

        python train.py kl-f4 --data.path FOLDER
    """
    return _kl((1, 2, 4), 3, batch_size=10, steps=176_991)


def kl_f8() -> Experiment:
    """First stage KL, f = 8: latents of 32x32x4; that of Stable Diffusion v1.

    Table 8: R-FID 0.90, R-IS 209.90, PSNR 24.19, PSIM 1.02, SSIM 0.69.
    Parameters: 83,653,863 (encoder 34,163,664, decoder 49,490,199), discriminator 2,765,633.

        python train.py kl-f8 --data.path FOLDER
    """
    return _kl((1, 2, 4, 4), 4, batch_size=4, steps=246_803)


def kl_f16() -> Experiment:
    """First stage KL, f = 16: latents of 16x16x16.

    Table 8: R-FID 0.87, R-IS 210.31, PSNR 24.08, PSIM 1.07, SSIM 0.68.
    Parameters: 69,610,963 (encoder 28,266,816, decoder 41,344,147), discriminator 2,765,633.

        python train.py kl-f16 --data.path FOLDER
    """
    return _kl((1, 1, 2, 2, 4), 16, (16,), batch_size=6, steps=442_998)


def kl_f16_c8() -> Experiment:
    """First stage KL, f = 16 with half the channels: latents of 16x16x8.

    Table 8: R-FID 2.63, R-IS 178.68, PSNR 21.94, PSIM 1.49, SSIM 0.59. Never published; a choice:
    all but the latent's channels as kl-f16.

        python train.py kl-f16-c8 --data.path FOLDER
    """
    return _kl((1, 1, 2, 2, 4), 8, (16,), batch_size=6, steps=442_998)


def kl_f32() -> Experiment:
    """First stage KL, f = 32: latents of 8x8x64.

    Table 8: R-FID 2.04, R-IS 189.53, PSNR 22.27, PSIM 1.41, SSIM 0.61.
    Parameters: 103,880,131 (encoder 42,631,168, decoder 61,248,963), discriminator 2,765,633.

        python train.py kl-f32 --data.path FOLDER
    """
    return _kl((1, 1, 2, 2, 4, 4), 64, (16, 32), batch_size=6, steps=406_763)


def kl_f32_c16() -> Experiment:
    """First stage KL, f = 32 with a quarter of the channels: latents of 8x8x16.

    Table 8: R-FID 7.3, R-IS 132.75, PSNR 20.38, PSIM 1.88, SSIM 0.53. Never published; a choice:
    all but the latent's channels as kl-f32.

        python train.py kl-f32-c16 --data.path FOLDER
    """
    return _kl((1, 1, 2, 2, 4, 4), 16, (16, 32), batch_size=6, steps=406_763)


def vq_f2() -> Experiment:
    """First stage VQ, f = 2: latents of 128x128x2, 2048 codes; that of LDM-2.

    Table 8: R-FID 0.16, R-IS 232.75, PSNR 30.85, PSIM 0.27, SSIM 0.91. Never published; a choice:
    vq-f4 without its last level, which leaves the attention in the middle 16,384 positions.

        python train.py vq-f2 --data.path FOLDER
    """
    return _vq((1, 2), 2, 2048, disc_start=0, batch_size=8, steps=533_066)


def vq_f2_n64() -> Experiment:
    """First stage VQ, f = 2 with few codes: latents of 128x128x2, 64 codes.

    Table 8: R-FID 0.40, R-IS 226.62, PSNR 29.13, PSIM 0.38, SSIM 0.90. Never published; a choice:
    all but the number of codes as vq-f2.

        python train.py vq-f2-n64 --data.path FOLDER
    """
    return _vq((1, 2), 2, 64, disc_start=0, batch_size=8, steps=533_066)


def vq_f4() -> Experiment:
    """First stage VQ, f = 4: latents of 64x64x3, 8192 codes; that of most models of the paper.

    Table 8: R-FID 0.58, R-IS 224.78, PSNR 27.43, PSIM 0.53, SSIM 0.82.
    Parameters: 55,322,782 (encoder 22,337,423, decoder 32,960,783, codes 24,576), discriminator
    2,765,633. Compute: 29 V100 days (Table 18).

        python train.py vq-f4 --data.path FOLDER
    """
    return _vq((1, 2, 4), 3, 8192, disc_start=0, batch_size=8, steps=533_066)


def vq_f4_noattn() -> Experiment:
    """First stage VQ, f = 4 without attention: latents of 64x64x3, 8192 codes; for large images.

    Table 8 (the row with a dagger): R-FID 1.06, R-IS 221.94, PSNR 25.21, PSIM 0.72, SSIM 0.76.
    Parameters: 53,219,486 (encoder 21,285,775, decoder 31,909,135, codes 24,576), discriminator
    2,765,633.

        python train.py vq-f4-noattn --data.path FOLDER
    """
    attending = _vq((1, 2, 4), 3, 8192, disc_start=11, batch_size=8, steps=658_131)
    network = replace(attending.autoencoder.network, mid_attention=False)
    return replace(attending, autoencoder=replace(attending.autoencoder, network=network))


def vq_f4_n256() -> Experiment:
    """First stage VQ, f = 4 with few codes: latents of 64x64x3, 256 codes.

    Table 8: R-FID 0.47, R-IS 223.81, PSNR 26.43, PSIM 0.62, SSIM 0.80. Never published; a choice:
    all but the number of codes as vq-f4.

        python train.py vq-f4-n256 --data.path FOLDER
    """
    return _vq((1, 2, 4), 3, 256, disc_start=0, batch_size=8, steps=533_066)


def vq_f8() -> Experiment:
    """First stage VQ, f = 8: latents of 32x32x4, 16,384 codes.

    Table 8: R-FID 1.14, R-IS 201.92, PSNR 23.07, PSIM 1.17, SSIM 0.65.
    Parameters: 67,717,295 (encoder 27,397,784, decoder 40,253,975, codes 65,536), discriminator
    663,361. Compute: 66 V100 days (Table 18).

        python train.py vq-f8 --data.path FOLDER
    """
    adversary = {"disc_start": 1, "disc_layers": 2}
    stage = _vq((1, 2, 2, 4), 4, 16_384, (8,), **adversary, batch_size=10, steps=971_043)
    loss = replace(stage.autoencoder.loss, disc_weight=0.6)
    return replace(stage, autoencoder=replace(stage.autoencoder, loss=loss))


def vq_f8_n256() -> Experiment:
    """First stage VQ, f = 8 with few codes: latents of 32x32x4, 256 codes.

    Table 8: R-FID 1.49, R-IS 194.20, PSNR 22.35, PSIM 1.26, SSIM 0.62.
    Parameters: 67,652,783 (encoder 27,397,784, decoder 40,253,975, codes 1024), discriminator
    2,765,633.

        python train.py vq-f8-n256 --data.path FOLDER
    """
    return _vq((1, 2, 2, 4), 4, 256, (8,), disc_start=250_001, batch_size=10, steps=1_608_649)


def vq_f16() -> Experiment:
    """First stage VQ, f = 16: latents of 16x16x8, 16,384 codes.

    Table 8: R-FID 5.15, R-IS 144.55, PSNR 20.83, PSIM 1.73, SSIM 0.54.
    Parameters: 69,593,371 (encoder 28,155,216, decoder 41,307,083, codes 131,072), discriminator
    663,361.

        python train.py vq-f16 --data.path FOLDER
    """
    adversary = {"disc_start": 250_001, "disc_layers": 2}
    return _vq((1, 1, 2, 2, 4), 8, 16_384, (16,), **adversary, batch_size=14, steps=1_101_166)


def vq_f32() -> Experiment:
    """First stage VQ, f = 32: latents of 8x8x16, 16,384 codes.

    Table 8: R-FID 31.83, R-IS 40.40, PSNR 17.45, PSIM 2.58, SSIM 0.41. Never published; a choice:
    the levels and attention of kl-f32, all else as vq-f16.

        python train.py vq-f32 --data.path FOLDER
    """
    return _vq_f32(z_channels=16)


def vq_f32_c32() -> Experiment:
    """First stage VQ, f = 32 with twice the channels: latents of 8x8x32; that of LDM-32.

    Tables 13 and 14 give LDM-32 latents of 32 channels (8x8x32, printed 88x8x32) and 16,384 codes;
    Table 8 has no such row, only vq-f32 with 16. A choice: all but the channels as vq-f32.

        python train.py vq-f32-c32 --data.path FOLDER
    """
    return _vq_f32(z_channels=32)


def _vq_f32(z_channels: int) -> Experiment:
    adversary = {"disc_start": 250_001, "disc_layers": 2}
    sizes = {"batch_size": 14, "steps": 1_101_166}
    return _vq((1, 1, 2, 2, 4, 4), z_channels, 16_384, (16, 32), **adversary, **sizes)


def _kl(
    channel_mult: tuple[int, ...],
    z_channels: int,
    attention_factors: tuple[int, ...] = (),
    *,
    batch_size: int,
    steps: int,
) -> Experiment:
    network = AutoencoderConfig(
        channels=128,
        channel_mult=channel_mult,
        num_res_blocks=2,
        attention_factors=attention_factors,
        z_channels=z_channels,
        bottleneck="kl",
    )
    loss = AutoencoderLossConfig(
        perceptual_weight=1.0,
        kl_weight=1e-6,
        disc_weight=0.5,
        max_adaptive_weight=1e4 / (256 * 256 * 3),  # the original's loss is a sum over these
        disc_start=50_001,
    )
    return _alone(network, loss, 3, batch_size, steps, crop=2 / 3)


def _vq(
    channel_mult: tuple[int, ...],
    z_channels: int,
    codebook_size: int,
    attention_factors: tuple[int, ...] = (),
    *,
    disc_start: int,
    disc_layers: int = 3,
    batch_size: int,
    steps: int,
) -> Experiment:
    network = AutoencoderConfig(
        channels=128,
        channel_mult=channel_mult,
        num_res_blocks=2,
        attention_factors=attention_factors,
        z_channels=z_channels,
        bottleneck="vq",
        codebook_size=codebook_size,
    )
    loss = AutoencoderLossConfig(
        perceptual_weight=1.0,
        codebook_weight=0.25,
        commitment_weight=1.0,
        disc_weight=0.75,
        disc_start=disc_start,
    )
    crop = 1.0 if len(channel_mult) == 3 else 2 / 3  # only f = 4 was trained on whole images
    return _alone(network, loss, disc_layers, batch_size, steps, crop)


def _alone(
    network: AutoencoderConfig,
    loss: AutoencoderLossConfig,
    disc_layers: int,
    batch_size: int,
    steps: int,
    crop: float,
) -> Experiment:
    """`crop`: side of the random crops, as a share of the short side (256 of 384, or all of it)."""
    return Experiment(
        data=FolderConfig(size=256, crop="random", flip=False, min_crop=crop, max_crop=crop),
        autoencoder=AutoencoderStage(
            network=network,
            loss=loss,
            discriminator=DiscriminatorConfig(channels=64, layers=disc_layers),
            optimiser=OptimiserConfig(4.5e-6 * batch_size, b1=0.5, b2=0.9, weight_decay=0.0),
            batch_size=batch_size,
            steps=steps,
        ),
        diffusion=DiffusionStage(condition="none", drop_probability=0.0),
        sampling=SamplingSettings(guidance=1.0),
    )
