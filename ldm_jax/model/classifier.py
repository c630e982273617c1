"""The classifier of the noisy latents that the diffusion model sees, for classifier guidance."""

from __future__ import annotations

import jax.numpy as jnp

from ldm_jax.conditioning.class_label import ClassLabels
from ldm_jax.diffusion.classifier import NoisyLatentClassifier
from ldm_jax.diffusion.classifier_step import ClassifierObjective
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.parameters import Keys
from ldm_jax.sampling.guides import class_log_p


class Classifier:
    """Objective of its training, and log p(y|z_t) to guide by (App. C).

    labels: its classes, those of the data. The constants are those of the diffusion model.
    """

    def __init__(self, model: LatentDiffusion):
        stage, (side, _, c) = model.config.classifier, model.geometry().shape
        dtype = jnp.dtype(model.config.precision)

        def build(rngs: Keys) -> NoisyLatentClassifier:
            classes = len(model.info.class_names)
            return NoisyLatentClassifier(
                stage.unet, c, classes, stage.pool, side, remat=stage.remat, dtype=dtype, rngs=rngs
            )

        self.labels = ClassLabels(model.info.class_names)
        self.objective = ClassifierObjective(
            build, model.schedule, model.latents, dropout=stage.unet.dropout > 0
        )
        self.log_p = class_log_p(self.objective.model)
