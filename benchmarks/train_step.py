"""How long does a training step take? Ours beside diffusers', in one run.

    pip install diffusers torch
    python benchmarks/train_step.py --model unet --size laptop --out unet.json

A step is the forward pass, its gradient, the update by Adam or AdamW (clipped where the experiment
clips) and the running average of the weights where it keeps one:

- ours: the step that `train.py` compiles, state donated, every core a device;
- ours, 1 device: the same on a single device, where there are several cores;
- torch: diffusers' network of the same sizes, SDPA, AdamW and the average by `torch._foreach`; on
  a GPU the fused AdamW, channels last; in bfloat16 under autocast, with float32 weights;
- torch-compile: the same, network and loss through `torch.compile`.

The sizes are `laptop` (`scenes`; 3x32x32 images, 8x8x8 latents with 13 random tokens as the
condition), and `paper` (celeba256, 3x64x64 latents; kl-f8, 3x256x256 images). The autoencoder's
loss is reconstruction and KL, without discriminator, LPIPS and scale equivariance; the optimiser is
Adam, which both have, where the experiment has Muon. Before anything is timed, the
networks with the same weights have to come to the same output, loss and gradient in float32.
Batches are random, and lie on the device already.
"""

import dataclasses
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import side_by_side as sbs
from train_step_tasks import AutoencoderTask, UNetTask

from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.sharding import make_mesh, put_batch
from ldm_jax.training.step import compile_step, init_state, train_step

MODELS = {"unet": (UNetTask, sbs.UNETS), "autoencoder": (AutoencoderTask, sbs.AUTOENCODERS)}
WAYS = ("ours", "ours-1-device", "torch", "torch-compile")
STEPS = 1000  # of the run, as far as the learning rate's schedule knows


def config_of(size) -> TrainingConfig:
    return TrainingConfig(size.optimiser, steps=STEPS, ema_decay=size.ema_decay)


def compiled(task, params, dtype, mesh):
    """(the step that train.py compiles, run(n) that does n of them)."""
    objective, config = task.objective(dtype), config_of(task.size)
    _, abstract, step = compile_step(objective, config, mesh, jax.random.key(0), task.batch, {})
    batch = put_batch(task.batch, mesh)
    # As `init` makes it, but for the weights: a run starts with moments of zero
    start = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), abstract)
    start = dataclasses.replace(start, params=params, ema=abstract.ema and params)
    held = {"state": jax.device_put(start, jax.tree.map(lambda a: a.sharding, abstract))}

    def run(times):
        for _ in range(times):
            held["state"], metrics = step(held["state"], batch)
        jax.block_until_ready((held["state"], metrics))
        return metrics

    return step, run


def our_way(name, task, params, dtype, mesh) -> sbs.Way:
    """Our step, and what is known of it."""
    begin = time.perf_counter()
    step, run = compiled(task, params, dtype, mesh)
    run(1)
    facts = {
        "first_call_seconds": time.perf_counter() - begin,
        "compile_seconds": step.compile_s,
        "parameters": step.parameters,
        "devices": mesh.size,
        "program_bytes": step.peak_bytes * mesh.size,
        "xla_flops": step.flops,
    }
    loss = run(2)["loss"]
    assert jnp.isfinite(loss), f"{name}: the loss is {loss}"
    if sbs.on_gpu():
        facts["peak_bytes"] = jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    return sbs.Way(name, run, facts)


def operations(task, dtype) -> float:
    """Of one step, as the program is written, before XLA makes anything of it."""
    objective, config = task.objective(dtype), config_of(task.size)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: init_state(objective, config, key, {}), key)
    step = jax.jit(partial(train_step, objective=objective, config=config))
    return step.lower(state, task.batch, key=key).cost_analysis()["flops"]


def their_parts(torch, task, params):
    """(network, output, loss, draw, batch) on the device, in the layout that suits it."""
    import in_diffusers

    device = sbs.torch_device()
    network, output, loss, draw = task.theirs(torch, params)
    network.to(
        device, memory_format=torch.channels_last if sbs.on_gpu() else torch.contiguous_format
    )
    return network.train(), output, loss, draw, in_diffusers.tensors(task.batch, device)


def their_way(name, torch, task, params, precision) -> sbs.Way:
    """diffusers' network under PyTorch's optimiser."""
    before = sbs.resident_bytes(reset_peak=True)
    if sbs.on_gpu():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    network, _, loss, draw, batch = their_parts(torch, task, params)
    config, ema_decay = task.size.optimiser, task.size.ema_decay
    weights = list(network.parameters())
    average = [w.detach().clone() for w in weights] if ema_decay else []
    optimiser = torch.optim.AdamW(
        weights,
        lr=config.learning_rate,
        betas=(config.b1, config.b2),
        weight_decay=config.weight_decay,
        fused=sbs.on_gpu(),
    )
    low = torch.autocast(
        sbs.torch_device(), torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=True
    )

    def ask(draws):
        return loss(network, batch, draws)

    if name == "torch-compile":
        ask = torch.compile(ask)

    def run(times):
        for _ in range(times):
            optimiser.zero_grad(set_to_none=True)
            draws = draw(batch)
            with low:
                value = ask(draws)
            value.backward()
            if config.clip_norm:
                torch.nn.utils.clip_grad_norm_(weights, config.clip_norm, foreach=True)
            optimiser.step()
            if average:
                with torch.no_grad():
                    torch._foreach_lerp_(average, weights, 1 - ema_decay)
        sbs.synchronise(torch)
        return value

    first = sbs.seconds_of(partial(run, 1))
    value = run(2)
    assert torch.isfinite(value), f"{name}: the loss is {value}"
    facts = {"first_call_seconds": first}
    if sbs.on_gpu():
        facts["peak_bytes"] = torch.cuda.max_memory_allocated() - before
    elif before is not None:
        facts["resident_bytes_more"] = sbs.resident_bytes(peak=True) - before
    return sbs.Way(name, run, facts)


