"""Models that attend to a caption, a layout or a CLIP embedding: Sec. 4.3.1, Tables 2, 9, 15, 17.

Two later models of the same family are here too: RDM and Stable Diffusion v1. FOLDER has captions
in captions.jsonl or beside the images, or what the condition needs. The encoders tau_theta that
the authors published hold one more matrix, towards the vocabulary, which nothing uses; it is not
counted here.
"""

from dataclasses import replace

from ldm_jax.conditioning.transformer import TransformerConfig
from ldm_jax.data.folder import FolderConfig
from ldm_jax.diffusion.schedule import ScheduleConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.first_stages import kl_f8, kl_f16, vq_f4, vq_f8
from ldm_jax.experiments.unconditional import LDM, UNGUIDED
from ldm_jax.training.optimiser import OptimiserConfig

# Not mirrored: captions tell left from right.
CAPTIONED = FolderConfig(size=256, crop="random", flip=False, min_crop=1.0)
BOXED = FolderConfig(size=256, crop="random", flip=True, min_crop=1.0)
TEXT_SCHEDULE = ScheduleConfig("sqrt-linear", 1000, 0.00085, 0.012)
# The 1.45B model's UNet, which Stable Diffusion v1 took over.
TEXT_UNET = UNetConfig(
    channels=320, channel_mult=(1, 2, 4, 4), attention_factors=(1, 2, 4), heads=8
)
LAYOUT = replace(
    LDM,
    condition="layout",
    text=TransformerConfig(dim=512, depth=16, heads=8),  # Table 17
    schedule=ScheduleConfig("sqrt-linear", 1000, 0.0015, 0.0205),
    loss_norm="l1",
    optimiser=OptimiserConfig(4.8e-5),
)


def text2img256() -> Experiment:
    """Text to image, 256x256, on Conceptual Captions: LDM-4, the smaller of the two text models.

    Not in the paper; FID 16.79, IS 13.89 with 100 DDIM steps at eta 0 (the original's README),
    trained on LAION before.
    Parameters: first stage 55,322,782, UNet 403,623,939, text encoder 166,590,080.

    A choice: its number of steps was never published; it is that of the larger one.

        python train.py text2img256 --data.path FOLDER --autoencoder.from-run runs/vq-f4
    """
    return Experiment(
        data=CAPTIONED,
        autoencoder=vq_f4().autoencoder,
        diffusion=replace(
            LDM,
            unet=UNetConfig(
                channels=192,
                channel_mult=(1, 2, 3, 5),
                attention_factors=(2, 4, 8),
                head_channels=32,
            ),
            condition="text",
            tokenizer="bert",
            text=TransformerConfig(dim=640, depth=32, heads=8),
            optimiser=OptimiserConfig(5.6e-5),
            batch_size=28,
            steps=390_000,
        ),
        sampling=replace(UNGUIDED, steps=100),
    )


def txt2img_1p4B() -> Experiment:
    """Text to image, 256x256, on LAION-400M: the LDM-KL-8 of Table 2, with 1.45B parameters.

    Tables 15 and 17, text; on MS-COCO FID 23.31, IS 20.03 with 250 DDIM steps, and with guidance
    s = 1.5 FID 12.63, IS 30.29 (Table 2). The images of Fig. 5 have s = 10, 200 steps, eta 1.
    Parameters: first stage 83,653,863, UNet 872,300,484, text encoder 542,895,360.

    A choice: how often training dropped the caption was never published, nor was its configuration.
    The one for drawing has no running average, since its file holds one set of weights.

        python train.py txt2img-1p4B --data.path FOLDER --autoencoder.from-run runs/kl-f8
    """
    return Experiment(
        data=CAPTIONED,
        autoencoder=kl_f8().autoencoder,
        diffusion=replace(
            LDM,
            unet=TEXT_UNET,
            schedule=TEXT_SCHEDULE,
            condition="text",
            tokenizer="bert",
            text=TransformerConfig(dim=1280, depth=32, heads=8),
            drop_probability=0.1,
            scale_factor=0.18215,
            optimiser=OptimiserConfig(1e-4),
            batch_size=680,
            steps=390_000,
        ),
        sampling=replace(UNGUIDED, steps=250, guidance=1.5),
    )


def layout2img_openimages256() -> Experiment:
    """Boxes to image, 256x256, on OpenImages: the LDM-4 of Table 9.

    Tables 15 and 17, layout; FID 32.02 with 200 DDIM steps (Table 9).
    Parameters: first stage 55,322,782, UNet 246,277,379, layout encoder 54,656,000.

    Heads have 32 channels, as published; Table 15 has one head.

        python train.py layout2img-openimages256 --data.path FOLDER
            --autoencoder.from-run runs/vq-f4
    """
    return Experiment(
        data=BOXED,
        autoencoder=vq_f4().autoencoder,
        diffusion=replace(
            LAYOUT,
            unet=UNetConfig(
                channels=128,
                channel_mult=(1, 2, 3, 4),
                attention_factors=(2, 4, 8),
                head_channels=32,
                transformer_depth=3,
            ),
            batch_size=24,
            steps=4_400_000,
        ),
        sampling=UNGUIDED,
    )


