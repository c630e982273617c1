"""Would another formulation of the same operation be faster? Convolutions and GroupNorms.

    python benchmarks/formulations.py [--rounds 15]

computes each with its gradients, in the form that the networks have and in others, at sizes of the
autoencoder and the UNet of `scenes`, on one device, in rounds that run every form once. Printed
is the processor time, which hardly depends on what else the machine does, and the median of its
ratio to the form that the networks have. All forms have to come to the same gradients.
"""

import argparse
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldm_jax import layers

# (B, H = W, channels in, channels out) of 3x3 convolutions
CONVOLUTIONS = (
    (16, 32, 16, 16),
    (16, 16, 32, 32),
    (16, 8, 64, 64),
    (32, 8, 64, 64),
    (32, 8, 192, 64),
    (32, 4, 128, 128),
)
# (B, H = W, channels, groups)
NORMS = ((16, 32, 16, 8), (16, 16, 32, 8), (16, 8, 64, 8), (32, 8, 64, 16), (32, 4, 128, 16))
TURNS = 4  # runs of a form in a round


def convolution(x, k):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=dimensions)


def shifted(x):
    """x as each of the nine weights of a 3x3 kernel meets it."""
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]


def patches(x):
    return jnp.concatenate(shifted(x), axis=-1).reshape(-1, 9 * x.shape[-1])


def one_product(x, k):
    return (patches(x) @ k.reshape(-1, k.shape[-1])).reshape(*x.shape[:3], -1)


def nine_products(x, k):
    return sum(s @ k[i // 3, i % 3] for i, s in enumerate(shifted(x)))


def kernel_by_one(x, k, g):
    return (patches(x).T @ g.reshape(-1, g.shape[-1])).reshape(k.shape)


def kernel_by_nine(x, k, g):
    g = g.reshape(-1, g.shape[-1])
    return jnp.stack([s.reshape(-1, x.shape[-1]).T @ g for s in shifted(x)]).reshape(k.shape)


def with_kernel_gradient(of_kernel):
    """The convolution, with the gradient of its kernel computed by `of_kernel`."""

    @jax.custom_vjp
    def f(x, k):
        return convolution(x, k)

    def backward(saved, g):
        x, k = saved
        return convolution(g, jnp.flip(k, (0, 1)).swapaxes(2, 3)), of_kernel(x, k, g)

    f.defvjp(lambda x, k: (convolution(x, k), (x, k)), backward)
    return f


def convolutions():
    forms = {
        "convolution": convolution,
        "kernel's gradient as one matrix product": with_kernel_gradient(kernel_by_one),
        "kernel's gradient as nine": with_kernel_gradient(kernel_by_nine),
        "all as one matrix product": one_product,
        "all as nine": nine_products,
    }
    for b, side, c_in, c_out in CONVOLUTIONS:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((b, side, side, c_in), np.float32)
        k = rng.standard_normal((3, 3, c_in, c_out), np.float32) / np.float32(3 * c_in**0.5)
        yield f"3x3 convolution {b}x{side}x{side}, {c_in} to {c_out}", forms, (x, k)


def norms():
    for b, side, c, groups in NORMS:
        kw = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
        ours = layers.group_norm(c, groups, 1e-6, **kw)
        flax = nnx.GroupNorm(c, num_groups=groups, epsilon=1e-6, use_fast_variance=False, **kw)
        forms = {}
        for name, module in (("means over positions first", ours), ("nnx.GroupNorm", flax)):
            graph, state = nnx.split(module)
            forms[name] = partial(normed, graph)
        x = np.random.default_rng(0).standard_normal((b, side, side, c), np.float32)
        yield f"GroupNorm and SiLU {b}x{side}x{side}x{c}, {groups} groups", forms, (x, state)


def normed(graph, x, state):
    return nnx.silu(nnx.merge(graph, state)(x))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=15)
    rounds = arguments.parse_args().rounds
    print("| operation | form | ms | ratio |\n|---|---|---|---|")
    for title, forms, inputs in (*convolutions(), *norms()):

        def gradients(x, weights, form):
            return jax.grad(lambda *p: jnp.mean(form(*p) ** 2), (0, 1))(x, weights)

        programs = {name: jax.jit(partial(gradients, form=form)) for name, form in forms.items()}
        results = [jax.block_until_ready(run(*inputs)) for run in programs.values()]
        for other in results[1:]:
            close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
            jax.tree.map(close, other, results[0])
        seconds = {name: [] for name in programs}
        for _ in range(rounds):
            for name, run in programs.items():
                start = time.process_time()
                for _ in range(TURNS):
                    jax.block_until_ready(run(*inputs))
                seconds[name].append((time.process_time() - start) / TURNS)
        first = next(iter(seconds.values()))
        for name, times in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(times, first, strict=True))
            print(f"| {title} | {name} | {1e3 * min(times):.2f} | {ratio:.2f} |", flush=True)
            title = ""


if __name__ == "__main__":
    main()
