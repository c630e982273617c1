"""The tasks of the paper on embedded scenes at 64x64, each on a first stage trained before.

A task borrows the first stage of `scenes-64` (f = 8) or `scenes-64-f4` (f = 4), and is sized for 20
minutes of two cores. `--autoencoder.from-run ""` trains a first stage of its own, of the same kind.
"""

from dataclasses import replace

from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments.config import (
    ConditionKind,
    DiffusionStage,
    EvaluationConfig,
    Experiment,
)
from ldm_jax.experiments.scenes import scenes, scenes_64
from ldm_jax.sampling.settings import SamplingSettings


def scenes_64_f4() -> Experiment:
    """The first stage of the tasks that need fine latents, at 64x64 with f = 4, trained alone.

    python train.py scenes-64-f4 --autoencoder.loss.perceptual-file FILE
    """
    coarse = scenes_64()
    first = replace(
        coarse.autoencoder,
        network=replace(coarse.autoencoder.network, channel_mult=(1, 2, 4), z_channels=4),
        optimiser=scenes().autoencoder.optimiser,  # Muon
        steps=6000,
    )
    return replace(coarse, autoencoder=first)


def scenes_class() -> Experiment:
    """Class to image (Table 3): shape and colour of single objects at 64x64.

    python train.py scenes-class
    """
    task = _on_f8("class", steps=1600, guidance=3.0)
    return replace(task, data=replace(task.data, level="single"))


def scenes_unconditional() -> Experiment:
    """Scenes of one or two objects at 64x64, from noise alone (Table 1).

    python train.py scenes-unconditional
    """
    return _on_f8("none", steps=2600)


def scenes_text() -> Experiment:
    """Captions to scenes of one or two objects at 64x64 (Table 2): scenes-64, in 20 minutes.

    python train.py scenes-text
    """
    task = _on_f8("text", steps=1600, guidance=3.0)
    clauses = scenes_64().diffusion.drop_clauses
    return replace(task, diffusion=replace(task.diffusion, drop_clauses=clauses))


def scenes_layout() -> Experiment:
    """Boxes with names to scenes of one or two objects at 64x64 (Table 9).

    python train.py scenes-layout
    """
    task = _on_f8("layout", steps=1600, guidance=2.0)
    # Corners of boxes are at every second pixel, the edges of the image included.
    return replace(task, diffusion=replace(task.diffusion, objects=2, sections=33))


def scenes_semantic() -> Experiment:
    """Semantic maps to scenes of one or two objects at 64x64 (Sec. 4.3.2).

    The map is averaged down to the size of the latent. With f = 8 hardly 87 % of mean IoU would be
    left of a true map, with f = 4 it is 96 %.

    python train.py scenes-semantic
    """
    return _on_f4("semantic", steps=9000)


def scenes_inpainting() -> Experiment:
    """In-painting of scenes of one or two objects at 64x64 (Sec. 4.5, Tables 6 and 7).

    Masks have strokes of 4 pixels, which the latents of f = 8 would not show.

    python train.py scenes-inpainting
    """
    return _on_f4("inpainting", steps=7500)


def scenes_super_resolution() -> Experiment:
    """Super-resolution of scenes of one or two objects, 16x16 to 64x64 (Sec. 4.4, Table 5).

    The low-resolution image is as large as the latent: x4 needs f = 4.

    python train.py scenes-super-resolution
    """
    return _on_f4("super-resolution", steps=9000)


def _on_f8(condition: ConditionKind, steps: int, guidance: float = 1.0) -> Experiment:
    lender, small = scenes_64(), scenes().diffusion
    second = replace(
        lender.diffusion,
        condition=condition,
        drop_clauses=0.0,
        progress=small.progress,
        steps=steps,
        ema_decay=small.ema_decay,
    )
    return _borrowing("scenes-64", lender, second, guidance)


def _on_f4(condition: ConditionKind, steps: int) -> Experiment:
    second = scenes().diffusion
    second = replace(
        second,
        condition=condition,
        # There are four times as many latents as with f = 8, 16x16: attention is on 8x8 alone.
        unet=UNetConfig(
            channels=48,
            channel_mult=(1, 2, 2),
            num_res_blocks=1,
            attention_factors=(2,),
            head_channels=32,
            groups=16,
        ),
        # In equal time, small batches and a short memory of gradients learn more here. Muon, which
        # takes its time by the step, is too slow for them.
        optimiser=replace(second.optimiser, kind="adam", learning_rate=2e-3, b2=0.99),
        timestep_density="uniform",
        batch_size=8,
        steps=steps,
    )
    return _borrowing("scenes-64-f4", scenes_64_f4(), second)


def _borrowing(
    name: str, lender: Experiment, second: DiffusionStage, guidance: float = 1.0
) -> Experiment:
    """A second stage on the first stage of the model of this name, whose experiment is `lender`.

    A run that borrows a first stage knows its network from its own configuration.
    """
    return Experiment(
        data=lender.data,
        autoencoder=replace(lender.autoencoder, from_run=name),
        diffusion=second,
        sampling=SamplingSettings(steps=25, guidance=guidance),
        evaluation=EvaluationConfig(num_images=32),
    )
