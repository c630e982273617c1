"""What a compiled program costs: memory, FLOPs, cycles, and what its devices send one another."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# `%name = TYPE KIND(...` or `KIND-start(...`, whose end `KIND-done(...` is not another one.
_COLLECTIVE = re.compile(rf' = ([^=%"]+?) ({"|".join(KINDS)})(-start)?\(')
_COMMENT = re.compile(r"/\*.*?\*/")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
# The three ways to write the groups of devices: one by one, as an array, by axes of a mesh.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_ARRAYED = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_BY_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'(?:=(\d+)|:\(\d+\)(\d+))?")


@dataclass(frozen=True)
class Cost:
    """Of one run of a program, on each of its devices. XLA counts the body of a loop once."""

    flops: float
    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int
    """Arguments + results + temporaries - what they share."""


@dataclass(frozen=True)
class Collectives:
    """Of one kind, in one run of a program, on each device."""

    count: int
    bytes: int
    """Sizes of their results."""
    sent_bytes: int
    """What the device sends when they go round a ring, the least there is for large arrays."""


def cost_of(compiled: jax.stages.Compiled) -> Cost:
    """What XLA says of a program that it has compiled."""
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Cost(
        flops=analysis.get("flops", 0.0),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
    )


def estimated_cycles(hlo: str) -> int:
    """Cycles of a TPU chip, as the compiler that chose its instructions estimates each of them.

    They are summed as if one followed the other, without what is copied between memories at the
    same time, and the body of a loop counts once. XLA's `optimal_seconds` will not do: it takes a
    second off for each custom call.

    Args:
      hlo: an optimised HLO module; one for CPUs has no estimates, which makes 0.
    """
    return sum(int(cycles) for cycles in _CYCLES.findall(hlo))


def collectives(hlo: str, devices: int) -> dict[str, Collectives]:
    """The collectives of an optimised HLO module, by kind; those that it has none of are left out.

    A TPU spreads one collective over several fusions, each of which names it: what has the same
    channel is one. Its reduce-scatter is a fusion of an all-reduce and the slice that is kept.
    """
    found = {kind: [] for kind in KINDS}
    seen, scattered = set(), False
    for line in hlo.splitlines():
        if line.endswith("{"):  # the first line of a computation: `%name (arguments) -> result {`
            scattered = line.startswith("%all-reduce-scatter")
        if (match := _COLLECTIVE.search(_COMMENT.sub("", line))) is None:
            continue
        result, kind, started = match.groups()
        if (channel := _CHANNEL.search(line)) is not None:
            if channel[1] in seen:
                continue
            seen.add(channel[1])
        if started and kind != "all-reduce":  # (operand, result, ...)
            result = _elements(result)[1]
        size, n = sum(map(_bytes, _ARRAY.finditer(result))), _group_size(line) or devices
        if scattered and kind == "all-reduce":
            kind, size = "reduce-scatter", size // n
        found[kind].append((size, _sent(kind, size, n)))
    return {
        kind: Collectives(len(sizes), sum(s for s, _ in sizes), round(sum(s for _, s in sizes)))
        for kind, sizes in found.items()
        if sizes
    }


def _sent(kind: str, size: int, n: int) -> float:
    """Bytes that each of n devices on a ring sends, for a result of `size` bytes."""
    share = (n - 1) / n
    of = {"all-reduce": 2 * share, "reduce-scatter": n - 1, "collective-permute": 1.0}
    return of.get(kind, share) * size


def _group_size(line: str) -> int:
    """How many devices take part in a collective; 0 where the line does not say so: all."""
    if match := _LISTED.search(line):
        return match[1].count(",") + 1
    if match := _ARRAYED.search(line):
        return int(match[1])
    if match := _BY_AXES.search(line):
        sizes = {name: int(size) for name, size, _ in _AXIS.findall(match[1])}
        return math.prod(int(part or sizes[name]) for name, _, part in _AXIS.findall(match[2]))
    return 0


def _elements(tuple_type: str) -> list[str]:
    """(a, (b, c), d) -> a; (b, c); d"""
    parts, depth = [""], 0
    for letter in tuple_type.strip()[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _bytes(array: re.Match) -> int:
    bits = 8 if array[1] == "pred" else int(array[2])
    return math.prod(int(n) for n in array[3].split(",") if n) * bits // 8


def arrays_of(program: Any) -> Iterator[jax.core.ShapedArray]:
    """Shapes and types of all arrays that a jaxpr computes, those in its loops and calls too."""
    for equation in getattr(program, "jaxpr", program).eqns:
        yield from (variable.aval for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from arrays_of(inner)


def largest_array(program: Any) -> jax.core.ShapedArray:
    """The array of a jaxpr that takes the most memory, before XLA fuses operations."""
    return max(arrays_of(program), key=lambda a: a.size * a.dtype.itemsize)
