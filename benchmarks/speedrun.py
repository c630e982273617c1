"""What trains better in the same time? Variants of an experiment, each for equal seconds, judged.

    python benchmarks/speedrun.py runs/speedrun --seconds 600 --seeds 3 --variants \\
        "today:" "muon: --diffusion.optimiser.kind muon" "early: --split 0.5"

A variant is a name and words for train.py, behind those of the experiment; `--split` is the share
of the seconds that its first stage gets. With `--first-stage RUN` all variants borrow that one, and
the second stage gets all seconds.

The clock runs while steps are compiled and made, in both stages. It stands still while scenes are
rendered, latents are cached, and checkpoints and previews are written; `wall seconds` has it all.
A probe of each variant measures how long its steps take, so that its cosine ends with the seconds:
start it on a quiet machine. All variants are trained with one seed before the next seed begins.

Each run is judged by `evaluate`: KID of samples for held-out conditions, and the share of samples
in which all that a caption says is right. With `--side 64`, smaller samples are enlarged and
compared with renders of that side, so that models of 32 and of 64 pixels are comparable.

FOLDER/speedrun.json and FOLDER/speedrun.md are written anew after every run. What was stopped or
killed goes on when the same command is given again; a run that fails is noted and left.
`--target KID` looks for the fastest variant whose mean over the seeds is that good, and keeps it in
benchmarks/speedrun.json if it is faster than the one that is there.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from resumable import circumstances, settled, start

from ldm_jax.commands import cli
from ldm_jax.commands.exit_code import ExitCode
from ldm_jax.commands.train.judge import kernel_distances
from ldm_jax.commands.train.run import parse_command
from ldm_jax.data.degradations import upscale
from ldm_jax.data.scenes import ScenesSource
from ldm_jax.errors import UserError
from ldm_jax.model.check import check
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.sharding import make_mesh

RECORDS = Path(__file__).with_name("speedrun.json")
STAGES = ("autoencoder", "diffusion")
PROBED = 60  # steps of each stage in a probe
FEATURES = "scene-reader"
QUIET = 10**6  # steps between previews: none but the last
# Of every run, before a variant's own words: the rate falls to 0 when the seconds end.
WORDS = [
    *(f"--{stage}.optimiser.schedule=cosine" for stage in STAGES),
    *(f"--{stage}.optimiser.final-rate=0" for stage in STAGES),
    *(f"--{stage}.progress.preview-every={QUIET}" for stage in STAGES),
    "--evaluation.judged-images=0",
]


@dataclass(frozen=True)
class Variant:
    """A way of training."""

    name: str
    words: list[str]
    """For train.py, without steps, seed and run directory."""
    split: float
    """Share of the seconds for the first stage; 0 where it is borrowed."""


def variant(text: str, options: argparse.Namespace) -> Variant:
    """`name: words`. UserError for what is none, or what train.py would refuse."""
    name, colon, rest = text.partition(":")
    if not colon or not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"--variants {text!r}: a variant is 'name: words for train.py'")
    own = argparse.ArgumentParser(allow_abbrev=False)
    own.add_argument("--split", type=float, default=options.split)
    chosen, words = own.parse_known_args(rest.split())
    if not 0 < chosen.split < 1:
        raise UserError(f"--split is {chosen.split:g}; it must be more than 0 and less than 1")
    words = [options.experiment, *WORDS, *words]
    if options.first_stage:
        words += ["--autoencoder.from-run", options.first_stage]
    experiment = parse_command(words)[1].experiment
    check(experiment, make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    if options.side % experiment.data.size:
        raise UserError(
            f"--side {options.side} is no multiple of the {experiment.data.size} pixels of {name}"
        )
    found = Variant(name, words, 0.0 if options.first_stage else chosen.split)
    begun = options.folder / name / "plan.json"
    if begun.exists() and not is_of(json.loads(begun.read_text()), found, options.seconds):
        raise UserError(f"{begun.parent} has other words or seconds: choose another FOLDER")
    return found


def is_of(planned: dict[str, Any], one: Variant, seconds: float) -> bool:
    """Whether a plan is that of a variant and so many seconds."""
    asked = dataclasses.asdict(one) | {"seconds": seconds}
    return all(planned[key] == value for key, value in asked.items())


def plan(seconds: float, split: float, probe: dict[str, Any], batch: dict[str, int]) -> list[str]:
    """The steps of each stage that fit into the seconds, as words for train.py.

    Args:
      split: share of the first stage. probe: the summary of a short run. batch: by stage.
    """
    stages = STAGES if split else STAGES[1:]
    left = seconds - sum(probe[stage]["compile_seconds"] for stage in stages)
    if left <= 0:
        raise UserError(f"--seconds {seconds:g} are over before the training steps are compiled")
    words = []
    for stage in stages:
        share = split if stage == "autoencoder" else 1 - split
        steps = share * left * probe[stage]["images_per_s"] / batch[stage]
        words.append(f"--{stage}.steps={max(1, round(steps))}")
    return words


def clock(summary: dict[str, Any]) -> float:
    """Seconds in which steps were compiled and made."""
    trained = [summary[stage] for stage in STAGES if "seconds" in summary.get(stage, {})]
    return sum(stage["seconds"] + stage["compile_seconds"] for stage in trained)


def run_once(one: Variant, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains and judges a variant with a seed, from wherever that stands: a row of the table."""
    folder = options.folder / one.name
    folder.mkdir(parents=True, exist_ok=True)

    def probed() -> dict[str, Any]:
        run = folder / "probe"
        steps = [f"--{stage}.steps={PROBED}" for stage in STAGES]
        often = [f"--{stage}.progress.log-every=10" for stage in STAGES]
        start(folder / "probe.log", "train", *one.words, *steps, *often, "--run-dir", run)
        config = RunDir(run).load()[1]
        batch = {stage: getattr(config, stage).batch_size for stage in STAGES}
        steps = plan(options.seconds, one.split, RunDir(run).summary(), batch)
        return dataclasses.asdict(one) | {"seconds": options.seconds, "steps": steps}

    planned = settled(folder / "plan.json", probed)
    run, log = folder / f"seed-{seed}", folder / f"seed-{seed}.log"
    summary = RunDir(run).summary() if run.exists() else {}
    if not summary.get("diffusion", {}).get("finished"):
        words = [*one.words, *planned["steps"], "--seed", seed, "--run-dir", run]
        start(log, "train", *words)
        summary = RunDir(run).summary()
    report = run / "evaluation" / "evaluation.json"
    if not report.exists():
        count = ("--num-samples", options.num_samples)
        start(log, "evaluate", run, *count, "--features", FEATURES)
    judged = json.loads(report.read_text())
    kid = judged["features"][FEATURES]["rows"]["samples"]["kid"]
    if options.side:
        kid = settled(run / f"kid-{options.side}.json", lambda: kid_at(options.side, run, judged))
    return {
        "variant": one.name,
        "seed": seed,
        "steps": {stage: summary[stage].get("steps") for stage in STAGES},
        "seconds": round(clock(summary), 1),
        "wall_seconds": summary["wall_seconds"],
        "kid": {"mean": kid["mean"], "standard_error": kid["standard_error"]},
        "whole": judged["scenes"]["words"]["samples"].get("whole"),
    }


