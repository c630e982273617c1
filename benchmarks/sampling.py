"""How long does drawing take? One compiled program against a Python loop, and against diffusers.

    pip install diffusers torch
    python benchmarks/sampling.py --size laptop --batch 8 --steps 50

draws the same latents in each of these ways, in rounds that run every way once, and prints for each
the median time and the median of its ratio to the first:

- program: the whole walk of DDIM compiled as one `lax.scan`, as sample.py does it;
- loop: the same walk, step by step, each a call of one compiled step;
- torch: diffusers' UNet of the same sizes with the same weights, and its DDIMScheduler; on a GPU
  channels last, in bfloat16 with weights of bfloat16;
- torch-compile: the same, its UNet through `torch.compile`.

Those that end in 1-device have the batch on a single device, the others a share of it on each; on a
CPU every core is a device, as sample.py has it. Sizes are the UNets of `scenes` (laptop) and
celeba256 (paper). Weights are random, the condition, where there is one, is random tokens. Before
anything is timed, both networks have to come to the same output in float32, and then all ways to
the same latents. Where other work takes the cores, compare on one (`taskset -c 0`): threads that
wait for each other, PyTorch's above all, stand still then.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import side_by_side as sbs
from flax import nnx

from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.diffusion.unet import UNet
from ldm_jax.parameters import init_params, make_graphdef
from ldm_jax.sampling.noise import image_keys, noise_like
from ldm_jax.sampling.sample import ReverseProcess, denoiser, sample
from ldm_jax.sampling.single_step import ddim_step
from ldm_jax.sampling.solvers import SOLVERS
from ldm_jax.sampling.timesteps import timestep_grid
from ldm_jax.training.sharding import batch_sharding, make_mesh, tree_sharding

WAYS = ("program", "program-1-device", "loop", "loop-1-device", "torch", "torch-compile")
SCHEDULE = make_schedule(ScheduleConfig())
PREDICTIONS = {"eps": "epsilon", "z_0": "sample", "v": "v_prediction"}


class Drawing:
    """A UNet with its weights, and what all ways draw from."""

    def __init__(self, size: sbs.UNetSize, batch: int, steps: int, dtype):
        self.size, self.steps, self.dtype = size, steps, dtype
        self.params = sbs.random_weights(partial(init_params, self.builder(dtype)))
        self.keys = image_keys(0, jnp.arange(batch))
        self.z_T = np.asarray(noise_like(self.keys, size.latent))
        self.context = None
        if size.tokens:
            drawn = np.random.default_rng(0).standard_normal((batch, *size.tokens))
            self.context = drawn.astype(np.float32)

    def builder(self, dtype):
        c, dim = self.size.latent[-1], self.size.tokens[1] if self.size.tokens else 0
        return lambda rngs: UNet(self.size.unet, c, c, dim, dtype=dtype, rngs=rngs)

    def ours(self, name: str, mesh) -> sbs.Way:
        """The walk in one program, or a step at a time, on the devices of a mesh."""
        graph, prediction = make_graphdef(self.builder(self.dtype)), self.size.prediction
        grid = timestep_grid("uniform", self.steps, SCHEDULE)

        def predict(params, context, z_t, t):
            return nnx.merge(graph, params)(z_t, t, context)

        @jax.jit
        def program(params, context, z_T, keys, eta):
            denoise = denoiser(partial(predict, params, context), SCHEDULE, prediction)
            process = ReverseProcess(SCHEDULE, SOLVERS["ddim"], grid, eta)
            return sample(denoise, process, z_T, keys)

        @jax.jit
        def step(params, context, z_t, t, s):
            denoise = denoiser(partial(predict, params, context), SCHEDULE, prediction)
            return ddim_step(SCHEDULE, denoise, z_t, t, s, 0.0, 0.0)[0]

        def loop(params, context, z_t, keys, eta):
            for t, s in zip(grid[:-1], grid[1:], strict=True):
                z_t = step(params, context, z_t, t, s)
            return z_t

        there = jax.device_put(self.params, tree_sharding(self.params, mesh))
        batch = jax.device_put((self.context, self.z_T, self.keys), batch_sharding(mesh))
        draw = program if name.startswith("program") else loop

        def run(times):
            for _ in range(times):
                z_0 = jax.block_until_ready(draw(there, *batch, jnp.float32(0.0)))
            return z_0

        return first_call(name, run, np.asarray, mesh.size)

    def theirs(self, name: str, torch) -> sbs.Way:
        """diffusers' UNet and scheduler."""
        import in_diffusers
        from diffusers import DDIMScheduler

        network, start, more = self.in_torch(torch, self.dtype)
        if name == "torch-compile":
            network = torch.compile(network)
        scheduler = DDIMScheduler(
            num_train_timesteps=SCHEDULE.timesteps,
            trained_betas=SCHEDULE.beta.astype(np.float32),
            prediction_type=PREDICTIONS[self.size.prediction],
            timestep_spacing="trailing",  # T-1 first, as ours
            clip_sample=False,
        )
        low = getattr(torch, self.dtype.name)

        @torch.no_grad()
        def run(times):
            for _ in range(times):
                scheduler.set_timesteps(self.steps, device=start.device)
                z_t = start
                for t in scheduler.timesteps:
                    out = network(z_t.to(low), t, *more, return_dict=False)[0].float()
                    z_t = scheduler.step(out, t, z_t, return_dict=False)[0]
            sbs.synchronise(torch)
            return z_t

        return first_call(name, run, in_diffusers.channels_last)

    def in_torch(self, torch, dtype):
        """(network, z_T, what else it is asked with) on the device."""
        import in_diffusers

        size, device = self.size, sbs.torch_device()
        network = in_diffusers.unet(
            size.unet, self.params, size.latent[-1], size.tokens[1] if size.tokens else 0
        )
        low = getattr(torch, jnp.dtype(dtype).name)
        layout = torch.channels_last if sbs.on_gpu() else torch.contiguous_format
        network.to(device, memory_format=layout).eval()
        if low != torch.float32:
            network.to(low)
        more = () if self.context is None else (torch.tensor(self.context).to(device, low),)
        return network, in_diffusers.channels_first(self.z_T, device), more

    def check_equal(self, torch) -> float:
        """How far apart both networks' outputs are in float32, relative; exits if too far."""
        import in_diffusers

        sbs.allow_tf32(torch, False)
        graph, t = make_graphdef(self.builder(jnp.float32)), np.full(len(self.z_T), 500)
        ask = jax.jit(lambda p, *a: nnx.merge(graph, p)(*a), compiler_options=sbs.quickly())
        ours = np.asarray(ask(self.params, self.z_T, t, self.context))
        network, z_T, more = self.in_torch(torch, jnp.float32)
        with torch.no_grad():
            out = network(z_T, torch.tensor(t, device=z_T.device), *more, return_dict=False)[0]
        apart = sbs.apart(ours, in_diffusers.channels_last(out))
        sbs.refuse_unless_equal({"output": apart})
        sbs.allow_tf32(torch, True)
        return apart


