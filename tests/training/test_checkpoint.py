"""Checkpoints: exact, whole, checked, and readable without the program that wrote them."""

import contextlib
import logging
import resource
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.training.checkpoint import Checkpoints
from ldm_jax.training.sharding import put_batch
from ldm_jax.training.step import TrainState


@pytest.fixture
def saved(tiny, one_device, compiled, tmp_path):
    """(directory, {step: state on the host}) after checkpoints at steps 1, 2 and 3."""
    init, _, step = compiled
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state, states = init(), {}
    for i in range(1, 4):
        state, _ = step(state, put_batch(tiny.local_batch(i), one_device))
        # The next step reuses this state's memory while it is still being written
        checkpoints.save(i, state)
        states[i] = jax.tree.map(np.array, state)
    checkpoints.close()
    return Path(checkpoints.directory), states


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_what_was_saved_comes_back_bit_for_bit(tiny, compiled, saved):
    directory, states = saved
    restored = Checkpoints(directory).restore(compiled[1])
    assert isinstance(restored, TrainState) and tiny.same(restored, states[3])
    assert jax.tree.structure(restored) == jax.tree.structure(compiled[1])
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(
        lambda x: x.sharding, compiled[1]
    )


def test_nothing_to_restore(compiled, tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.restore(compiled[1]) is None
    assert checkpoints.restore_part(["ema"]) is None
    assert checkpoints.latest_step() is None
    assert not (tmp_path / "none").exists()


def test_only_the_newest_are_kept(compiled, tmp_path):
    checkpoints = Checkpoints(tmp_path, max_to_keep=2)
    state = compiled[0]()
    for step in (5, 10, 15, 20):
        checkpoints.save(step, state)
    checkpoints.close()
    assert checkpoints.steps() == [15, 20] and checkpoints.latest_step() == 20


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_restoring_onto_another_mesh(tiny, saved, compiled_on, sizes):
    directory, states = saved
    mesh, _, abstract_state, step = compiled_on(*sizes)
    restored = Checkpoints(directory).restore(abstract_state)
    assert tiny.same(restored, states[3])
    kernel = restored.params["layers"][0]["mlp_in"]["kernel"]
    assert kernel.sharding == abstract_state.params["layers"][0]["mlp_in"]["kernel"].sharding
    step(restored, put_batch(tiny.local_batch(0), mesh))  # and it trains on


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1)])
def test_what_was_split_comes_back_on_another_mesh(tiny, compiled, compiled_on, tmp_path, sizes):
    split, init, _, step = compiled_on(2, 2, 2)
    state, _ = step(init(), put_batch(tiny.local_batch(0), split))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state)
    for abstract_state in (compiled[1], compiled_on(*sizes)[2]):
        restored = checkpoints.restore(abstract_state)
        assert tiny.same(restored, state)
        kernels = (s.params["layers"][0]["mlp_in"]["kernel"] for s in (restored, abstract_state))
        assert len({kernel.sharding for kernel in kernels}) == 1
    checkpoints.close()


def test_a_part_is_read_without_knowing_the_network(tiny, saved):
    directory, states = saved
    part = Checkpoints(directory).restore_part(["ema", "constants", "step"])
    assert set(part) == {"ema", "constants", "step"}
    assert tiny.same(part["ema"], states[3].ema)  # list indices are integers again
    assert jax.tree.structure(part["ema"]) == jax.tree.structure(states[3].ema)
    assert float(part["constants"]["scale_factor"]) == 0.5 and int(part["step"]) == 3
    assert isinstance(part["ema"]["layers"][0]["mlp_in"]["kernel"], np.ndarray)
    with pytest.raises(UserError, match="no part weights"):
        Checkpoints(directory).restore_part(["weights"])


def test_a_state_without_average_or_constants(tiny, tmp_path):
    state = TrainState(jnp.int32(4), {"w": jnp.ones(3, jnp.bfloat16)}, None, (), {})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(4, state)
    assert tiny.same(checkpoints.restore(jax.eval_shape(lambda: state)), state)
    part = checkpoints.restore_part(["params", "ema", "constants"])
    assert part["ema"] is None and part["constants"] == {}
    assert part["params"]["w"].dtype == jnp.bfloat16
    checkpoints.close()


