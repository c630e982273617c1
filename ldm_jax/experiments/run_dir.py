"""A run directory, runs/NAME: what is in it, and whether it belongs to this configuration."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

import jax
from etils import epath

from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.training.checkpoint import Checkpoints
from ldm_jax.training.metrics import MetricsLog

VERSION = 1


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What the networks need to know of the data besides its configuration."""

    channels: int
    """Channels of the pictures."""
    condition: str
    """none, class or text: `condition` of the configuration, with auto decided."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, for class."""
    vocabulary: tuple[str, ...] = ()
    """Words of the captions, for text."""
    caption_length: int = 0
    """Words a caption may have, for text."""


class RunDir:
    """Paths and files of one run. Process 0 alone writes."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path).expanduser()

    @property
    def metrics(self) -> MetricsLog:
        """metrics.jsonl."""
        return MetricsLog(self.path / "metrics.jsonl")

    def checkpoints(self, stage: str) -> Checkpoints:
        """The checkpoints of `autoencoder` or `diffusion`."""
        return Checkpoints(self.path / "checkpoints" / stage)

    def sample_file(self, name: str) -> epath.Path:
        """samples/NAME.png; the folder is made."""
        (self.path / "samples").mkdir(parents=True, exist_ok=True)
        return self.path / "samples" / f"{name}.png"

    def check(self, name: str, experiment: Experiment) -> None:
        """Raises UserError, naming the fields, when the directory belongs to another experiment."""
        saved = self._read("config.json")
        if saved is None:
            if self.path.exists() and any(self.path.iterdir()):
                raise UserError(f"{self.path} is not empty and holds no config.json of a run")
            return
        self._check_version(saved)
        if saved["experiment"] != name:
            raise UserError(
                f"{self.path} belongs to the experiment {saved['experiment']!r}, not {name!r}; "
                "choose another --run-dir"
            )
        ours = to_json(experiment)
        if different := _differences(saved["config"], ours):
            raise UserError(
                f"{self.path} belongs to another configuration: "
                + "; ".join(f"--{f} is {a} there, {b} here" for f, a, b in different)
                + "; choose another --run-dir"
            )

    def begin(self, name: str, experiment: Experiment, facts: DataFacts) -> None:
        """Writes config.json on the first start; later ones compare the facts of the data."""
        saved = self._read("config.json")
        ours = json.loads(json.dumps(dataclasses.asdict(facts)))
        if saved is None:
            config = to_json(experiment)
            content = {"version": VERSION, "experiment": name, "config": config, "data": ours}
            self.write_json("config.json", content)
        elif saved["data"] != ours:
            fields = [key for key in ours if saved["data"].get(key) != ours[key]]
            raise UserError(
                f"the data of {self.path} has changed since the run began ({', '.join(fields)}); "
                "choose another --run-dir"
            )

    def load(self) -> tuple[str, Experiment, DataFacts]:
        """(name, experiment, facts of the data) of a run that has begun; UserError otherwise."""
        saved = self._read("config.json")
        if saved is None:
            raise UserError(f"{self.path} is no run directory: it has no config.json")
        self._check_version(saved)
        facts = from_json(DataFacts, saved["data"])
        return saved["experiment"], from_json(Experiment, saved["config"]), facts

    def summary(self) -> dict[str, Any]:
        """summary.json, or {} before a stage has ended."""
        return self._read("summary.json") or {}

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Writes a JSON file whole or not at all."""
        if jax.process_index() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            part = self.path / f"{name}.part"
            part.write_text(json.dumps(content, indent=2) + "\n")
            part.rename(self.path / name)

    def _read(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file} cannot be read: {error}") from error

    def _check_version(self, saved: dict[str, Any]) -> None:
        if saved.get("version") != VERSION:
            raise UserError(
                f"{self.path}/config.json has version {saved.get('version')}, "
                f"this program reads version {VERSION}"
            )


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
    """The inverse of `to_json`: a value of type `kind`. UserError for a field that is unknown."""
    if _is_union(kind):
        (kind,) = [k for k in typing.get_args(kind) if k.__name__ == value["type"]]
        value = {key: v for key, v in value.items() if key != "type"}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if unknown := value.keys() - hints.keys():
            raise UserError(f"config.json has unknown fields: {', '.join(sorted(unknown))}")
        return kind(**{name: from_json(hints[name], v) for name, v in value.items()})
    return tuple(value) if isinstance(value, list) else value


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType)


def _differences(saved: Any, ours: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(saved, dict) and isinstance(ours, dict):
        return [
            row
            for key in sorted(saved.keys() | ours.keys())
            for row in _differences(saved.get(key), ours.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if saved == ours else [(path, saved, ours)]
