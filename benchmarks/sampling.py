"""How long does drawing take? One compiled program against a Python loop, and against diffusers.

    pip install diffusers torch
    python benchmarks/sampling.py --unet scenes --batch 8 --steps 50

draws the same latents in each of these ways, in float32 on the CPU, one after the other and all
over again, and prints for each the median time and the median of its ratio to the first:

- one program: the whole walk of DDIM compiled as one `lax.scan`, as sample.py does it;
- Python loop: the same walk, step by step, each a call of one compiled step;
- diffusers: its UNet of the same sizes with the same weights, and its DDIMScheduler, in PyTorch.

The first two once with one device a core, each of which takes its share of the batch (as sample.py
has them), and once on a single device. Weights are random, the condition is random tokens. Before
anything is timed, all have to come to the same latents. Where other work takes the cores, compare
on one (`taskset -c 0`): threads that wait for each other, PyTorch's above all, stand still then.
"""

import argparse
import json
import os
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from tqdm import tqdm

from ldm_jax.diffusion.process import eps_and_z0
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.unet import UNet, UNetConfig
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.parameters import fresh, graph_of
from ldm_jax.pretrained.names import unet_entries
from ldm_jax.sampling.sample import noise_like, picture_keys, sample
from ldm_jax.sampling.single_step import ddim_step
from ldm_jax.sampling.solvers import SOLVERS
from ldm_jax.sampling.timesteps import timestep_grid
from ldm_jax.training.sharding import batch_sharding, make_mesh, tree_sharding

LAPTOP, FACES = EXPERIMENTS["scenes"]().diffusion, EXPERIMENTS["celeba256"]().diffusion
SMALL_FACES = UNetConfig(channels=64, channel_mult=(1, 2, 3, 4), attention_factors=(2, 4, 8))
# Those that this process may use: `taskset -c 0 python ...` compares on one
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
# name -> (sizes, latent (h, w, c), tokens and width of the condition, experiment's stage)
UNETS = {
    "scenes": (LAPTOP.unet, (8, 8, 4), (13, LAPTOP.text.dim), LAPTOP),
    # The UNet of celeba256 with 64 channels in place of 224, on a quarter of the positions
    "celeba256-small": (SMALL_FACES, (32, 32, 3), None, FACES),
}


