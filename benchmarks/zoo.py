"""A zoo of small autoencoders: what f, the bottleneck and the loss do, on the same scenes.

    python benchmarks/zoo.py runs/zoo --perceptual-file squeezenet11_lpips.npz
    python benchmarks/zoo.py runs/zoo --perceptual-file squeezenet11_lpips.npz --publish

trains the fifteen of `zoo_members.py`, judges each on 512 held-out scenes, and records what it
makes of eight of them. `--only NAME ...` takes some; options that are not known here are
train.py's, for all alike. What was stopped or killed goes on when the same command is given again;
an autoencoder that fails is named, and the others are trained.

The scenes have 32x32 pixels: networks of this size are trained four times as fast as at 64x64, so
two cores make them good enough in two to three minutes each: 22,400 images, with compiling and
judging about 40 minutes of two quiet cores in all. The same for all: data, seed, batch, steps,
learning rate. 256 latent values for each f in one comparison, 4 channels for each f in the other.

FOLDER gets zoo.json and zoo.npz (numbers and images, as `ldm_jax.shipped.recorded` reads them),
zoo.md (the table), zoo.png (the figure), and packed/, the weights of some. `--publish` puts all
this into the package and into docs/zoo.md, once it is complete.
"""

import argparse
import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from resumable import REPOSITORY, circumstances, settled, start
from zoo_judge import SHOWN, Arrays, Scenes, as_a_set, held_out, judge, logits
from zoo_members import GROUPS, MEMBERS, STEPS, title, words
from zoo_report import drawn, table, with_results

from ldm_jax import LatentDiffusion, plots
from ldm_jax.commands import cli
from ldm_jax.commands.exit_code import ExitCode
from ldm_jax.commands.pack import PackCommand, pack
from ldm_jax.commands.train.run import parse_command
from ldm_jax.errors import UserError
from ldm_jax.model.config_json import to_json
from ldm_jax.model.load import load_run, stage_weights
from ldm_jax.model.run_dir import RunDir
from ldm_jax.model.weights import Weights
from ldm_jax.paths import write_whole
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.shipped import FOLDER as SHIPPED
from ldm_jax.shipped.recorded import RecordedZoo, recorded_zoo

PAGE = REPOSITORY / "docs" / "zoo.md"
RECORDED = ("zoo.json", "zoo.npz")


def record(
    name: str,
    options: argparse.Namespace,
    scenes: Scenes,
    lpips: dict,
    start: Callable[..., None] = start,
) -> None:
    """Trains, judges and packs a member, from wherever that stands.

    Args:
      lpips: weights of LPIPS on SqueezeNet. start: (log, words of a command) -> runs it.

    Raises:
      UserError: the training fails, or the folder was begun otherwise.
    """
    one, folder = MEMBERS[name], options.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"words": words(name, options.steps, options.perceptual_file, options.more)}
    asked |= {"steps": options.steps, "judged": len(scenes.images)}
    if settled(folder / "plan.json", lambda: asked) != asked:
        raise UserError(f"{folder} was begun with other options: choose another FOLDER")
    run = RunDir(folder / "run")
    stops = [step for step in one.moments if 0 < step < options.steps] + [options.steps]
    for step in stops:
        if not _report(folder, step).exists():
            if to_be_trained(run, step):
                told = [*asked["words"], "--autoencoder.steps", step, "--run-dir", run.path]
                start(folder / "train.log", "train", *told)
            if weights := packed_name(name, step, options.steps):
                pack(PackCommand(str(run.path), str(options.folder / "packed" / weights)))
            _judge(folder, step, load_run(run), scenes, lpips)
    if 0 in one.moments and not _report(folder, 0).exists():
        model = load_run(run)
        _judge(folder, 0, model.with_weights(random_weights(model)), scenes, lpips)


def packed_name(name: str, step: int, steps: int) -> str:
    """Under which name the weights of a member at a step come with the package; '': they do not."""
    one = MEMBERS[name]
    if step == steps:
        return name if one.packed else ""
    return f"{name}-step-{step}" if step and step == one.packed_at else ""


def _report(folder: Path, step: int) -> Path:
    return folder / f"judged-{step:05d}.json"


def to_be_trained(run: RunDir, step: int) -> bool:
    """Whether a run has yet to reach a step. UserError where it has passed it."""
    begun = run.begun().get("autoencoder", 0) if run.path.exists() else 0
    if begun > step:
        raise UserError(f"{run.path} is past step {step}, which was not recorded: remove it")
    return begun < step or not run.summary().get("autoencoder", {}).get("finished")


def random_weights(model: LatentDiffusion) -> Weights:
    """Weights as they are before the first step."""
    autoencoder = model.first.objective.init(jax.random.key(0))["autoencoder"]
    return Weights(None, {"autoencoder": autoencoder, "scale_factor": np.float32(1)})


