"""Where does a training step spend its time? A trace of it, summed by kind of operation.

    python benchmarks/profile_step.py --model autoencoder --size laptop

compiles the step as train_step.py does, for one device, records a few with `jax.profiler`, and adds
up what the trace says of each operation of the program. Operations that run at once are counted
each in full. `--keep DIR` keeps the trace, to be opened in ui.perfetto.dev.
"""

import gzip
import json
import math
import pathlib
import re
import tempfile
from collections import defaultdict

import jax
import jax.numpy as jnp
import side_by_side as sbs
import train_step

from ldm_jax.training.sharding import make_mesh

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = ((?:\([^)]*\)|\S+) ([\w-]+)\(.*)$")
CONVOLUTIONS = tuple(
    f"convolution, {which}"
    for which in ("forward", "gradient of the input", "gradient of the kernel")
)
COPIES = {"copy", "transpose", "concatenate", "pad", "slice", "broadcast", "reshape", "reverse"}
SHAPE = re.compile(r"\w+\[([\d,]*)\]")


def instructions(text: str) -> tuple[dict, dict]:
    """Of a program: name -> (operation, definition), computation -> names inside."""
    found, inside, computation = {}, defaultdict(list), ""
    for line in text.splitlines():
        if match := INSTRUCTION.match(line):
            name, definition, operation = match.groups()
            found[name] = operation, definition
            inside[computation].append(name)
        elif line.endswith("{") and line.strip():
            computation = line.split()[line.startswith("ENTRY")].lstrip("%")
    return found, inside


def kind(name: str, found: dict, inside: dict) -> str:
    """What sort of work an instruction is; a fusion is what weighs most in it."""
    operation, definition = found[name]
    if operation in ("fusion", "call"):
        called = re.search(r"(?:calls|to_apply)=%?([\w.-]+)", definition)
        kinds = {kind(n, found, inside) for n in inside[called.group(1)]} if called else set()
        for part in (*CONVOLUTIONS, "matrix product", "reduction", "elementwise"):
            if part in kinds:
                return part
        return "copy, transpose"
    if operation == "convolution":
        return CONVOLUTIONS[2 if _window_is_larger(definition) else "transpose(" in definition]
    if operation == "dot":
        return "matrix product"
    if operation in ("reduce", "reduce-window"):
        return "reduction"
    if operation in ("bitcast", "parameter", "constant", "tuple", "get-tuple-element"):
        return "nothing"
    if operation in COPIES:
        return "copy, transpose"
    return operation if operation in ("custom-call", "while", "conditional") else "elementwise"


def _window_is_larger(definition: str) -> bool:
    """Whether a convolution's window is larger than its result, as in the gradient of a kernel."""
    window = re.search(r"window={size=([\dx]+)", definition)
    labels = re.search(r"dim_labels=\w+->(\w+)", definition).group(1)
    shape = SHAPE.match(definition).group(1).split(",")
    result = [int(n) for n, label in zip(shape, labels, strict=True) if label.isdecimal()]
    size = [int(n) for n in window.group(1).split("x")] if window else [1]
    return math.prod(size) > math.prod(result)


def seconds_by_name(trace: pathlib.Path, names: set[str]) -> dict[str, float]:
    """name -> seconds, summed over all events of that name."""
    (file,) = trace.rglob("perfetto_trace.json.gz")
    with gzip.open(file, "rt", encoding="utf-8") as text:
        events = json.load(text)["traceEvents"]
    total = defaultdict(float)
    for event in events:
        name = event.get("args", {}).get("hlo_op", event.get("name", "")).removeprefix("end: ")
        if event.get("ph") == "X" and name in names:
            total[name] += event["dur"] / 1e6
    return total


def main():
    parser = sbs.options_of(__doc__.splitlines()[0])
    parser.add_argument("--model", choices=train_step.MODELS, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--keep", help="directory for the trace")
    parser.add_argument("--longest", type=int, default=12, help="operations to list one by one")
    options = parser.parse_args()
    task = train_step.task_of(options)
    dtype = jnp.dtype(options.precision)
    params = sbs.random_weights(task.objective(dtype).init)
    mesh = make_mesh(devices=jax.devices()[:1])
    step, run = train_step.compiled(task, params, dtype, mesh)
    run(2)
    found, inside = instructions(step.compiled.as_text())
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(options.keep or scratch)
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            run(options.steps)
        seconds = seconds_by_name(folder, set(found))
    whole = sbs.seconds_of(lambda: run(options.steps)) / options.steps

    by_kind, count = defaultdict(float), defaultdict(int)
    for name, s in seconds.items():
        by_kind[kind(name, found, inside)] += s / options.steps
        count[kind(name, found, inside)] += 1
    total = sum(by_kind.values())
    print(
        f"{options.model}, {options.size}, batch {options.batch}, one device, {1e3 * whole:.1f} ms "
        f"a step without the profiler; {sbs.machine_line(sbs.machine())}\n\n"
        "| kind | operations | ms a step | share |\n|---|---|---|---|"
    )
    for name, s in sorted(by_kind.items(), key=lambda item: -item[1]):
        print(f"| {name} | {count[name]} | {1e3 * s:.2f} | {100 * s / total:.1f} % |")
    print("\nthe longest:")
    for name in sorted(seconds, key=seconds.get, reverse=True)[: options.longest]:
        operation, definition = found[name]
        where = re.search(r'op_name="([^"]*)"', definition)
        print(
            f"{1e3 * seconds[name] / options.steps:8.2f} ms  {kind(name, found, inside)}  {name}  "
            f"{SHAPE.search(definition).group(0)} {where.group(1) if where else operation}"
        )


if __name__ == "__main__":
    main()
