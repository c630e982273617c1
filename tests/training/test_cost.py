"""What a compiled program costs, read from what XLA says of it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ldm_jax.training.cost import collectives, cost_of, estimated_cycles
from ldm_jax.training.sharding import make_mesh

# Eight devices. One collective of each kind and form, and what only looks like one.
HLO = """
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%carried (p: f32[6]) -> f32[24] {
  ROOT %all-gather.1 = f32[24]{0:T(256)S(1)} all-gather(%p), channel_id=3, \
replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'b'}, dimensions={0}
}

%carried.clone (p: f32[6]) -> f32[24] {
  ROOT %all-gather.2 = f32[24]{0:T(256)} all-gather(%p), channel_id=3, \
replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'b'}, dimensions={0}
}

%all-reduce-scatter.7 (input: bf16[16,4]) -> bf16[4,4] {
  %all-reduce.7 = bf16[16,4]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=7, \
replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %slice = bf16[4,4]{1,0} dynamic-slice(%all-reduce.7, %i, %zero), dynamic_slice_sizes={4,4}
}

ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %all-reduce.1 = f32[8,4]{1,0:T(8,128)} all-reduce(%p), channel_id=1, \
replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %all-reduce-start.2 = (bf16[16]{0}, /*index=1*/f32[4]{0}) all-reduce-start(%a, %b), \
channel_id=2, replica_groups=[2,4]<=[8], to_apply=%add
  %all-reduce-done.2 = (bf16[16]{0}, f32[4]{0}) all-reduce-done(%all-reduce-start.2)
  %all-gather-start.3 = (f32[2,3]{1,0}, f32[8,3]{1,0}) all-gather-start(%c), channel_id=4, \
replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %all-gather-done.3 = f32[8,3]{1,0} all-gather-done(%all-gather-start.3)
  %reduce-scatter.4 = f32[4]{0} reduce-scatter(%d), channel_id=5, replica_groups={}
  %all-to-all.5 = (pred[8]{0}, pred[8]{0}) all-to-all(%e, %f), replica_groups={{0,1},{2,3}}
  %permute.6 = (bf16[10]{0}, bf16[10]{0}, u32[], u32[]) collective-permute-start(%g), \
channel_id=6, source_target_pairs={{0,1},{1,0}}
  %fusion = f32[8,4]{1,0} fusion(%p), kind=kLoop, metadata={op_name="jit(step) = all-reduce("}
}
"""


def test_collectives_are_counted_with_their_bytes():
    found = {kind: (c.count, c.bytes, c.sent_bytes) for kind, c in collectives(HLO, 8).items()}
    assert found == {
        # results of 128 and 48 bytes, twice three quarters of each sent among four
        "all-reduce": (2, 128 + 48, 192 + 72),
        # one of 96 bytes in two fusions, and another
        "all-gather": (2, 96 + 96, 72 + 72),
        # eight devices keep 16 bytes each of 128, and four 32 each of 128
        "reduce-scatter": (2, 16 + 32, 112 + 96),
        "all-to-all": (1, 16, 8),
        "collective-permute": (1, 20, 20),
    }


def test_a_program_without_any_has_none():
    assert collectives("ENTRY %main { ROOT %x = f32[2] add(%a, %b) }", 8) == {}


@pytest.mark.parametrize(("fsdp", "sent"), [(4, 2 * 3 / 4), (8, 2 * 7 / 8)])
def test_those_of_a_real_program_are_found(fsdp, sent):
    """The sum over rows that lie on several devices."""
    mesh = make_mesh(-1, fsdp)
    rows = jax.ShapeDtypeStruct((8, 1000), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))
    total = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, P()))
    compiled = total.lower(rows).compile()
    found = collectives(compiled.as_text(), 8)["all-reduce"]
    assert (found.count, found.bytes, found.sent_bytes) == (1, 4000, 4000 * sent)
    cost = cost_of(compiled)
    assert cost.argument_bytes == 32_000 // fsdp and cost.peak_bytes >= cost.argument_bytes + 4000
    assert estimated_cycles(compiled.as_text()) == 0  # of a CPU


def test_cycles_of_instructions_add_up():
    line = '%a = f32[2] fusion(%b), backend_config={"window_config":{"estimated_cycles":"1825"}}'
    assert estimated_cycles(f"ENTRY %main {{ {line}\n {line.replace('1825', '75')} }}") == 1900
