"""What an experiment is: one frozen dataclass, every field documented and typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro

from ldm_jax.autoencoder.discriminator import DiscriminatorConfig
from ldm_jax.autoencoder.loss import AutoencoderLossConfig
from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.conditioning.transformer import TransformerConfig
from ldm_jax.data.degradations import Degradation
from ldm_jax.data.masks import MaskKind
from ldm_jax.data.open import DataConfig
from ldm_jax.data.scenes import ScenesConfig
from ldm_jax.diffusion.loss import Norm
from ldm_jax.diffusion.process import Prediction
from ldm_jax.diffusion.schedule import ScheduleConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.sampling.solvers import Sampler
from ldm_jax.sampling.timesteps import Spacing
from ldm_jax.training.optimiser import OptimiserConfig

Condition = Literal[
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
class Progress:
    """How often a stage reports, in steps."""

    log_every: int = 50
    """Steps between two lines of metrics.jsonl."""
    preview_every: int = 1000
    """Steps between two preview grids (and renewed curves)."""
    save_every: int = 1000
    """Steps between two checkpoints."""


@dataclass(frozen=True)
class AutoencoderStage:
    """Stage 1, Sec. 3.1."""

    from_run: str = ""
    """Run directory whose autoencoder to use instead of training one; it has the same network."""
    network: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(4.5e-5, b1=0.5, b2=0.9, weight_decay=0.0)
    )
    progress: Progress = field(default_factory=Progress)
    batch_size: int = 16
    """Images a step, over all devices."""
    crop_size: int = 0
    """Side of the squares, cut out at random, that it trains on; 0: whole images. Those it codes
    may have any size."""
    accumulate: int = 1
    """Parts in which a batch is worked through, one after another, to save memory."""
    remat: bool = False
    """Compute the activations of each block again in the backward pass instead of keeping them."""
    steps: int = 100_000
    """Training steps."""
    ema_decay: float = 0.0
    """Decay of the running average of the weights, which stage 2 then uses; 0: none."""
    init_gain: float = 1.0
    """Factor on the weights that training begins with, PyTorch's as in the published models; 2.45
    makes them He's (variance 2 / fan-in), from which short runs learn far faster."""
    reset_dead_codes_every: int = 0
    """Steps after which codes that no training image uses are moved to where latents are (VQ);
    0: never, as in the paper."""


@dataclass(frozen=True)
class DiffusionStage:
    """Stage 2, Sec. 3.2 and 3.3."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prediction: Prediction = "eps"
    """What the UNet predicts: the noise (the paper), the latent, or v."""
    norm: Norm = "l2"
    """The error of the prediction is squared (Eq. 3), or absolute."""
    condition: Literal["auto", Condition] = "auto"
    """What it is conditioned on; auto: captions if the data has them, else classes, else none.
    layout takes boxes, semantic takes maps; the others any images."""
    text: TransformerConfig = field(default_factory=TransformerConfig)
    tokenizer: Literal["words", "bert", "clip"] = "words"
    """What splits captions: the words of this data, or a published tokenizer. clip also has the
    text encoder of CLIP in place of the transformer above (Stable Diffusion)."""
    tokenizer_file: str = ""
    """File tokenizer.json of a published tokenizer; '': downloaded once."""
    vocabulary: int = 10_000
    """Words of the captions that are kept, the most frequent ones."""
    class_dim: int = 512
    """Width of the class embedding (App. E.2.1)."""
    class_entry: Literal["cross-attention", "time"] = "cross-attention"
    """Where a class enters: as a token, or added to the embedding of the time step."""
    objects: int = 30
    """Most boxes of a layout."""
    sections: int = 90
    """Places along a side that the corner of a box can have."""
    degradation: Degradation = "bicubic"
    """How low-resolution images are made, for super-resolution: f times smaller."""
    masks: MaskKind = "mixed"
    """Shape of the holes, for in-painting: LaMa's (wide, narrow, ...), or a third of each."""
    drop_probability: float = 0.1
    """Probability with which a training example loses its condition; 0 rules out guidance."""
    scale_factor: float = 0.0
    """Factor on the latents; 0: measured, 1 / their standard deviation (App. G)."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    progress: Progress = field(default_factory=Progress)
    batch_size: int = 64
    """Examples a step, over all devices."""
    accumulate: int = 1
    """Parts in which a batch is worked through, one after another, to save memory."""
    remat: bool = False
    """Compute the activations of each block again in the backward pass instead of keeping them."""
    steps: int = 100_000
    """Training steps."""
    ema_decay: float = 0.9999
    """Decay of the running average of the weights, which sampling uses; 0: none."""


@dataclass(frozen=True)
class ClassifierStage:
    """The classifier of noisy latents, for classifier guidance (App. C): --stage classifier.

    It may be configured until its own training begins.
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    """Of which it has the way down and the middle."""
    pool: Literal["mean", "attention"] = "attention"
    """How all positions become one vector (attention in Table 10)."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    progress: Progress = field(default_factory=Progress)
    batch_size: int = 64
    """Examples a step, over all devices."""
    accumulate: int = 1
    """Parts in which a batch is worked through, one after another, to save memory."""
    remat: bool = False
    """Compute the activations of each block again in the backward pass instead of keeping them."""
    steps: int = 100_000
    """Training steps."""
    ema_decay: float = 0.9999
    """Decay of the running average of the weights, which guidance uses; 0: none."""


StageConfig = AutoencoderStage | DiffusionStage | ClassifierStage


@dataclass(frozen=True)
class SamplingDefaults:
    """How images are drawn from the trained model unless told otherwise."""

    sampler: Sampler = "ddim"
    """Solver; heun and dpmpp-2s ask the network twice a step."""
    steps: int = 50
    """Solver steps S, 1 to T."""
    spacing: Spacing = "uniform"
    """Which of the T timesteps those are; the compvis ones are the published code's."""
    guidance: float = 3.0
    """Guidance scale s; 1 is none."""
    eta: float = 0.0
    """Stochasticity of ddim: 0 deterministic, 1 as ddpm; the other solvers have none."""
    num_images: int = 64
    """Images in the grid at the end of training."""
    oracle_images: int = 256
    """Images judged at the end: read by an oracle on scenes, or compared with the truth."""
    perceptual_file: str = ""
    """Weights of LPIPS on SqueezeNet, to judge restored images by; '': without."""


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are made beside the training; it changes none of them."""

    threads: int = 0
    """Batches made at a time, a thread each; 0: one a core, eight at most."""
    ahead: int = 0
    """Batches made ahead, in memory; 0: twice the threads."""


@dataclass(frozen=True)
class MeshConfig:
    """How the devices are arranged."""

    data: int = -1
    """Ways to split the batch; -1: as many as are left."""
    fsdp: int = 1
    """Ways to split the batch, and parameters and optimiser state where they are kept."""
    tensor: int = 1
    """Ways to split attention and feed-forward layers; best a divisor of the number of heads."""


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run: data, both stages, a classifier to guide by, sampling."""

    data: tyro.conf.AvoidSubcommands[DataConfig] = field(default_factory=ScenesConfig)
    autoencoder: AutoencoderStage = field(default_factory=AutoencoderStage)
    diffusion: DiffusionStage = field(default_factory=DiffusionStage)
    classifier: ClassifierStage = field(default_factory=ClassifierStage)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    precision: Literal["float32", "bfloat16"] = "float32"
    """Computing type of the networks; parameters, norms, softmax and losses are float32 always."""
    seed: int = 0
    """Seed of everything drawn at random."""
