"""What an experiment is: one frozen dataclass, every field documented and typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from ldm_jax.autoencoder.discriminator import DiscriminatorConfig
from ldm_jax.autoencoder.loss import AutoencoderLossConfig
from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.bounds import BatchSize, Bounds, Count, Fraction, NonNegative, PositiveInt, Seed, Width
from ldm_jax.conditioning.transformer import TransformerConfig
from ldm_jax.data.boxes import MAX_BOXES
from ldm_jax.data.degradations import Degradation
from ldm_jax.data.masks import MaskKind
from ldm_jax.data.open import DataConfig
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.diffusion.loss import LossNorm, TimestepDensity
from ldm_jax.diffusion.process import Prediction
from ldm_jax.diffusion.schedule import ScheduleConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.resuming import OnResume, Place
from ldm_jax.sampling.settings import SamplingSettings
from ldm_jax.training.config import LoaderConfig, MeshConfig, TrainingConfig
from ldm_jax.training.optimiser import OptimiserConfig

ConditionKind = Literal[
    "none",
    "class",
    "text",
    "layout",
    "semantic",
    "super-resolution",
    "inpainting",
    "image-embedding",
]


@dataclass(frozen=True)
class AutoencoderStage(TrainingConfig):
    """Stage 1, Sec. 3.1."""

    from_run: Place = ""
    """Run directory or shipped model whose autoencoder to use instead of training one; it has the
    same network."""
    network: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(4.5e-5, b1=0.5, b2=0.9, weight_decay=0.0)
    )
    batch_size: BatchSize = 16
    """Images a step, over all devices."""
    crop_size: Annotated[int, Bounds(0, 2**14)] = 0
    """Side of the random squares that it is trained on; 0: whole images. It can encode images of
    any size."""
    ema_decay: Fraction = 0.0
    """Decay of the moving average of the weights (EMA), which stage 2 then uses; 0: none."""
    init_gain: NonNegative = 1.0
    """Factor on the initial weights, which are PyTorch's, as in the published models; 2.45 makes
    them He's (variance 2 / fan-in), from which short runs learn far faster."""
    freeze_encoder: bool = False
    """The decoder alone is trained: --init-from has the encoder. The latents stay as they are, so a
    diffusion model that was trained on them goes with the better decoder."""
    reset_dead_codes_every: Count = 0
    """Steps after which codes that no training image uses are moved to where latents are (VQ); 0:
    never, as in the paper."""


@dataclass(frozen=True)
class DiffusionStage(TrainingConfig):
    """Stage 2, Sec. 3.2 and 3.3."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prediction: Prediction = "eps"
    """What the UNet predicts: the noise (the paper), the latent, or v."""
    loss_norm: LossNorm = "l2"
    """The error of the prediction is squared (Eq. 3), or absolute."""
    timestep_density: TimestepDensity = "uniform"
    """How t is drawn: uniformly (Eq. 3), or logit-normally, so that middling noise is seen more
    often (arXiv:2403.03206)."""
    min_snr_gamma: NonNegative = 0.0
    """Squared errors are weighted by min(SNR, gamma), in terms of z_0 (arXiv:2303.09556, where
    gamma is 5); 0: not, as in the paper."""
    condition: Literal["auto", ConditionKind] = "auto"
    """What it is conditioned on; auto: captions if the data has them, else classes, else none.
    layout takes boxes, semantic takes maps; the others any images."""
    text: TransformerConfig = field(default_factory=TransformerConfig)
    tokenizer: Literal["words", "bert", "clip"] = "words"
    """What splits captions: the words of this data, or a published tokenizer. clip also has the
    text encoder of CLIP in place of the transformer above (Stable Diffusion)."""
    tokenizer_file: Annotated[str, OnResume.FREE] = ""
    """File tokenizer.json of a published tokenizer, or a folder with it, or with vocab.json and
    merges.txt, or vocab.txt; '': downloaded once."""
    vocabulary: PositiveInt = 10_000
    """Words of the captions that are kept, the most frequent ones."""
    freeze_encoder: bool = False
    """The encoder of the condition, tau_theta, is not trained; --init-from has its weights."""
    class_dim: Width = 512
    """Width of the class embedding (App. E.2.1)."""
    class_entry: Literal["cross-attention", "time"] = "cross-attention"
    """Where a class enters: as a token, or added to the embedding of the time step."""
    objects: Annotated[int, Bounds(1, MAX_BOXES, why="an example carries no more boxes")] = 30
    """Most boxes of a layout; of an image that has more, the largest."""
    sections: Annotated[int, Bounds(1, 1024)] = 90
    """Places along a side that the corner of a box can have."""
    degradation: Degradation = "bicubic"
    """How low-resolution images are made, for super-resolution: f times smaller."""
    masks: MaskKind = "mixed"
    """Shape of the holes, for in-painting: LaMa's (wide, narrow, ...), or a third of each."""
    drop_probability: Fraction = 0.1
    """Probability with which a training example loses its condition; 0 rules out guidance."""
    drop_clauses: Fraction = 0.0
    """Probability with which the caption of a scene loses some of its clauses in training; a model
    that learns so also knows what 'a red cone' and 'at night' are."""
    scale_factor: NonNegative = 0.0
    """Factor on the latents; 0: measured, 1 / their standard deviation (App. G)."""


@dataclass(frozen=True)
class ClassifierStage(TrainingConfig):
    """The classifier of noisy latents, for classifier guidance (App. C): --stage classifier.

    It may be configured until its own training begins.
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    """Of which it has the way down and the middle."""
    pool: Literal["mean", "attention"] = "attention"
    """How all positions become one vector (attention in Table 10)."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is sampled and measured when training ends."""

    num_images: Annotated[int, Bounds(1, 10_000)] = 16
    """Images in the grid at the end of training."""
    judged_images: Annotated[int, Bounds(0, 1_000_000)] = 256
    """Images that are measured: read on scenes, or compared with the truth; 0: none."""
    perceptual_file: str = ""
    """Weights of LPIPS on SqueezeNet, to measure restored images with; '': without."""


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run: data, both stages, a classifier for guidance, sampling."""

    init_from: Place = ""
    """Run directory or shipped model whose weights both stages start from (fine-tuning), with a new
    optimiser at step 0; a published model is one after `convert`. '': random weights."""
    data: tyro.conf.AvoidSubcommands[DataConfig] = field(default_factory=ScenesConfig)
    autoencoder: AutoencoderStage = field(default_factory=AutoencoderStage)
    diffusion: DiffusionStage = field(default_factory=DiffusionStage)
    classifier: ClassifierStage = field(default_factory=ClassifierStage)
    sampling: Annotated[SamplingSettings, OnResume.FREE] = field(default_factory=SamplingSettings)
    evaluation: Annotated[EvaluationConfig, OnResume.FREE] = field(default_factory=EvaluationConfig)
    loader: Annotated[LoaderConfig, OnResume.FREE] = field(default_factory=LoaderConfig)
    mesh: Annotated[MeshConfig, OnResume.ROUNDING] = field(default_factory=MeshConfig)
    precision: Literal["float32", "bfloat16"] = "float32"
    """Computing type of the networks; parameters, norms, softmax and losses are float32 always."""
    seed: Seed = 0
    """Seed of everything random in data and training."""