def delete(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [delete, cut, flip_one_bit])
def test_a_damaged_checkpoint_is_named_and_set_aside(tiny, compiled, saved, damage, caplog):
    directory, states = saved
    damage(largest_file(directory / "3"))
    checkpoints = Checkpoints(directory)

    with caplog.at_level(logging.WARNING):
        part = checkpoints.restore_part(["params"])  # a reader changes nothing
        assert tiny.same(part["params"], states[2].params)
        assert checkpoints.steps() == [1, 2, 3]
        restored = checkpoints.restore(compiled[1])
    assert tiny.same(restored, states[2])
    assert len(caplog.records) == 2  # one clear line each
    assert f"{directory / '3'} is damaged" in caplog.messages[1]
    assert "renamed to 3.damaged" in caplog.messages[1]

    checkpoints.save(3, restored)  # the damaged one does not stand in the way
    checkpoints.close()
    assert checkpoints.steps() == [1, 2, 3]
    assert tiny.same(Checkpoints(directory).restore(compiled[1]), states[2])


def test_when_all_are_damaged_training_does_not_start_anew(compiled, saved):
    directory, _ = saved
    for step in (1, 2, 3):
        cut(largest_file(directory / str(step)))
    for _ in range(2):  # also the second time, when all have been renamed
        with pytest.raises(UserError, match=f"Every checkpoint in {directory} is damaged"):
            Checkpoints(directory).restore(compiled[1])


def test_a_checkpoint_of_another_network_is_refused_and_kept(compiled, saved):
    directory, _ = saved
    other = compiled[1]
    wider = {"layers": {0: {"mlp_in": {"kernel": jax.ShapeDtypeStruct((64, 1024), np.float32)}}}}
    other = TrainState(other.step, wider, other.ema, other.opt_state, other.constants)
    with pytest.raises(UserError, match="another network or opt.*layers/0/mlp_in/bias.*512.*none"):
        Checkpoints(directory).restore(other)
    assert Checkpoints(directory).steps() == [1, 2, 3]


def test_a_reader_leaves_an_unfinished_save_alone_and_a_writer_removes_it(compiled, saved):
    directory, states = saved
    unfinished = directory / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    checkpoints = Checkpoints(directory)
    state = checkpoints.restore(compiled[1])
    checkpoints.restore_part(["step"])
    assert int(state.step) == 3 and unfinished.exists()
    checkpoints.save(5, state)
    checkpoints.close()
    assert not unfinished.exists() and checkpoints.latest_step() == 5


@pytest.fixture
def full_disk():
    """Inside `with full_disk(bytes):` no file can become larger, as on a disk without room."""

    @contextlib.contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.mark.parametrize("size", [0, 300, 3_000])
def test_a_full_disk_is_said_and_passes(compiled, saved, full_disk, size, capfd, caplog):
    caplog.set_level(logging.CRITICAL, "absl")  # as in a command
    directory, states = saved
    checkpoints = Checkpoints(directory)
    state = checkpoints.restore(compiled[1])
    with full_disk(size):
        with pytest.raises(UserError) as said:
            checkpoints.save(4, state)
            checkpoints.wait()
        time.sleep(0.5)  # threads of the save that failed end while the disk is full
    assert str(said.value) == (
        f"a checkpoint could not be written to {directory}: File too large; "
        "free some space there, then give the same command"
    )
    unfinished = directory / "4.orbax-checkpoint-tmp"
    while unfinished.exists():  # threads of the save that failed may still write here
        shutil.rmtree(unfinished, ignore_errors=True)
        time.sleep(0.1)
    again = Checkpoints(directory)
    assert again.latest_step() == 3
    again.save(4, state)
    again.close()
    assert again.steps() == [2, 3, 4]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b""])
def test_a_damaged_seal_is_a_damaged_checkpoint(tiny, saved, content):
    directory, states = saved
    (directory / "3" / "default" / "checksums.json").write_bytes(content)
    part = Checkpoints(directory).restore_part(["params"])
    assert tiny.same(part["params"], states[2].params)


def test_what_the_seal_leaves_out_is_not_needed(tiny, compiled, saved):
    directory, states = saved
    for path in directory.glob("3/*"):
        if path.is_file():
            path.write_bytes(b"\xff")
    (directory / "3" / "default" / ".DS_Store").write_bytes(b"clutter")
    checkpoints = Checkpoints(directory)
    state = checkpoints.restore(compiled[1])
    assert tiny.same(state, states[3])
    checkpoints.save(4, state)
    checkpoints.close()
    assert checkpoints.steps() == [2, 3, 4]


def test_a_folder_that_cannot_be_written_is_named(compiled, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    checkpoints = Checkpoints(tmp_path / "file")
    with pytest.raises(UserError, match=f"could not be written to {tmp_path / 'file'}"):
        checkpoints.save(1, compiled[0]())
        checkpoints.wait()
