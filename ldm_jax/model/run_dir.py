"""A run directory, runs/NAME: what is in it, and whether it belongs to this configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import secrets
import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
from etils import epath

from ldm_jax.data.open import DataConfig
from ldm_jax.errors import UserError
from ldm_jax.experiments.config import Experiment
from ldm_jax.lock import LOCK, Lock
from ldm_jax.model.config_json import from_json, to_json
from ldm_jax.model.data_info import DataInfo
from ldm_jax.model.packed import packed_file, packed_step
from ldm_jax.model.resume import (
    changes,
    other_data,
    same_split,
    unfit,
    way_out,
    with_words_of,
)
from ldm_jax.paths import (
    PART,
    check_utf8,
    check_writable,
    set_aside,
    user_path,
    write_whole,
)
from ldm_jax.text_files import read_text
from ldm_jax.training.metrics import MetricsLog
from ldm_jax.training.processes import all_processes, on_first

if TYPE_CHECKING:
    from ldm_jax.training.checkpoint import Checkpoints

VERSION = 2
STAGES = ("autoencoder", "diffusion", "classifier")
# What may remain where a run was removed or moved away while it trained.
REMNANTS = {
    "checkpoints",
    "samples",
    "evaluation",
    "metrics.jsonl",
    "summary.json",
    "tokenizer.json",
    "training_images.png",
    "curves.png",
    "samples.png",
    "nearest.png",
    "kid.png",
    "tensorboard",
    "profile",
}
log = logging.getLogger(__name__)


class RunDir:
    """Paths and files of one run, in a directory that all its processes see.

    Process 0 alone writes, and reads what the run's course depends on. All processes call `held`,
    `check`, `begin`, `load` and `summary`.
    """

    def __init__(self, path: epath.PathLike):
        self.path = user_path(path)
        self._started = time.perf_counter()
        self._lock: Lock | None = None

    @contextlib.contextmanager
    def held(self, option: str = "--run-dir") -> Iterator[None]:
        """Inside, no other command writes to the directory; `option` is what names it.

        Raises UserError, saying who it is, when another command does; when it is some other folder;
        and when nothing can be written to it.
        """
        lock = Lock(self.path, option)

        def acquire() -> None:
            self._check_place()
            lock.acquire()

        on_first(acquire)
        self._lock = lock if jax.process_index() == 0 else None
        try:
            yield
        finally:
            if self._lock:
                self._lock.release()
            self._lock = None

    def check_held(self) -> None:
        """Raises UserError when the directory that is `held` was moved, removed or taken over.

        Whatever writes to it calls this first: it must not appear again without its config.json.
        """
        if self._lock:
            self._lock.check()

    @property
    def id(self) -> str:
        """What tells this run from all others, wherever it lies and however it is spelled.

        UserError before it has begun.
        """

        def read() -> str:
            saved = self._saved()  # without an id: begun by a version that gave none
            return saved.get("id") or f"{zlib.crc32(json.dumps(saved).encode()):08x}"

        return on_first(read)

    @property
    def metrics(self) -> MetricsLog:
        """metrics.jsonl."""
        return MetricsLog(self.path / "metrics.jsonl", self.check_held)

    def checkpoints(self, stage: str) -> Checkpoints:
        """The checkpoints of `autoencoder`, `diffusion` or `classifier`."""
        from ldm_jax.training.checkpoint import Checkpoints  # Orbax: a packed run does without

        return Checkpoints(self.path / "checkpoints" / stage, before_write=self.check_held)

    @property
    def is_packed(self) -> bool:
        """Whether it has files of weights in place of checkpoints (`model.packed`)."""
        return any(packed_file(self.path, stage) for stage in STAGES)

    def to_write(self, name: str) -> epath.Path:
        """The path of a file such as curves.png or samples/NAME.png, whose folder is made."""
        self.check_held()
        file = self.path / name
        if file.parent != self.path:
            file.parent.mkdir(exist_ok=True)
        return file

    def begun(self) -> dict[str, int]:
        """The newest step of each stage that has a checkpoint, or packed weights."""
        if self.is_packed:
            files = {stage: packed_file(self.path, stage) for stage in STAGES}
            return {stage: packed_step(file) for stage, file in files.items() if file}
        steps = {stage: self.checkpoints(stage).latest_step() for stage in STAGES}
        return {stage: step for stage, step in steps.items() if step is not None}

    def resumed(self, name: str, experiment: Experiment, stage: str = "both") -> Experiment:
        """The experiment that a start with this one goes on with; changes nothing.

        A run may go on with other fields where that changes no numbers of a stage that has begun
        (`resuming.OnResume`). The classifier is configured by a start that trains it.

        Args:
          stage: what is trained, as in `train.py --stage`.

        Raises:
          UserError: the directory belongs to another experiment, with the fields named, it is some
            other folder, or it cannot be written to.
        """
        begun = self.begun()
        return from_json(
            Experiment, on_first(lambda: to_json(self._resumed(name, experiment, stage, begun)))
        )

    def unused(self, experiment: Experiment) -> list[str]:
        """Fields of `experiment` that a finished run does not take over, with both values."""
        return [str(one) for one in changes(self.load()[1], experiment, self.begun())]

    def _resumed(
        self, name: str, experiment: Experiment, stage: str, begun: dict[str, int]
    ) -> Experiment:
        self._check_place()
        if not (self.path / "config.json").exists():
            return experiment
        saved_name, saved, _ = self._parsed(self._saved())
        if begun and saved_name != name:
            raise UserError(
                f"{self.path} belongs to the experiment {saved_name!r}, not {name!r}; "
                + way_out(self.path)
            )
        if stage != "classifier":
            experiment = dataclasses.replace(experiment, classifier=saved.classifier)
        if refused := [str(one) for one in changes(saved, experiment, begun) if one.refused]:
            raise UserError(
                f"{self.path} belongs to another configuration: {'; '.join(refused)}; "
                + way_out(self.path)
            )
        return experiment

    def _check_place(self) -> None:
        """Raises UserError unless it is a run, or can become one."""
        check_writable(self.path)
        check_utf8(self.path)  # TensorStore, which writes the checkpoints, knows no other names
        if (self.path / "config.json").exists() or not self.path.exists():
            return
        others = {p.name for p in self.path.iterdir() if p.suffix != PART} - {LOCK}
        if others and others <= REMNANTS:
            raise UserError(
                f"{self.path} is what is left of a run without its config.json "
                f"({', '.join(sorted(others))}); if the run was moved, go on where it is now; "
                f"remove {self.path} to start anew"
            )
        if others:
            raise UserError(f"{self.path} is not empty and holds no config.json of a run")

    def data_to_open(self, data: DataConfig) -> DataConfig:
        """What to open of it: a run that has begun keeps what is held out."""
        if not self.begun():
            return data
        return same_split(data, self.load()[2])

    def resumed_info(self, info: DataInfo, accept_changes: bool = False) -> DataInfo:
        """The info of the data that a start with this one goes on with; changes nothing.

        Args:
          accept_changes: go on although there are other images or captions than before.

        Raises:
          UserError: a stage has begun on other data, or on data of another kind.
        """
        begun = self.begun()
        if not begun:
            return info
        saved = self.load()[2]
        changed = other_data(saved, info)
        if accept_changes:
            info = with_words_of(saved, info)
        if facts := unfit(saved, info, begun):
            reason = "; ".join([*changed, *facts])
            raise UserError(
                f"the data of {self.path} has changed since the run began: {reason}; "
                + way_out(self.path)
            )
        if changed and not accept_changes:
            raise UserError(
                f"the data of {self.path} has changed since the run began: {'; '.join(changed)}; "
                f"to go on with it as it is now: --changed-data accept; or {way_out(self.path)}"
            )
        if changed and jax.process_index() == 0:
            log.warning("the data has changed since the run began: %s", "; ".join(changed))
        return info

    def begin(
        self,
        name: str,
        experiment: Experiment,
        info: DataInfo,
        origin: dict[str, Any] | None = None,
    ) -> None:
        """Writes config.json, with what `resumed` and `resumed_info` gave.

        A line says of each field that has changed what this means, where it means anything.

        Args:
          origin: of the weights that stages which have not begun are to start from.

        Raises:
          UserError: the stages that have begun started from other weights.
        """
        begun = self.begun()
        on_first(lambda: self._begin(name, experiment, info, origin or {}, begun))
        visible = all_processes((self.path / "config.json").exists())
        if not all(visible):
            raise UserError(
                f"{self.path} is not one directory for all: process {visible.index(False)} does "
                "not see what process 0 wrote; give a --run-dir that all hosts share, such as "
                "gs://BUCKET/RUN"
            )
        self._started -= self.summary().get("wall_seconds", 0.0)

    def _begin(
        self,
        name: str,
        experiment: Experiment,
        info: DataInfo,
        origin: dict[str, Any],
        begun: dict[str, int],
    ) -> None:
        saved = self._saved() if (self.path / "config.json").exists() else {}
        for one in changes(self._parsed(saved)[1], experiment, begun) if saved else ():
            if one.effect:
                log.info(
                    "--%s is %s now, %s before: %s", one.option, one.now, one.before, one.effect
                )
        known = saved.get("origin", {}) if begun else {}
        if known and origin and known != origin:
            raise UserError(
                f"{self.path} began with the weights of run {known['run']} at {known['steps']}, "
                f"and {experiment.init_from} is run {origin['run']} at {origin['steps']}; "
                + way_out(self.path)
            )
        self.check_held()
        self.path.mkdir(parents=True, exist_ok=True)
        data, config = to_json(info), to_json(experiment)
        tokenizer = data.pop("tokenizer")  # megabytes, in a file of its own
        content = {
            "version": VERSION,
            "id": saved.get("id") or secrets.token_hex(8),
            "experiment": name,
            "config": config,
            "data": data,
            "origin": known or origin,
        }
        if saved.pop("tokenizer", "") != tokenizer:
            self._write("tokenizer.json", tokenizer, sync=True)
        if saved != content:
            self._write_json("config.json", content, sync=True)

    def load(self) -> tuple[str, Experiment, DataInfo]:
        """(name, experiment, info of the data) of a run that has begun; UserError otherwise."""
        return self._parsed(on_first(self._saved))

    def _saved(self) -> dict[str, Any]:
        try:
            saved = self._read("config.json")
        except ValueError as error:
            raise self._damaged(error) from error
        if saved is None:
            raise UserError(f"{self.path} is no run directory: it has no config.json")
        if saved.get("version") != VERSION:
            raise UserError(
                f"{self.path}/config.json has version {saved.get('version')}, "
                f"this program reads version {VERSION}"
            )
        if (tokenizer := self.path / "tokenizer.json").exists():
            saved["tokenizer"] = read_text(tokenizer)  # empty where the condition was changed
        return saved

    def _parsed(self, saved: dict[str, Any]) -> tuple[str, Experiment, DataInfo]:
        try:
            name, experiment = saved["experiment"], from_json(Experiment, saved["config"])
            info = from_json(DataInfo, saved["data"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self._damaged(error) from error
        if "tokenizer" in saved:
            info = dataclasses.replace(info, tokenizer=saved["tokenizer"])
        return name, experiment, info

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path}/config.json is damaged ({error}); without it nobody knows what the run "
            "is: restore it from a copy, or choose another --run-dir"
        )

    def summary(self) -> dict[str, Any]:
        """summary.json, or {} before the first `record`; a damaged one is set aside."""
        return on_first(self._summary)

    def _summary(self) -> dict[str, Any]:
        file = self.path / "summary.json"
        try:
            summary = self._read(file.name) or {}
            whole = isinstance(summary.get("wall_seconds", 0.0), (int, float)) and all(
                isinstance(summary.get(stage, {}), dict) for stage in STAGES
            )
        except Exception:  # whatever the bytes are
            whole = False
        if whole:
            return summary
        if self._lock:
            self.check_held()
            set_aside(file)
        log.warning("%s is damaged; it will be made again", file)
        return {}

    def record(self, **entries: Any) -> None:
        """Puts entries into summary.json, and the time that all starts of this run took so far."""
        if jax.process_index() == 0:
            entries["wall_seconds"] = round(time.perf_counter() - self._started, 1)
            self._write_json("summary.json", self._summary() | entries)

    def _write_json(self, name: str, content: dict[str, Any], sync: bool = False) -> None:
        self._write(name, json.dumps(content, indent=2) + "\n", sync)

    def _write(self, name: str, text: str, sync: bool = False) -> None:
        if jax.process_index() == 0:
            write_whole(self.to_write(name), text, sync)

    def _read(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_bytes())
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        return content
