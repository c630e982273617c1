"""The first stage by its configuration alone."""

from dataclasses import replace

from ldm_jax.autoencoder.loss import AutoencoderLossConfig
from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.experiments.config import AutoencoderStage
from ldm_jax.model.first_stage import FirstStage

SMALL = AutoencoderConfig(
    channels=2,
    channel_mult=(1, 1, 1, 1),  # f = 8
    num_res_blocks=1,
    mid_attention=False,
    z_channels=8,
    groups=1,
)


def test_a_latent_counts_a_byte_a_number_or_the_bits_of_its_codes():
    def first(**changes):
        network = replace(SMALL, **changes)
        loss = AutoencoderLossConfig(disc_weight=0.0)
        return FirstStage(AutoencoderStage(network=network, loss=loss), 3)

    assert first().latent_bytes(64, 128) == 8 * 16 * 8
    assert first(bottleneck="vq", codebook_size=1000).latent_bytes(64, 64) == 80  # 10 bits each
    assert first(bottleneck="vq", codebook_size=2).latent_bytes(8, 24) == 1
