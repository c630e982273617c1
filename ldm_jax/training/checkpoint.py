"""Checkpoints: the whole state, written in the background, whole or not at all, and checked.

Of several processes each writes and reads the parts that its devices hold, into and from one
directory. Which checkpoints there are, and whether they are sound, is what process 0 finds.
"""

import contextlib
import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from ldm_jax.errors import UserError
from ldm_jax.paths import DAMAGED, failure, is_remote, set_aside, sync_to_disk, user_path
from ldm_jax.training import integrity
from ldm_jax.training.processes import all_processes, on_first
from ldm_jax.training.step import TrainState

log = logging.getLogger(__name__)

ITEM = "default"  # the folder inside a checkpoint where Orbax keeps the one tree that we save


class Checkpoints:
    """The checkpoints of one run, `directory/STEP/`; the newest `max_to_keep` are kept.

    `directory` may be anything that epath reads, `gs://` included. Nothing is created or removed
    before the first `save`, so a reader can look into the folder of a run that is still training.
    All processes call every method.

    `before_write` is called before anything is changed; it raises where it must not be.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        max_to_keep: int = 3,
        before_write: Callable[[], None] = lambda: None,
    ):
        self._before_write = before_write
        self.directory = user_path(directory)
        if not is_remote(self.directory):  # a bucket's path would become one of this machine
            self.directory = self.directory.absolute()  # as Orbax wants it
        self._max_to_keep = max_to_keep
        self._manager = None

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write `state`; returns once it is copied off the device.

        A checkpoint appears under its name only when it is complete. Raises UserError when the
        previous save, which ran in the background, could not be written.
        """
        on_first(self._before_write)
        if self._manager is None:
            self._manager = self._open()
        self.wait()  # for the previous save, which _seal may still be reading
        self._saving = step
        with self._reported():
            self._manager.save(step, args=ocp.args.StandardSave(_fields(state)), force=True)

    def _open(self) -> ocp.CheckpointManager:
        _ignore_event_loops()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.LatestN(self._max_to_keep),
            cleanup_tmp_directories=True,  # what a killed process had not finished
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        return ocp.CheckpointManager(self.directory, options=options)

    def _seal(self) -> None:
        """Orbax calls it in its thread, when all is written but not yet under its final name."""
        if jax.process_index() == 0:
            name = str(self._saving)  # an object store has no renaming: final from the start
            [path] = [p for p in self.directory.iterdir() if p.name.split(".orbax")[0] == name]
            integrity.seal(path / ITEM)

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first."""

        def found() -> list[int]:
            if not self.directory.exists():
                return []
            return sorted(ocp.utils.checkpoint_steps(self.directory))

        return on_first(found)

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint; None when there is none."""
        return max(self.steps(), default=None)

    def restore(self, abstract_state: TrainState) -> TrainState | None:
        """The newest state that can be read, placed as `abstract_state` says; None if none exists.

        The mesh may differ from the one that saved. A checkpoint that cannot be read is renamed to
        STEP.damaged, with one warning, and the one before it is tried. Raises UserError when the
        checkpoint is of another network, or when every one is damaged.
        """
        self.wait()
        target = _fields(abstract_state)

        def read(path: epath.Path) -> TrainState:
            _check_same_shapes(_saved_shapes(path), target, path)
            return TrainState(**ocp.StandardCheckpointer().restore(path, target))

        return self._newest_readable(read, self._set_aside)

    def restore_part(self, names: Sequence[str]) -> dict[str, Any] | None:
        """Only these fields of the newest readable state, as NumPy arrays; None if none exists.

        `restore_part(['ema', 'constants'])` is what sampling needs: neither the optimiser nor the
        network has to be known, and nothing else is read. Keys that are digits come back as
        integers (the numbers of a list of layers). Changes nothing on disk.
        """
        unknown = set(names) - {field.name for field in dataclasses.fields(TrainState)}
        if unknown:
            raise UserError(f"A checkpoint has no part {', '.join(sorted(unknown))}.")

        def read(path: epath.Path) -> dict[str, Any]:
            saved = _saved_shapes(path)
            target = {name: saved[name] for name in names}
            arguments = ocp.args.PyTreeRestore(
                item=target,
                restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), target),
                partial_restore=True,
            )
            return _integer_keys(ocp.PyTreeCheckpointer().restore(path, args=arguments))

        return self._newest_readable(read, lambda step: "skipped")

    def _newest_readable(
        self, read: Callable[[epath.Path], Any], on_damage: Callable[[int], str]
    ) -> Any:
        steps = self.steps()
        for step in reversed(steps):
            path = self.directory / str(step)
            _, reason = on_first(functools.partial(_tried, integrity.check, path / ITEM))
            if reason is None:
                content, reason = _tried(read, path / ITEM)
                reason = next((r for r in all_processes(reason) if r is not None), None)
            if reason is None:
                return content
            done = on_damage(step)
            if jax.process_index() == 0:
                log.warning("Checkpoint %s is damaged (%s); it is %s.", path, reason, done)
        if steps or on_first(self._has_damaged):
            raise UserError(
                f"Every checkpoint in {self.directory} is damaged. Remove the folder to start anew."
            )
        return None

    def _has_damaged(self) -> bool:
        return self.directory.exists() and any(self.directory.glob(f"*{DAMAGED}"))

    def _set_aside(self, step: int) -> str:
        """Renames a damaged checkpoint, so that it never stands in the way of a new one."""
        path = self.directory / str(step)

        def rename() -> None:
            self._before_write()
            set_aside(path)

        on_first(rename)
        if self._manager is not None:
            self._manager.reload()
        return f"renamed to {step}{DAMAGED}"

    def wait(self) -> None:
        """Returns when what was saved is on disk; raises UserError when it could not be written."""
        if self._manager is None:
            return
        with self._reported():
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                sync_to_disk(self.directory)  # the checkpoint has its name

    def check_errors(self) -> None:
        """Raises UserError when what is saved in the background cannot be written; never waits."""
        if self._manager is not None:
            with self._reported():
                self._manager.check_for_errors()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """A failed write (a full disk, a lost bucket) as one clear line."""
        try:
            yield
        except Exception as error:
            self._before_write()  # where the folder is gone, that is what is to be said
            raise UserError(
                f"a checkpoint could not be written to {self.directory}: {failure(error)}"
            ) from error

    def close(self) -> None:
        """Waits, then ends the background threads."""
        if self._manager is not None:
            self.wait()
            self._manager.close()
            self._manager = None