def _judge(folder: Path, step: int, model: LatentDiffusion, scenes: Scenes, lpips: dict) -> None:
    """Writes judged-STEP.npz, and then .json: where that is, all is there."""
    numbers, arrays = judge(model, scenes, lpips)
    run, file = RunDir(folder / "run"), _report(folder, step)
    if step:
        kept = ("seconds", "compile_seconds", "images_per_s", "flops", "latent_bytes", "jpeg_psnr")
        summary = run.summary()["autoencoder"]
        numbers |= {key: summary[key] for key in kept if key in summary}
        trained = stage_weights(run, model.config, "autoencoder")
        if "discriminator" in trained:
            sets = scenes.images[:SHOWN], arrays["images"]
            real, fake = logits(model, trained["discriminator"], *sets)
            arrays |= {"logits_real": real, "logits_fake": fake}
    write_whole(file.with_suffix(".npz"), _npz(arrays))
    write_whole(file, json.dumps(numbers, indent=2) + "\n")


def _npz(arrays: Arrays) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def collect(options: argparse.Namespace, scenes: Scenes, facts: dict[str, Any]) -> RecordedZoo:
    """Writes zoo.json and zoo.npz of all members that are trained; returns what they hold."""
    shown, members = scenes.images[:SHOWN], {}
    arrays: Arrays = {"scenes": shown}

    def take(name: str, step: int, place: str) -> dict[str, Any]:
        file = _report(options.folder / name, step)
        with np.load(file.with_suffix(".npz")) as found:
            arrays.update({f"{place}/{key}": found[key] for key in found.files})
        return json.loads(file.read_text())

    for name, one in MEMBERS.items():
        stops = [step for step in one.moments if _report(options.folder / name, step).exists()]
        if _report(options.folder / name, options.steps).exists():
            numbers = take(name, options.steps, name)
            moments = {step: take(name, step, f"{name}/{step}") for step in stops}
            members[name] = numbers | {"f": one.f, "words": one.words, "moments": moments}
    groups = {
        group: {name: title(group, name) for name in names if name in members}
        for group, names in GROUPS.items()
    }
    recorded = facts | {
        "groups": {group: names for group, names in groups.items() if names},
        "captions": scenes.captions[:SHOWN],
        "members": members,
    }
    write_whole(options.folder / "zoo.npz", _npz(arrays))
    write_whole(options.folder / "zoo.json", json.dumps(recorded, indent=1) + "\n")
    return recorded_zoo(options.folder)


def publish(folder: Path, zoo: RecordedZoo, package: Path, page: Path) -> None:
    """Puts what is recorded into the package, and figure and table onto a page.

    Raises:
      UserError: a member is missing.
    """
    if missing := MEMBERS.keys() - zoo.members.keys():
        raise UserError(f"{folder} has no {', '.join(sorted(missing))} yet: train all to publish")
    package.mkdir(exist_ok=True)
    for file in RECORDED:
        shutil.copyfile(folder / file, package / file)
    for weights in (folder / "packed").iterdir():
        shutil.copytree(weights, package / weights.name, dirs_exist_ok=True)
    shutil.copyfile(folder / "zoo.png", page.with_suffix(".png"))
    write_whole(page, with_results(page.read_text(), zoo))


def main() -> None:
    """Trains, judges, writes; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--perceptual-file", type=Path, required=True, help="LPIPS on SqueezeNet")
    parser.add_argument("--only", nargs="+", choices=MEMBERS, default=list(MEMBERS))
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each ({STEPS})")
    parser.add_argument("--judged", type=int, default=512, help="held-out scenes (512)")
    parser.add_argument("--publish", action="store_true", help="put it into package and docs")
    options, options.more = parser.parse_known_args()
    options.folder, options.perceptual_file = (
        path.resolve() for path in (options.folder, options.perceptual_file)
    )
    lpips = load_lpips("squeezenet", options.perceptual_file)
    told = words("f4", options.steps, options.perceptual_file, options.more)
    experiment = parse_command(told)[1].experiment  # or these are no options
    data = dataclasses.replace(experiment.data, validation_count=2 * options.judged)
    scenes = held_out(data, experiment.seed)

    def first_facts() -> dict[str, Any]:
        stage = experiment.autoencoder
        same = {"data": to_json(experiment.data), "seed": experiment.seed}
        same |= {"batch_size": stage.batch_size, "steps": options.steps}
        renders = as_a_set(scenes.images, scenes)
        return {"same": same, "judged": options.judged, "true_renders": renders} | circumstances()

    options.folder.mkdir(parents=True, exist_ok=True)
    facts = settled(options.folder / "facts.json", first_facts)
    failed = []
    for name in options.only:
        try:
            record(name, options, scenes, lpips)
        except UserError as error:
            failed.append(f"{name}: {error}")
            continue
        zoo = collect(options, scenes, facts)
        write_whole(options.folder / "zoo.md", table(zoo))
        plots.save_png(options.folder / "zoo.png", drawn(zoo))
    if failed:
        raise UserError("; ".join(failed))
    print(table(zoo))
    if options.publish:
        publish(options.folder, zoo, SHIPPED / "zoo", PAGE)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # an accelerator is left to the trainings
    with ExitCode() as status:
        cli.start_jax()
        main()
    sys.exit(status.code)