def random_weights(build) -> dict:
    """Fresh parameters, moved off the zeros that the last layers start at."""
    leaves, tree = jax.tree.flatten(jax.jit(partial(fresh, build))(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [a + 0.02 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def our_ways(build, params, stage, schedule, grid, z_T, context):
    """Name -> () -> latents."""
    graph, shape = graph_of(build), z_T.shape[1:]
    keys = picture_keys(0, jnp.arange(len(z_T)))

    def predict(params, context, z_t, t):
        return nnx.merge(graph, params)(z_t, t, context)

    @jax.jit
    def program(params, context, z_T, keys, eta):
        ask, ddim = partial(predict, params, context), SOLVERS["ddim"]
        prediction = stage.prediction
        return sample(ask, schedule, prediction, ddim, grid, keys, shape, eta=eta, start=z_T)

    @jax.jit
    def step(params, context, z_t, t, s):
        def denoise(z_t, t):
            t = jnp.broadcast_to(t, z_t.shape[:1])
            return eps_and_z0(schedule, stage.prediction, predict(params, context, z_t, t), z_t, t)

        return ddim_step(schedule, denoise, z_t, t, s, 0.0, 0.0)[0]

    def loop(params, context, z_t, keys, eta):
        for t, s in zip(grid[:-1], grid[1:], strict=True):
            z_t = step(params, context, z_t, t, s)
        return z_t

    ways, eta = {}, jnp.float32(0.0)
    several = [n for n in (len(jax.devices()), 1) if len(z_T) % n == 0]
    for n in several:
        mesh = make_mesh(devices=jax.devices()[:n])
        there = jax.device_put(params, tree_sharding(params, mesh))
        batch = jax.device_put((context, z_T, keys), batch_sharding(mesh))
        for name, draw in (("one program", program), ("Python loop", loop)):
            ways[f"{name}, {n} device{'s' * (n > 1)}"] = partial(draw, there, *batch, eta)
    return {
        name: lambda draw=draw: np.asarray(jax.block_until_ready(draw()))
        for name, draw in sorted(ways.items(), key=lambda way: "loop" in way[0])
    }


def diffusers_ways(config, params, prediction, schedule, steps, z_T, context, compiled):
    """Name -> () -> latents; none, and a line, where diffusers is not installed."""
    try:
        import torch
        from diffusers import DDIMScheduler, UNet2DConditionModel, UNet2DModel
    except ImportError as error:
        print(f"left out diffusers, which is not installed ({error}): pip install diffusers torch")
        return {}
    torch.set_num_threads(CORES)
    attends = [2**level in config.attention_factors for level in range(len(config.channel_mult))]
    channels = [config.channels * mult for mult in config.channel_mult]
    sizes = {
        "in_channels": z_T.shape[-1],
        "out_channels": z_T.shape[-1],
        "block_out_channels": channels,
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.groups,
    }
    cross = "" if context is None else "Cross"
    name = f"{cross}Attn{{}}Block2D"
    sizes["down_block_types"] = [name.format("Down") if a else "DownBlock2D" for a in attends]
    sizes["up_block_types"] = [name.format("Up") if a else "UpBlock2D" for a in attends[::-1]]
    if context is None:
        unet = UNet2DModel(**sizes, attention_head_dim=config.head_channels)
    else:
        heads = [config.heads_of(c) for c in channels]  # it calls them attention_head_dim
        dim = context.shape[-1]
        unet = UNet2DConditionModel(**sizes, attention_head_dim=heads, cross_attention_dim=dim)
    unet.load_state_dict(their_weights(config, params, unet.state_dict(), context is not None))
    unet.eval()
    scheduler = DDIMScheduler(
        num_train_timesteps=schedule.timesteps,
        trained_betas=schedule.beta.astype(np.float32),
        prediction_type={"eps": "epsilon", "z_0": "sample", "v": "v_prediction"}[prediction],
        timestep_spacing="trailing",  # T-1 first, as ours
        clip_sample=False,
    )
    start = torch.tensor(np.ascontiguousarray(np.moveaxis(z_T, -1, 1)))
    more = () if context is None else (torch.tensor(context),)

    @torch.no_grad()
    def draw(network):
        scheduler.set_timesteps(steps)
        z_t = start
        for t in scheduler.timesteps:
            z_t = scheduler.step(network(z_t, t, *more).sample, t, z_t).prev_sample
        return np.moveaxis(z_t.numpy(), 1, -1)

    ways = {"diffusers": partial(draw, unet)}
    if compiled:
        ways["diffusers, torch.compile"] = partial(draw, torch.compile(unet))
    return ways


def their_weights(config, params, theirs, cross_attention):
    """Our parameters under diffusers' names, in the shapes of its state dict."""
    import torch

    flat = traverse_util.flatten_dict(params)
    state = {}
    for row in unet_entries(config, cross_attention=cross_attention):
        for path, name in zip(row.ours, row.diffusers, strict=True):
            array = np.asarray(flat[path])
            if row.layout.transposed and array.ndim > 1:  # inputs, outputs -> outputs, inputs
                array = np.moveaxis(array, (-1, -2), (0, 1))
            state[name] = torch.tensor(np.ascontiguousarray(array)).reshape(theirs[name].shape)
    return state


def main():
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", CORES)
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--unet", choices=UNETS, default="scenes")
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--steps", type=int, default=50, help="a divisor of 1000")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--compile", action="store_true", help="torch.compile(unet) as well")
    arguments.add_argument("--out", help="the figures as JSON")
    options = arguments.parse_args()
    config, shape, tokens, stage = UNETS[options.unet]
    schedule = make_schedule(stage.schedule)
    if options.steps < 1 or schedule.timesteps % options.steps:
        arguments.error(f"--steps {options.steps}: both have the same grid for divisors of 1000")
    grid = timestep_grid("uniform", options.steps, schedule)
    z_T = np.asarray(noise_like(picture_keys(0, jnp.arange(options.batch)), shape))
    context = None
    if tokens is not None:
        drawn = np.random.default_rng(0).standard_normal((options.batch, *tokens))
        context = drawn.astype(np.float32)
    c, dim = shape[-1], 0 if tokens is None else tokens[-1]

    def build(rngs):
        return UNet(config, c, c, dim, rngs=rngs)

    params = random_weights(build)
    ways = our_ways(build, params, stage, schedule, grid, z_T, context)
    ways |= diffusers_ways(
        config, params, stage.prediction, schedule, options.steps, z_T, context, options.compile
    )

    first_s, latents = {}, {}
    for name, draw in tqdm(ways.items(), desc="compiling"):
        begin = time.perf_counter()
        latents[name] = draw()
        first_s[name] = time.perf_counter() - begin
    names = list(ways)
    exact = latents[names[0]]
    assert np.isfinite(exact).all() and exact.std() > 0.1
    apart = {name: float(np.abs(z - exact).max() / exact.std()) for name, z in latents.items()}
    assert max(apart.values()) < 1e-3, f"not the same latents: {apart}"

    seconds = {name: [] for name in names}
    for _ in tqdm(range(options.rounds), desc="rounds"):
        for name, draw in ways.items():
            begin = time.perf_counter()
            draw()
            seconds[name].append(time.perf_counter() - begin)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"{options.unet}: {parameters:,} parameters, {shape[2]}x{shape[0]}x{shape[1]} latents, "
        f"{options.steps} steps of DDIM, batch {options.batch}, {CORES} core(s), "
        f"{options.rounds} rounds"
    )
    print("| | seconds | ratio (all rounds) | first call | apart |\n|---|---|---|---|---|")
    rows = []
    for name in names:
        ratios = [s / ours for s, ours in zip(seconds[name], seconds[names[0]], strict=True)]
        row = {
            "way": name,
            "seconds": statistics.median(seconds[name]),
            "ratio": statistics.median(ratios),
            "ratios": sorted(ratios),
            "first_call_seconds": first_s[name],
            "apart": apart[name],
        }
        rows.append(row)
        print(
            f"| {name} | {row['seconds']:.3f} | {row['ratio']:.2f} ({min(ratios):.2f} to "
            f"{max(ratios):.2f}) | {first_s[name]:.1f} s | {apart[name]:.1e} |"
        )
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(
                {**vars(options), "cores": CORES, "parameters": parameters, "rows": rows},
                file,
                indent=1,
            )


if __name__ == "__main__":
    main()
