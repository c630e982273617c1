"""Whether a run can be resumed with another configuration or data, and what that changes."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ldm_jax.data.open import DataConfig
from ldm_jax.experiments.config import Experiment
from ldm_jax.model.config_json import differences, to_json
from ldm_jax.model.data_info import DataInfo
from ldm_jax.resuming import OnResume, on_resume
from ldm_jax.training.config import TrainingConfig
from ldm_jax.training.optimiser import learning_rate

# Beginning of a field's path: the stages whose numbers it decides. All others decide every stage.
DECIDES = {
    "diffusion.schedule.": ("diffusion", "classifier"),
    "diffusion.scale_factor": ("diffusion", "classifier"),
    "diffusion.": ("diffusion",),
    "classifier.": ("classifier",),
}


@dataclass(frozen=True)
class Change:
    """A field that has another value than when the run was last started."""

    option: str
    """As on the command line, without dashes in front."""
    before: Any
    now: Any
    refused: bool
    effect: str = ""
    """What that means for the run; '': nothing worth a line."""

    def __str__(self) -> str:
        before, now = ("''" if value == "" else value for value in (self.before, self.now))
        return f"--{self.option} is {before} there, {now} here"


def way_out(path: object) -> str:
    """What to do instead, in the words that all refusals end with."""
    return f"choose another --run-dir, where --init-from {path} starts from the weights of this run"


def changes(saved: Experiment, given: Experiment, begun: Mapping[str, int]) -> list[Change]:
    """The fields in which two configurations differ, and which of them a run cannot take over.

    Until a stage has a checkpoint, whatever decides it alone is free.

    Args:
      begun: the newest step of each stage that has a checkpoint.
    """
    found = []
    for path, before, now, rule in _differing(saved, given):
        decided = next((DECIDES[start] for start in DECIDES if path.startswith(start)), begun)
        refused, effect = False, ""
        if any(stage in begun for stage in decided):
            stage = path.split(".")[0]
            match rule:
                case OnResume.FREE:
                    pass
                case OnResume.ROUNDING:
                    effect = rule.value
                case OnResume.PLACE:
                    refused = not (before and now)
                case OnResume.LENGTH if stage not in begun or now < begun[stage]:
                    refused = True
                case OnResume.LENGTH if stage == "autoencoder" and len(begun) > 1:
                    refused = True  # the later stages have begun on its latents
                case OnResume.LENGTH:
                    effect = _rate(getattr(saved, stage), getattr(given, stage), begun[stage])
                case None:
                    refused = True
        elif rule is not OnResume.FREE:
            effect = "nothing that it decides is trained yet"
        option = path.replace("_", "-")
        found.append(Change(option, to_json(before), to_json(now), refused, effect))
    return found


def _differing(
    before: Any, now: Any, path: str = "", rule: OnResume | None = None
) -> Iterator[tuple[str, Any, Any, OnResume | None]]:
    """(path of the field, its two values, what it may do) for each field that differs."""
    if not dataclasses.is_dataclass(before) or type(before) is not type(now):
        if before != now:
            yield path, before, now, rule
        return
    hints = typing.get_type_hints(type(before), include_extras=True)
    for field in dataclasses.fields(before):
        name = field.name
        own = on_resume(hints[name]) or rule
        yield from _differing(
            getattr(before, name), getattr(now, name), f"{path}.{name}".lstrip("."), own
        )


def _rate(before: TrainingConfig, now: TrainingConfig, step: int) -> str:
    """What another number of steps does to the learning rate from a step on."""
    rates = [float(learning_rate(one.optimiser, one.steps)(step)) for one in (before, now)]
    if now.optimiser.schedule == "constant":
        return f"the learning rate stays {rates[1]:.3g}"
    if end := now.optimiser.decay_steps:
        return f"the cosine of the learning rate ends at step {end}, as before"
    return (
        f"the cosine of the learning rate ends at step {now.steps}: after step {step} the rate is "
        f"{rates[1]:.3g}, by the schedule before {rates[0]:.3g}"
    )


# Fields of DataInfo that tell the data of a run from other data; networks do not depend on them.
IDENTITY = ("images", "held-out", "held-out-below", "files-digest", "labels-digest")


def unfit(saved: DataInfo, info: DataInfo, begun: Mapping[str, int]) -> list[str]:
    """The facts of the data that stages which have begun were built on, and that are others now."""
    decides = {"channels": bool(begun)} | dict.fromkeys(IDENTITY, False)
    decides["class-names"] = "classifier" in begun or (
        "diffusion" in begun and saved.condition == "class"
    )
    rows = differences(to_json(saved), to_json(info))
    return [_fact(*row) for row in rows if decides.get(row[0], "diffusion" in begun)]


def other_data(saved: DataInfo, info: DataInfo) -> list[str]:
    """In which ways the data is no longer that of the run."""
    if not saved.images:  # begun before it was kept, when a split depended on the count
        return ["other images are held out than by the version that began it"] * (
            info.held_out_below > 0
        )
    said = []
    if saved.images != info.images:
        said.append(f"{saved.images} training images there, {info.images} here")
    if saved.held_out != info.held_out:
        said.append(f"{saved.held_out} held-out images there, {info.held_out} here")
    if saved.files_digest != info.files_digest:
        said.append("other names or sizes of image files")
    if saved.labels_digest != info.labels_digest:
        said.append("other captions, boxes or maps")
    return said


def with_words_of(saved: DataInfo, info: DataInfo) -> DataInfo:
    """The words that a run was begun with are those that it knows; new ones are unknown words."""
    if not (saved.vocabulary and info.vocabulary):
        return info
    return dataclasses.replace(
        info, vocabulary=saved.vocabulary, caption_length=saved.caption_length
    )


def same_split(data: DataConfig, saved: DataInfo) -> DataConfig:
    """The data as it is to be opened again, so that held-out images stay held out."""
    if not saved.held_out_below or not hasattr(data, "validation"):
        return data
    return dataclasses.replace(data, validation=saved.held_out_below)


def _fact(option: str, before: Any, now: Any) -> str:
    name = option.replace("-", " ")
    if isinstance(before, list) and isinstance(now, list):
        there, here = set(before), set(now)
        parts = [("new", [x for x in now if x not in there])]
        parts += [("gone", [x for x in before if x not in here])]
        said = [f"{title}: {', '.join(map(str, some[:10]))}" for title, some in parts if some]
        return f"{name} ({'; '.join(said) or 'another order'})"
    if isinstance(before, str) and len(before) + len(now) > 100:
        return name
    return f"{name} {before} there, {now} here"