def kid_at(side: int, run: Path, judged: dict[str, Any]) -> dict[str, float]:
    """KID of the samples, enlarged to `side`, to as many held-out renders of that side."""
    config = RunDir(run).load()[1]
    samples = np.load(judged["samples"]["file"])["arr_0"]
    n = len(samples)
    data = dataclasses.replace(config.data, size=side, validation_count=n)
    renders = ScenesSource(data, "validation", config.seed).read(range(n))["image"]
    if (factor := side // samples.shape[1]) > 1:
        samples = upscale(samples, factor)
    return kernel_distances({"samples": samples}, renders)["samples"]


def mean_of(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    """(mean over seeds, its standard error; 0 of one seed) of `kid` or another number."""
    values = [row["kid"]["mean"] if name == "kid" else row[name] for row in rows]
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(np.mean(values)), float(error)


def by_variant(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs of each variant that did not fail, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if "failed" not in row:
            found.setdefault(row["variant"], []).append(row)
    return found


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of markdown, a variant each, the best KID first; ± is over seeds, or KID's own."""
    yield "| variant | seeds | steps | seconds | wall seconds | KID | whole caption |"
    yield "|---|---|---|---|---|---|---|"
    found = by_variant(rows)
    for name in sorted(found, key=lambda name: mean_of(found[name], "kid")[0]):
        runs = found[name]
        steps = " + ".join(str(n) for n in runs[0]["steps"].values() if n)
        kid, error = mean_of(runs, "kid")
        error = error if len(runs) > 1 else runs[0]["kid"]["standard_error"]
        cells = [name, str(len(runs)), steps]
        cells += [f"{mean_of(runs, key)[0]:.0f}" for key in ("seconds", "wall_seconds")]
        cells.append(f"{kid:.4f} ± {error:.4f}")
        if runs[0]["whole"] is None:
            cells.append("")
        else:
            whole, error = mean_of(runs, "whole")
            cells.append(f"{whole:.1%}" + (f" ± {error:.1%}" if len(runs) > 1 else ""))
        yield f"| {' | '.join(cells)} |"
    for row in rows:
        if "failed" in row:
            yield f"\n{row['variant']}, seed {row['seed']}, failed: {row['failed']}"


def fastest(rows: Sequence[dict[str, Any]], target: float, seeds: int) -> dict[str, Any] | None:
    """The variant that reached a mean KID of `target` with all seeds in the fewest seconds."""
    reached = [
        {"variant": name, "seconds": mean_of(runs, "seconds")[0], "kid": mean_of(runs, "kid")}
        for name, runs in by_variant(rows).items()
        if len(runs) == seeds and mean_of(runs, "kid")[0] <= target
    ]
    return min(reached, key=lambda one: one["seconds"], default=None)


def with_record(records: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The records with a new one, unless the one of the same task is as fast."""
    task = ("target", "experiment", "num_samples", "side", "machine")

    def same(record: dict[str, Any]) -> bool:
        return all(record[key] == new[key] for key in task)

    if any(same(record) and record["seconds"] <= new["seconds"] for record in records):
        return records
    return [*(record for record in records if not same(record)), new]


def main() -> None:
    """Trains, judges, writes; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variants", nargs="+", required=True, metavar="'NAME: WORDS'")
    parser.add_argument("--seconds", type=float, default=600.0, help="of each run (600)")
    parser.add_argument("--experiment", default=cli.DEFAULT_EXPERIMENT)
    parser.add_argument("--first-stage", default="", help="a run whose first stage all borrow")
    parser.add_argument("--split", type=float, default=0.3, help="share of the first stage (0.3)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each variant (1)")
    parser.add_argument("--num-samples", type=int, default=1000, help="samples judged (1000)")
    parser.add_argument("--side", type=int, default=0, help="pixels at which KID is measured")
    parser.add_argument("--target", type=float, help="KID of the record, both stages on the clock")
    options = parser.parse_args()
    if options.target is not None and options.first_stage:
        raise UserError("--target is for both stages: leave out --first-stage")
    options.folder = options.folder.resolve()
    variants = [variant(text, options) for text in options.variants]
    if len({one.name for one in variants}) < len(variants):
        raise UserError("two variants have the same name")
    options.folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "experiment": options.experiment,
        "num_samples": options.num_samples,
        "side": options.side,
    } | circumstances()

    rows = []
    for seed in range(options.seeds):
        for one in variants:
            try:
                rows.append(run_once(one, seed, options))
            except UserError as error:
                rows.append({"variant": one.name, "seed": seed, "failed": str(error)})
            result = facts | {"seconds": options.seconds, "first_stage": options.first_stage}
            result |= {"words": {one.name: one.words for one in variants}, "runs": rows}
            (options.folder / "speedrun.json").write_text(json.dumps(result, indent=2) + "\n")
            (options.folder / "speedrun.md").write_text("\n".join(table(rows)) + "\n")
    print("\n".join(table(rows)))
    if options.target is None:
        return
    if (best := fastest(rows, options.target, options.seeds)) is None:
        print(f"no variant reached a KID of {options.target:g}")
        return
    words = next(one.words for one in variants if one.name == best["variant"])
    new = facts | best | {"target": options.target, "seeds": options.seeds, "words": words}
    before = json.loads(RECORDS.read_text()) if RECORDS.exists() else []
    records = with_record(before, new)
    RECORDS.write_text(json.dumps(records, indent=2) + "\n")
    said = "the record" if records != before else "slower than the record"
    print(f"KID {options.target:g} after {best['seconds']:.0f} s: {best['variant']}, {said}")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # an accelerator is left to the trainings
    with ExitCode() as status:
        main()
    sys.exit(status.code)
