"""A run directory, runs/NAME: what is in it, and whether it belongs to this configuration."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
import types
import typing
from typing import Any

import jax
from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Condition, Experiment
from ldm_jax.training.checkpoint import Checkpoints
from ldm_jax.training.metrics import MetricsLog
from ldm_jax.training.processes import gathered, on_first

VERSION = 1
FREE = r"mesh\..*|loader\..*|\w+\.remat"  # fields that change no result beyond rounding
PART = ".part"  # ending of the name of a file that is being written


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What the networks need to know of the data besides its configuration."""

    channels: int
    """Channels of the images."""
    condition: Condition
    """`condition` of the configuration, with auto decided."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, where the data has some."""
    vocabulary: tuple[str, ...] = ()
    """Words of the captions, for text."""
    caption_length: int = 0
    """Words a caption may have, for text."""
    box_names: tuple[str, ...] = ()
    """Names of what is in boxes, for layout."""
    semantic_classes: int = 0
    """Channels of a one-hot semantic map, for semantic."""
    tokenizer: str = ""
    """Content of tokenizer.json, for text with a published tokenizer."""


class RunDir:
    """Paths and files of one run, in a directory that all its processes see.

    Process 0 alone writes, and reads what the run's course depends on. All processes call `check`,
    `begin`, `load` and `summary`.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path).expanduser()
        self._started = time.perf_counter()

    @property
    def metrics(self) -> MetricsLog:
        """metrics.jsonl."""
        return MetricsLog(self.path / "metrics.jsonl")

    def checkpoints(self, stage: str) -> Checkpoints:
        """The checkpoints of `autoencoder`, `diffusion` or `classifier`."""
        return Checkpoints(self.path / "checkpoints" / stage)

    def sample_file(self, name: str) -> epath.Path:
        """samples/NAME.png; the folder is made."""
        (self.path / "samples").mkdir(parents=True, exist_ok=True)
        return self.path / "samples" / f"{name}.png"

    def check(self, name: str, experiment: Experiment, but_for: str = "") -> None:
        """Raises UserError, naming the fields, when the directory belongs to another experiment.

        Also when it is some other folder, or cannot be written to. Changes nothing. What decides
        speed and memory alone may differ: a run can go on with other devices.

        Args:
          but_for: a field of the experiment that may be another one.
        """
        on_first(lambda: self._check(name, experiment, but_for))

    def _check(self, name: str, experiment: Experiment, but_for: str) -> None:
        check_writable(self.path)
        if not (self.path / "config.json").exists():
            if self.path.exists() and any(p.suffix != PART for p in self.path.iterdir()):
                raise UserError(f"{self.path} is not empty and holds no config.json of a run")
            return
        saved_name, saved, _ = self._parsed(self._saved())
        if saved_name != name:
            raise UserError(
                f"{self.path} belongs to the experiment {saved_name!r}, not {name!r}; "
                "choose another --run-dir"
            )
        if but_for:
            saved = dataclasses.replace(saved, **{but_for: getattr(experiment, but_for)})
        different = differences(to_json(saved), to_json(experiment))
        if different := [row for row in different if not re.fullmatch(FREE, row[0])]:
            raise UserError(
                f"{self.path} belongs to another configuration: "
                + "; ".join(f"--{option} is {a} there, {b} here" for option, a, b in different)
                + "; choose another --run-dir"
            )

    def begin(
        self, name: str, experiment: Experiment, facts: DataInfo, renew: bool = False
    ) -> None:
        """Writes config.json on the first start; later ones compare the facts of the data.

        `renew` writes it again, with the fields that `check` let differ.
        """
        on_first(lambda: self._begin(name, experiment, facts, renew))
        seen = gathered((self.path / "config.json").exists())
        if not all(seen):
            raise UserError(
                f"{self.path} is not one directory for all: process {seen.index(False)} does not "
                "see what process 0 wrote; give a --run-dir that all hosts share, such as "
                "gs://BUCKET/RUN"
            )
        self._started -= self.summary().get("wall_seconds", 0.0)

    def _begin(self, name: str, experiment: Experiment, facts: DataInfo, renew: bool) -> None:
        begun = (self.path / "config.json").exists()
        if begun:
            theirs = self._parsed(self._saved())[2]
            if not theirs.class_names:  # classes that nothing in the run has looked at
                theirs = dataclasses.replace(theirs, class_names=facts.class_names)
            if different := differences(to_json(theirs), to_json(facts)):
                raise UserError(
                    f"the data of {self.path} has changed since the run began "
                    f"({', '.join(field for field, *_ in different)}); choose another --run-dir"
                )
        if renew or not begun:
            ours, config = to_json(facts), to_json(experiment)
            if tokenizer := ours.pop("tokenizer"):  # megabytes, in a file of its own
                self._write("tokenizer.json", tokenizer)
            content = {"version": VERSION, "experiment": name, "config": config, "data": ours}
            self._write_json("config.json", content)

    def load(self) -> tuple[str, Experiment, DataInfo]:
        """(name, experiment, facts of the data) of a run that has begun; UserError otherwise."""
        return self._parsed(on_first(self._saved))

    def _saved(self) -> dict[str, Any]:
        saved = self._read("config.json")
        if saved is None:
            raise UserError(f"{self.path} is no run directory: it has no config.json")
        if saved.get("version") != VERSION:
            raise UserError(
                f"{self.path}/config.json has version {saved.get('version')}, "
                f"this program reads version {VERSION}"
            )
        if (tokenizer := self.path / "tokenizer.json").exists():
            saved["tokenizer"] = tokenizer.read_text()
        return saved

    def _parsed(self, saved: dict[str, Any]) -> tuple[str, Experiment, DataInfo]:
        try:
            name, experiment = saved["experiment"], from_json(Experiment, saved["config"])
            facts = from_json(DataInfo, saved["data"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{self.path}/config.json is damaged: {error}") from error
        if "tokenizer" in saved:
            facts = dataclasses.replace(facts, tokenizer=saved["tokenizer"])
        return name, experiment, facts

    def summary(self) -> dict[str, Any]:
        """summary.json, or {} before the first `record`."""
        return on_first(self._summary)

    def _summary(self) -> dict[str, Any]:
        return self._read("summary.json") or {}

    def record(self, **entries: Any) -> None:
        """Puts entries into summary.json, and the time that all starts of this run took so far."""
        if jax.process_index() == 0:
            entries["wall_seconds"] = round(time.perf_counter() - self._started, 1)
            self._write_json("summary.json", self._summary() | entries)

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        self._write(name, json.dumps(content, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        """Writes a file whole or not at all."""
        if jax.process_index() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            part = self.path / (name + PART)
            part.write_text(text)
            part.replace(self.path / name)

    def _read(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file} is damaged: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{file} is damaged: it holds no JSON object")
        return content


def check_writable(folder: epath.Path) -> None:
    """Raises UserError when files cannot be written into a folder, which need not exist yet."""
    if "://" in str(folder):  # a bucket says so only when it is written to
        return
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{folder} cannot be written to: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written to: permission denied in {there}")


def to_json(value: Any) -> Any:
    """A frozen dataclass as JSON; one that stands for a choice between several names its type."""
    if dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        fields = {}
        for f in dataclasses.fields(value):
            fields[f.name] = to_json(getattr(value, f.name))
            if _is_union(hints[f.name]):
                fields[f.name]["type"] = type(getattr(value, f.name)).__name__
        return fields
    return list(value) if isinstance(value, tuple) else value


def from_json(kind: Any, value: Any) -> Any:
    """The inverse of `to_json`: a value of type `kind`. ValueError for whatever does not fit it."""
    if _is_union(kind):
        (kind,) = [k for k in typing.get_args(kind) if k.__name__ == value["type"]]
        value = {key: v for key, v in value.items() if key != "type"}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if unknown := value.keys() - hints.keys():
            raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
        return kind(**{name: from_json(hints[name], v) for name, v in value.items()})
    value = tuple(value) if isinstance(value, list) else value
    if not _fits(kind, value):
        raise ValueError(f"{value!r} where {getattr(kind, '__name__', kind)} is expected")
    return value


def _fits(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(typing.get_args(kind)[0], v) for v in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType)


def differences(saved: Any, ours: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(name as the command line spells it, value there, value here) of every field that differs."""
    if isinstance(saved, dict) and isinstance(ours, dict):
        return [
            row
            for key in sorted(saved.keys() | ours.keys())
            for row in differences(saved.get(key), ours.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if saved == ours else [(path.replace("_", "-"), saved, ours)]
