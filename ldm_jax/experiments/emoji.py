"""Text to image on real drawings: Noto Emoji."""

from dataclasses import replace

from ldm_jax.conditioning.transformer import TransformerConfig
from ldm_jax.data.folder import FolderConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments.config import EvaluationConfig, Experiment
from ldm_jax.experiments.scene_tasks import scenes_64_f4
from ldm_jax.experiments.scenes import scenes
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.training.config import Progress


def emoji_64() -> Experiment:
    """Text to image on real drawings at 64x64, Noto Emoji as examples/emoji.py prepares them.

    python train.py emoji-64 --data.path FOLDER --autoencoder.loss.perceptual-file FILE
    """
    laptop = scenes()
    return replace(
        laptop,
        data=FolderConfig(size=64),
        autoencoder=replace(
            # f = 4: eyes and mouths are 3 pixels large, less than half of a latent of f = 8; and
            # the set is so small that stage 2 sees all of it often at any price.
            scenes_64_f4().autoencoder,
            progress=Progress(log_every=50, preview_every=500, save_every=250),
            steps=6000,  # 28 epochs
        ),
        diffusion=replace(
            laptop.diffusion,
            unet=UNetConfig(
                channels=64,
                channel_mult=(1, 2, 2),
                num_res_blocks=1,
                attention_factors=(2,),
                head_channels=32,
                groups=16,
                dropout=0.1,  # the set is small enough to be learnt by heart
            ),
            text=TransformerConfig(dim=128, depth=2, heads=2),
            # Muon, which takes its time by the step, is slow for batches of 16.
            optimiser=replace(laptop.diffusion.optimiser, kind="adam", learning_rate=1e-3, b2=0.99),
            timestep_density="uniform",
            progress=Progress(log_every=50, preview_every=1000, save_every=500),
            batch_size=16,
            steps=20_000,  # 94 epochs
            ema_decay=0.999,
        ),
        sampling=SamplingSettings(steps=50, guidance=3.0),
        evaluation=EvaluationConfig(num_images=64),
    )