def _fields(state: TrainState) -> dict[str, Any]:
    """The state as a plain dictionary, without copying the arrays."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _tried(read: Callable[[epath.Path], Any], path: epath.Path) -> tuple[Any, str | None]:
    """(what `read` makes of a checkpoint, None), or (None, in which way it is damaged)."""
    try:
        return read(path), None
    except (UserError, MemoryError, jax.errors.JaxRuntimeError):
        raise  # no sign of damage: another network, or too little memory
    except Exception as error:  # broken files can raise anything
        return None, _first_line(error)


@functools.cache
def _ignore_event_loops() -> None:
    """Where one file of a checkpoint cannot be written, Orbax leaves the others to fail later.

    Each would print a traceback, about an event loop that is closed by then.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    before = sys.unraisablehook

    def hook(failed: Any) -> None:
        if str(failed.exc_value) != "Event loop is closed":
            before(failed)

    sys.unraisablehook = hook


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().split(chr(10))[0][:200]}"


def _saved_shapes(path: epath.Path) -> dict[str, Any]:
    """The tree that a checkpoint holds, with shapes for arrays; its tuples come back as dicts."""
    return ocp.PyTreeCheckpointHandler().metadata(path).tree


def _check_same_shapes(saved: Any, target: Any, path: epath.Path) -> None:
    """Raises UserError when a checkpoint does not have the arrays of this network."""
    saved, target = _by_name(saved), _by_name(target)
    for name in sorted(saved.keys() | target.keys()):
        if saved.get(name) != target.get(name):
            raise UserError(
                f"{path.parent} is of another network or optimiser: it has "
                f"{name} {saved.get(name, 'missing')}, this run has {target.get(name, 'none')}."
            )


def _by_name(tree: Any) -> dict[str, str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _integer_keys(tree: Any) -> Any:
    """A list of layers has integer keys in the network and strings on disk."""
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _integer_keys(v) for k, v in tree.items()}