def check_equal(torch, task, params) -> dict[str, float]:
    """How far apart output, loss and gradient norm are, relative; in float32, for the same draws.

    Exits with a line where that is too far.
    """
    import in_diffusers

    sbs.allow_tf32(torch, False)
    objective, key = task.objective(jnp.float32), jax.random.key(7)
    draws = task.draws(key)

    @partial(jax.jit, compiler_options=sbs.quickly())
    def ours(params, batch, draws):
        grads, metrics = objective.loss_and_grads(params, {}, batch, key, jnp.int32(0))
        squares = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))
        return task.output(params, batch, draws), metrics["loss"], jnp.sqrt(squares)

    out, loss, norm = (np.asarray(a) for a in ours(params, task.batch, draws))
    network, output, their_loss, _, batch = their_parts(torch, task, params)
    draws = in_diffusers.tensors(draws, sbs.torch_device())
    with torch.no_grad():
        their_out = in_diffusers.channels_last(output(network, batch, draws))
    value = their_loss(network, batch, draws)
    value.backward()
    their_norm = torch.nn.utils.get_total_norm([w.grad for w in network.parameters()])
    apart = {
        "output": sbs.apart(out, their_out),
        "loss": abs(value.item() / float(loss) - 1),
        "gradient_norm": abs(their_norm.item() / float(norm) - 1),
    }
    sbs.refuse_unless_equal(apart)
    sbs.allow_tf32(torch, True)
    return apart


def task_of(options, batch: int | None = None):
    """What `--model` and `--size` name; of `batch`, `--batch` or as many as the experiment has."""
    kind, sizes = MODELS[options.model]
    size = sizes[options.size]
    options.batch = options.batch or size.batch
    return kind(size, batch or options.batch)


def main():
    parser = sbs.options_of(__doc__.splitlines()[0], beside=True)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=["ours", "torch", "torch-compile"]
    )
    parser.add_argument("--turn-seconds", type=float, default=2.0, help="of a way in a round")
    options = parser.parse_args()
    task = task_of(options)
    mesh = sbs.begin(options)
    dtype = jnp.dtype(options.precision)
    params = sbs.random_weights(task.objective(dtype).init)
    torch = sbs.import_torch() if {"torch", "torch-compile"} & {*options.ways} else None
    apart = check_equal(torch, task_of(options, batch=2), params) if torch else None
    flops = operations(task, dtype)

    ways = []
    for name in options.ways:
        print(f"{name}: first call", file=sys.stderr, flush=True)
        if name == "ours-1-device" and mesh.size == 1:
            continue
        if name.startswith("ours"):
            on = make_mesh(devices=jax.devices()[:1]) if name == "ours-1-device" else mesh
            ways.append(our_way(name, task, params, dtype, on))
        elif torch:
            ways.append(their_way(name, torch, task, params, options.precision))
    products = sbs.matrix_products(options.precision, mesh, torch)
    for way in products:
        way.run(2)
    seconds = sbs.measure(ways + products, options.rounds, options.turn_seconds)
    rates = sbs.rates(seconds, products)
    rows = sbs.rows_of(ways, seconds)
    for row in rows:
        row["images_per_s"] = options.batch / row["seconds"]
        row["share_of_peak"] = flops / row["seconds"] / max(rates.values())
    figures = {
        "model": options.model,
        "size": options.size,
        "batch": options.batch,
        "precision": options.precision,
        "rounds": options.rounds,
        "flops": flops,
        "matrix_product_flops_per_s": rates,
        "apart": apart,
        "rows": rows,
        "machine": sbs.machine(),
    }
    print(table(figures))
    sbs.write(options.out, figures)


def table(figures: dict) -> str:
    """The figures as Markdown."""
    rate = ", ".join(
        f"{k} {v / 1e12:.3g}" for k, v in figures["matrix_product_flops_per_s"].items()
    )
    lines = [
        f"{figures['model']}, {figures['size']}, batch {figures['batch']}, {figures['precision']}, "
        f"{figures['flops'] / 1e9:.4g} GFLOP a step; matrix product, TFLOP/s: {rate}; "
        f"{figures['rounds']} rounds; {sbs.machine_line(figures['machine'])}",
        "",
        "| | ms a step | images a second | time, ratio (all rounds) | first call | memory "
        "| of a matrix product's rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        memory = next(
            f"{row[key] / 1e9:.2f} GB{note}"
            for key, note in (
                ("peak_bytes", ""),
                ("program_bytes", ""),
                ("resident_bytes_more", " more resident"),
            )
            if key in row
        )
        lines.append(
            f"| {row['way']} | {1e3 * row['seconds']:.4g} | {row['images_per_s']:.4g} "
            f"| {sbs.ratio_text(row)} | {row['first_call_seconds']:.1f} s | {memory} "
            f"| {100 * row['share_of_peak']:.1f} % |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
