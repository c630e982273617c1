"""What the paper's models need on slices of TPU v5e that are not there: a table.

    python benchmarks/pods.py FOLDER

Compiles each training step once, in a process of its own, and keeps its numbers in
FOLDER/NAME-CHIPS.json; needs the libtpu of JAX's extra [tpu], but no TPU. A step that does not fit
says so, and has no row.
"""

import json
import subprocess
import sys
from pathlib import Path

# The nearest batch to the paper's, as far as it divides and fits. Where the state is large, fsdp.
RUNS = {
    "cin256-v2-16": "cin256-v2 --topology v5e:4x4 --diffusion.batch-size 128 --mesh.fsdp 4",
    "cin256-v2-256": "cin256-v2 --topology v5e:16x16 --diffusion.batch-size 1280 --mesh.fsdp 4",
    "cin256-f8-16": "cin256-f8 --topology v5e:4x4 --diffusion.batch-size 64 --mesh.fsdp 4",
    "cin256-f8-256": "cin256-f8 --topology v5e:16x16 --diffusion.batch-size 1024 --mesh.fsdp 4",
    "txt2img-1p4B-16": "txt2img-1p4B --topology v5e:4x4 --diffusion.batch-size 128 --mesh.fsdp 16",
    "txt2img-1p4B-256": (
        "txt2img-1p4B --topology v5e:16x16 --diffusion.batch-size 768 --mesh.fsdp 16"
    ),
    "kl-f8-16": "kl-f8 --topology v5e:4x4 --autoencoder.batch-size 32",
    "kl-f8-256": "kl-f8 --topology v5e:16x16 --autoencoder.batch-size 512",
}
HEADS = (
    "model, stage",
    "chips",
    "batch",
    "mesh",
    "parameters",
    "arguments",
    "temporaries",
    "peak of 16 GiB",
    "FLOPs a chip",
    "a step",
    "MFU",
    "examples a second",
    "a chip sends",
)


def row(numbers: dict) -> tuple:
    """The cells of a table's row."""
    cost, gib = numbers["cost"], 2**30
    sent = [
        f"{kind} {some['count']}x, {some['sent_bytes'] / 1e9:.2f} GB"
        for kind, some in numbers["collectives"].items()
    ]
    return (
        f"{numbers['experiment']}, {numbers['stage']}",
        numbers["devices"],
        numbers["batch_size"],
        " x ".join(f"{axis} {n}" for axis, n in numbers["mesh"].items() if n > 1),
        f"{numbers['parameters'] / 1e6:,.0f}M",
        f"{cost['argument_bytes'] / gib:.2f} GiB",
        f"{cost['temporary_bytes'] / gib:.2f} GiB",
        f"{cost['peak_bytes'] / gib:.2f} GiB",
        f"{cost['flops']:.2e}",
        f"{1e3 * numbers['step_s']:.0f} ms",
        f"{numbers['mfu']:.0%}",
        f"{numbers['examples_per_s']:,.0f}",
        "; ".join(sent),
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, words in RUNS.items():
        out = folder / f"{name}.json"
        if not out.exists():
            estimate = [sys.executable, "-m", "ldm_jax", "estimate"]
            options = ["--precision", "bfloat16", "--out", str(out)]
            subprocess.run([*estimate, *words.split(), *options], check=False)
        if out.exists():
            rows.append(row(json.loads(out.read_text())))
    for cells in (HEADS, ["---"] * len(HEADS), *rows):
        print("| " + " | ".join(map(str, cells)) + " |")
