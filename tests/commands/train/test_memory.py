"""What saves memory, through the networks of the experiments: precision, remat, sharding.

Nothing is compiled but the smallest networks: shapes, types and placements are known without.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ldm_jax.conditioning.transformer import Layer
from ldm_jax.diffusion.transformer import TransformerBlock
from ldm_jax.experiments import EXPERIMENTS
from ldm_jax.layers import ResBlock, SpatialSelfAttention
from ldm_jax.model.classifier import Classifier
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.placeholder import placeholder_data
from ldm_jax.parameters import abstract_params
from ldm_jax.training.sharding import SMALLEST_SHARDED, make_mesh, tree_sharding
from ldm_jax.training.step import init_state, train_step

STAGES = ("autoencoder", "diffusion", "classifier")
TEXT = DataInfo(3, "text", ("a", "b", "c"), tuple("abcdefgh"), 5)
KEY = jax.random.key(0)


def smallest():
    """smoke with a single level, an average of every stage, and remat."""
    smoke = EXPERIMENTS["smoke"]()
    first, second, third = (
        dataclasses.replace(getattr(smoke, s), remat=True, ema_decay=0.9) for s in STAGES
    )
    return dataclasses.replace(
        smoke,
        autoencoder=dataclasses.replace(
            first, network=dataclasses.replace(first.network, channel_mult=(1,))
        ),
        diffusion=dataclasses.replace(
            second, unet=dataclasses.replace(second.unet, channel_mult=(1,))
        ),
        classifier=dataclasses.replace(
            third, unet=dataclasses.replace(third.unet, channel_mult=(1,))
        ),
    )


def trained_as(experiment, which, info=TEXT):
    """(objective, its configuration, constants, shapes of a batch)."""
    model, config = LatentDiffusion(experiment, info), getattr(experiment, which)
    objective = {
        "autoencoder": lambda: model.first.objective,
        "diffusion": lambda: model.objective,
        "classifier": lambda: Classifier(model).objective,
    }[which]()
    n, size, (h, w, c) = config.batch_size, experiment.data.size, model.geometry().shape
    struct = jax.ShapeDtypeStruct
    if which == "autoencoder":
        return objective, config, {}, {"image": struct((n, size, size, 3), np.uint8)}
    frozen = jax.eval_shape(model.first.objective.init, KEY)["autoencoder"]
    condition = (n, info.caption_length) if which == "diffusion" else (n,)
    return (
        objective,
        config,
        {"autoencoder": frozen, "scale_factor": struct((), np.float32)},
        {"encoded": struct((n, h, w, 2 * c), np.float32), "condition": struct(condition, np.int32)},
    )


BLOCKS = (ResBlock, SpatialSelfAttention, TransformerBlock, Layer)


@pytest.mark.parametrize("which", STAGES)
def test_bfloat16_and_remat(which):
    """The step computes in bfloat16; all it hands on, losses too, is float32. And every block is
    computed again in the backward pass."""
    experiment = dataclasses.replace(smallest(), precision="bfloat16")
    objective, config, constants, batch = trained_as(experiment, which)
    state = jax.eval_shape(partial(init_state, objective, config), KEY, constants)
    step = partial(train_step, objective=objective, config=config, key=KEY)
    program, (after, metrics) = jax.make_jaxpr(step, return_shape=True)(state, batch)
    floats = [x for x in jax.tree.leaves((after, metrics)) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    assert after.ema is not None and jax.tree.structure(after) == jax.tree.structure(state)
    program = str(program)
    assert "bf16" in program

    is_first = which == "autoencoder"
    params = state.params
    model = objective.autoencoder(params[which]) if is_first else objective.model(params)
    blocks = sum(isinstance(module, BLOCKS) for _, module in nnx.iter_graph(model))
    assert program.count("prevent_cse=True") == blocks > 3


def test_published_states_are_split_over_fsdp_to_the_last_percent():
    """Weights, average and both moments: what is not split are biases, norms and the like.

    So a device has at most 1/8 of the state and a percent of it, and what it has is exactly what
    follows from the sizes: whole where an array is small or nothing divides, else an eighth.
    """
    info = DataInfo(3, "class", tuple(map(str, range(1000))))
    objective, config, constants, _ = trained_as(EXPERIMENTS["cin256-v2"](), "diffusion", info)
    state = jax.eval_shape(partial(init_state, objective, config), KEY, constants)
    shardings = tree_sharding(state, make_mesh(1, 8, 1))
    for part in ("params", "ema", "opt_state"):
        whole, held, expected = 0, 0, 0
        for leaf, sharding in zip(
            jax.tree.leaves(getattr(state, part)),
            jax.tree.leaves(getattr(shardings, part)),
            strict=True,
        ):
            split = leaf.size >= SMALLEST_SHARDED and any(n % 8 == 0 for n in leaf.shape)
            whole += leaf.size
            expected += leaf.size // 8 if split else leaf.size
            held += math.prod(sharding.shard_shape(leaf.shape))
        assert held == expected
        assert whole / 8 <= held < whole * (1 / 8 + 0.01)


TENSOR = {
    "time_in": "columns",
    "time_out": "rows",
    "attention/q": "columns",
    "attention/k": "columns",
    "attention/v": "columns",
    "attention/out": "rows",
    "feed_forward/proj_in": "columns",
    "feed_forward/proj_out": "rows",
    "mlp_in": "columns",
    "mlp_out": "rows",
}


def test_tensor_splits_the_projections_of_attention_and_feed_forward_and_nothing_else():
    pytest.importorskip("tokenizers")  # of BERT, which this experiment has
    experiment = EXPERIMENTS["text2img256"]()
    info = placeholder_data(experiment)[0]
    params = abstract_params(LatentDiffusion(experiment, info).objective.build)
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree_sharding(params, make_mesh(1, 1, 8)))
    found = {}
    for path, sharding in leaves:
        *_, module, name, leaf = ["", *(str(key.key) for key in path)]
        axes = [i for i, axis in enumerate(sharding.spec) if axis == "tensor"]
        if axes:
            assert leaf == "kernel" and len(sharding.spec) == 2
            short = name if name.startswith(("time", "mlp")) else f"{module}/{name}"
            short = short.replace("self_", "").replace("cross_", "")
            found.setdefault(short, set()).add("rows" if axes == [0] else "columns")
    assert found == {name: {how} for name, how in TENSOR.items()}
