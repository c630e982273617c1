"""One forward pass of published networks at full size, with freshly drawn weights.

    python benchmarks/full_size_forward.py

prints, for the UNet of celeba256 on 3x64x64 latents and for kl-f8 on a 256x256 image: parameters,
operations, seconds to compile, seconds a pass (median of three), peak memory of the process.
"""

import resource
import time
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ldm_jax.autoencoder.kl import split_moments
from ldm_jax.autoencoder.network import Autoencoder
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.parameters import init_params, make_graphdef


def measure(name, build, run, *arrays):
    """Prints a line about run(module, *arrays), the module made by build(rngs)."""
    graph = make_graphdef(build)
    params = jax.block_until_ready(jax.jit(partial(init_params, build))(jax.random.key(0)))
    start = time.perf_counter()
    program = jax.jit(lambda p, *a: run(nnx.merge(graph, p), *a)).lower(params, *arrays).compile()
    compile_s, seconds = time.perf_counter() - start, []
    for _ in range(3):
        start = time.perf_counter()
        out = jax.block_until_ready(program(params, *arrays))
        seconds.append(time.perf_counter() - start)
    assert bool(jnp.isfinite(out).all())
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name}: {size:,} parameters, {program.cost_analysis()['flops'] / 1e9:.0f} GFLOP, "
        f"compiled in {compile_s:.1f} s, {sorted(seconds)[1]:.2f} s a pass -> {out.shape}, "
        f"peak memory of the process {peak:.1f} GB",
        flush=True,
    )


def main():
    info = DataInfo(channels=3, condition="none")
    celeba = LatentDiffusion(EXPERIMENTS["celeba256"](), info)
    measure(
        "celeba256 UNet",
        celeba.objective.build,
        lambda model, z_t, t: model(z_t, t),
        jax.random.normal(jax.random.key(1), (1, 64, 64, 3)),
        jnp.array([500]),
    )
    kl_f8 = EXPERIMENTS["kl-f8"]()
    measure(
        "kl-f8, E and D",
        lambda rngs: Autoencoder(kl_f8.autoencoder.network, 3, rngs=rngs),
        lambda model, x: model.decode(split_moments(model.encode(x))[0]),
        jax.random.uniform(jax.random.key(2), (1, 256, 256, 3), minval=-1.0),
    )


if __name__ == "__main__":
    main()