def first_call(name, run, as_numpy, devices=1) -> sbs.Way:
    """The way, run once."""
    print(f"{name}: first call", file=sys.stderr, flush=True)
    z_0 = []
    first = sbs.seconds_of(lambda: z_0.append(run(1)))
    z_0 = as_numpy(z_0[0])
    assert np.isfinite(z_0).all() and z_0.std() > 0.1, f"{name}: not latents"
    return sbs.Way(name, run, {"first_call_seconds": first, "devices": devices, "latents": z_0})


def main():
    parser = sbs.options_of(__doc__.splitlines()[0], beside=True)
    parser.set_defaults(batch=8)
    parser.add_argument("--steps", type=int, default=50, help="a divisor of 1000")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    if options.steps < 1 or SCHEDULE.timesteps % options.steps:
        parser.error(f"--steps {options.steps}: both have the same grid for divisors of 1000")
    mesh = sbs.begin(options)
    drawing = Drawing(
        sbs.UNETS[options.size], options.batch, options.steps, jnp.dtype(options.precision)
    )
    torch = sbs.import_torch() if {"torch", "torch-compile"} & {*options.ways} else None
    output_apart = drawing.check_equal(torch) if torch else None

    one, ways = make_mesh(devices=jax.devices()[:1]), []
    for name in options.ways:
        if name.startswith("torch"):
            ways += [drawing.theirs(name, torch)] if torch else []
        elif name.endswith("1-device"):
            ways += [drawing.ours(name, one)] if mesh.size > 1 else []
        else:
            ways.append(drawing.ours(name, mesh))
    first = ways[0].facts["latents"]
    for way in ways:
        way.facts["apart"] = float(np.abs(way.facts.pop("latents") - first).max() / first.std())
    exact = options.precision == "float32" and not sbs.on_gpu()
    apart = {way.name: way.facts["apart"] for way in ways}
    sbs.refuse_unless_equal(apart, 1e-3 if exact else 0.2)

    seconds = sbs.measure(ways, options.rounds, 0.0)
    rows = sbs.rows_of(ways, seconds)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(drawing.params))
    figures = {
        "size": options.size,
        "parameters": parameters,
        "steps": options.steps,
        "batch": options.batch,
        "precision": options.precision,
        "rounds": options.rounds,
        "output_apart": output_apart,
        "rows": rows,
        "machine": sbs.machine(),
    }
    h, w, c = drawing.size.latent
    print(
        f"{options.size}: {parameters:,} parameters, {c}x{h}x{w} latents, {options.steps} steps of "
        f"DDIM, batch {options.batch}, {options.precision}, {options.rounds} rounds; "
        f"{sbs.machine_line(figures['machine'])}\n\n"
        "| | seconds | images a second | time, ratio (all rounds) | first call | apart |\n"
        "|---|---|---|---|---|---|"
    )
    for row in rows:
        print(
            f"| {row['way']} | {row['seconds']:.3f} | {options.batch / row['seconds']:.4g} "
            f"| {sbs.ratio_text(row)} | {row['first_call_seconds']:.1f} s | {row['apart']:.1e} |"
        )
    sbs.write(options.out, figures)


if __name__ == "__main__":
    main()