def layout2img_coco256() -> Experiment:
    """Boxes to image, 256x256, on COCO: the LDM-8 of Table 9, trained from scratch.

    Table 15, layout on COCO; FID 42.06 with 100 DDIM steps (Table 9). Never published.
    Parameters: first stage 67,717,295, UNet 312,241,540, layout encoder 54,656,000; the last two
    are 367M together, where Table 15 prints 345M.

    A choice: betas, loss, heads and the layout encoder of Table 17 are those of
    layout2img-openimages256; Table 15 has one head for both.

        python train.py layout2img-coco256 --data.path FOLDER --autoencoder.from-run runs/vq-f8
    """
    return Experiment(
        data=BOXED,
        autoencoder=vq_f8().autoencoder,
        diffusion=replace(
            LAYOUT,
            unet=UNetConfig(
                channels=192,
                channel_mult=(1, 2, 4),
                attention_factors=(1, 2, 4),
                head_channels=32,
                transformer_depth=2,
                dropout=0.1,
            ),
            batch_size=48,
            steps=170_000,
        ),
        sampling=replace(UNGUIDED, steps=100),
    )


def layout2img_coco256_f4() -> Experiment:
    """Boxes to image, 256x256, on COCO: the model of layout2img-openimages256.

    FID 40.91 with 200 DDIM steps, when it starts from the weights of OpenImages (Table 9). Never
    published.
    Parameters: first stage 55,322,782, UNet 246,277,379, layout encoder 54,656,000.

    A choice: the paper does not say for how long; the steps are those of layout2img-coco256.

        python train.py layout2img-coco256-f4 --data.path FOLDER
            --autoencoder.from-run runs/vq-f4
    """
    openimages = layout2img_openimages256()
    return replace(openimages, diffusion=replace(openimages.diffusion, steps=170_000))


def rdm768x768() -> Experiment:
    """Images from CLIP embeddings, 768x768: retrieval-augmented diffusion, arXiv:2204.11824.

    Not in the paper. It attends to embeddings by CLIP ViT-L/14: of a caption, and of images
    like it that are looked up in a data base.
    Parameters: first stage 69,610,963, UNet 1,335,480,400.

    A choice: batch, steps and how often training dropped the condition were never published. The
    embeddings are read from a .npy beside each image, floats [768] or [M, 768]; they are not
    computed here.

        python train.py rdm768x768 --data.path FOLDER --autoencoder.from-run runs/kl-f16
    """
    return Experiment(
        data=replace(CAPTIONED, size=768),
        autoencoder=kl_f16().autoencoder,
        diffusion=replace(
            LDM,
            unet=UNetConfig(
                channels=448,
                channel_mult=(1, 2, 3, 4),
                attention_factors=(1, 2, 4),
                head_channels=32,
            ),
            schedule=ScheduleConfig("sqrt-linear", 1000, 0.0015, 0.015),
            condition="image-embedding",
            drop_probability=0.1,
            scale_factor=0.22765929,
            optimiser=OptimiserConfig(1e-4),
            batch_size=256,
            steps=400_000,
        ),
        sampling=replace(UNGUIDED, steps=50, guidance=5.0),
    )


def stable_diffusion_v1() -> Experiment:
    """Text to image, 512x512: Stable Diffusion v1, the 1.45B model with CLIP's text encoder.

    Not in the paper; from its model card. It was trained for 237K steps at 256x256, then at 512x512
    for 194K (v1.1) and 515K (v1.2), then with captions dropped for 225K (v1.4). Here the last three
    are one, with captions dropped throughout.
    Parameters: first stage 83,653,863, UNet 859,520,964, text encoder 123,060,480 (CLIP ViT-L/14,
    whose weights are not trained: they are those of a published model, made a run by `convert`).

    Images are drawn from averaged weights, and most published files hold no others.

        python train.py stable-diffusion-v1 --data.path FOLDER --init-from runs/sd
            --autoencoder.from-run runs/kl-f8
    """
    return Experiment(
        data=replace(CAPTIONED, size=512),
        autoencoder=kl_f8().autoencoder,
        diffusion=replace(
            LDM,
            unet=TEXT_UNET,
            schedule=TEXT_SCHEDULE,
            condition="text",
            tokenizer="clip",
            freeze_encoder=True,
            drop_probability=0.1,
            scale_factor=0.18215,
            optimiser=OptimiserConfig(1e-4, warmup_steps=10_000),
            batch_size=2048,
            steps=934_000,
        ),
        sampling=replace(UNGUIDED, steps=50, guidance=7.5),
    )
