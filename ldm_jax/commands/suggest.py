"""From an option that a command does not have to those that were probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

MOST = 4  # options that a suggestion names

# What options are called in other programs: the end of the name that they have here.
_SYNONYMS = {
    "prompt": "caption captions text prompts p",
    "class-label": "class label classes class-name",
    "num-images": "num-samples n-samples n num number samples images",
    "guidance": "scale cfg cfg-scale guidance-scale unconditional-guidance-scale w",
    "sampler": "solver scheduler method",
    "eta": "ddim-eta",
    "image": "init-img init-image input input-image img",
    "mask": "mask-image",
    "out": "output outdir out-dir output-dir output-path o save",
    "height": "h",
    "width": "w",
    "reconstruct": "recon",
    "steps": "epochs epoch max-steps num-steps iterations iters train-steps max-train-steps "
    "num-train-steps ddim-steps num-inference-steps sampling-steps num-epochs s",
    "optimiser.learning-rate": "lr learning-rate base-learning-rate rate",
    "optimiser.weight-decay": "wd weight-decay",
    "optimiser.warmup-steps": "warmup warmup-steps lr-warmup-steps",
    "optimiser.schedule": "lr-schedule lr-scheduler",
    "batch-size": "bs batch batchsize train-batch-size",
    "accumulate": "grad-accum gradient-accumulation gradient-accumulation-steps "
    "accumulate-grad-batches grad-accumulation",
    "remat": "checkpointing gradient-checkpointing use-checkpoint",
    "ema-decay": "ema",
    "progress.save-every": "save-every checkpoint-every checkpointing-steps save-steps",
    "progress.log-every": "log-every log-interval",
    "progress.preview-every": "preview-every sample-every",
    "run-dir": "logdir log-dir name resume resume-from resume-from-checkpoint outdir output-dir "
    "out output run rundir workdir",
    "data.path": "data-dir data-path dataset dataroot train-data-dir path folder images data",
    "data.size": "resolution image-size size img-size",
    "data.crop": "random-crop center-crop centre-crop",
    "data.flip": "random-flip hflip",
    "loader.threads": "workers num-workers dataloader-num-workers threads",
    "mesh.data": "gpus devices num-devices num-gpus gpu device",
    "precision": "mixed-precision fp16 bf16 amp dtype half",
    "autoencoder.from-run": "vae first-stage autoencoder vae-path",
    "model": "config base",
    "diffusion.condition": "condition conditioning",
    "diffusion.drop-probability": "dropout-prob p-uncond ucg-rate cond-drop-prob",
}
_ENDINGS: dict[str, list[str]] = {}
for _ending, _names in _SYNONYMS.items():
    for _name in _names.split():
        _ENDINGS.setdefault(_name, []).append(_ending)

# What an option would do that is not needed here.
_INSTEAD = {
    "resume": "a run that is there already is resumed without an option",
    "epochs": "training is counted in steps",
}


def suggestion(wanted: str, options: Sequence[str]) -> str:
    """`; perhaps you meant --x or --y`, or '' where nothing comes close.

    Args:
      wanted: the option as it was typed. options: those that there are, such as `--data.size`.
    """
    name = wanted.lstrip("-").partition("=")[0].lower().replace("_", "-")
    meant = _meant(name, [option.removeprefix("--") for option in options])
    if not meant:
        return ""
    first, *rest = (f"--{option}" for option in meant[:MOST])
    listed = f"{', '.join([first, *rest[:-1]])} or {rest[-1]}" if rest else first
    instead = next((f"; {text}" for key, text in _INSTEAD.items() if name.startswith(key)), "")
    return f"{instead}; perhaps you meant {listed}"


def _meant(name: str, options: list[str]) -> list[str]:
    part, _, last = name.rpartition(".")
    for ending in (name, *_ENDINGS.get(name, ()), last, *_ENDINGS.get(last, ())):
        found = [o for o in options if o == ending or o.endswith(f".{ending}")]
        if found:  # of the same part, where one was named
            return [o for o in found if part and o.startswith(f"{part}.")] or found
    if close := difflib.get_close_matches(name, options, n=1, cutoff=0.8):
        return close
    ends = {o.rpartition(".")[2]: o for o in reversed(options)}
    close = difflib.get_close_matches(last, ends, n=1, cutoff=0.75)
    return [o for o in options if o.rpartition(".")[2] in close]
