"""Checkpoint files of other projects: exact there and back, refused in one line, never executed."""

import argparse
import collections
import contextlib
import datetime
import enum
import functools
import importlib.util
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.pretrained import files
from ldm_jax.pretrained.files import (
    read_checkpoint,
    read_metadata,
    read_state_dict,
    write_ckpt,
    write_safetensors,
)

FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def safetensors():
    return pytest.importorskip("safetensors.numpy")


@pytest.fixture(params=FORMATS)
def save(torch, request, tmp_path):
    """Writes an object in one of PyTorch's two formats, and returns the path."""

    def save(content, name="model.ckpt", **options):
        torch.save(content, tmp_path / name, **FORMATS[request.param], **options)
        return tmp_path / name

    return save


def arrays():
    rng = np.random.default_rng(0)
    return {
        "float32": rng.normal(size=(3, 4, 2)).astype(np.float32),
        "float16": rng.normal(size=7).astype(np.float16),
        "float64": rng.normal(size=(2, 2)),
        "bfloat16": rng.normal(size=(4, 5)).astype(ml_dtypes.bfloat16),
        "int64": np.array([-(2**62), 0, 2**62]),
        "uint8": np.arange(5, dtype=np.uint8),
        "bool": np.array([True, False]),
        "num_updates": np.array(173, np.int32),  # without axes
        "decay": np.array(0.9999, ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float32),
        "none either": np.zeros(0, np.int64),
        "transposed": rng.normal(size=(3, 4)).astype(np.float32).T,
        "strided": rng.normal(size=(8, 4)).astype(np.float32)[::2, 1:3],
    }


def to_tensor(torch, array):
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def assert_same(found, expected):
    assert list(found) == list(expected) and len(found) == len(expected)
    for name, array in expected.items():
        assert name in found
        if array.dtype == ml_dtypes.bfloat16:
            array = array.astype(np.float32)
        value = found[name]
        assert type(value) is np.ndarray
        assert (value.dtype, value.shape) == (array.dtype, array.shape), name
        assert value.tobytes() == array.tobytes(), name


def refusal(file, read=read_state_dict):
    """What is said of a file that cannot be read: one line that names it."""
    with pytest.raises(UserError) as caught:
        read(file)
    message = str(caught.value)
    assert str(file) in message and len(message.splitlines()) == 1 and len(message) < 500
    assert "Traceback" not in message and message.isprintable()
    return message.removeprefix(str(file)).strip()


# --- there and back ---------------------------------------------------------------------------


def test_ckpt_there_and_back(torch, tmp_path):
    read_only = np.ones(3, np.float32)
    read_only.flags.writeable = False  # as JAX gives them
    expected = arrays() | {"read only": read_only}
    write_ckpt(tmp_path / "new" / "model.ckpt", expected, {"origin": "a run"})
    assert_same(read_state_dict(tmp_path / "new" / "model.ckpt"), expected)
    content = torch.load(tmp_path / "new" / "model.ckpt", weights_only=True)
    assert content["origin"] == "a run"
    assert content["state_dict"]["bfloat16"].dtype == torch.bfloat16
    assert os.listdir(tmp_path / "new") == ["model.ckpt"]


def test_safetensors_there_and_back(safetensors, tmp_path):
    expected = arrays()
    write_safetensors(tmp_path / "new" / "model.safetensors", expected, {"origin": "a run"})
    assert read_metadata(tmp_path / "new" / "model.safetensors") == {"origin": "a run"}
    found = read_state_dict(tmp_path / "new" / "model.safetensors")
    assert_same({name: found[name] for name in expected}, expected)  # it orders them by type
    assert len(found) == len(expected) and "weight" not in found
    assert os.listdir(tmp_path / "new") == ["model.safetensors"]


def test_formats_of_torch(torch, save):
    content = {name: to_tensor(torch, array) for name, array in arrays().items()}
    assert_same(read_state_dict(save(content)), arrays())  # without state_dict, as torchvision
    assert_same(read_state_dict(save({"state_dict": content, "epoch": 3})), arrays())
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
    found = read_state_dict(save({"weight": parameter, "tied": parameter, "lr": 0.1, 5: parameter}))
    assert_same(found, dict.fromkeys(("weight", "tied"), parameter.detach().numpy()))


def test_an_array_is_read_when_it_is_asked_for(torch, tmp_path):
    write_ckpt(tmp_path / "a.ckpt", {"w": np.full(1000, 3.0, np.float32)})
    found = read_state_dict(tmp_path / "a.ckpt")
    content = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "a.ckpt").write_bytes(content.replace(np.float32(3).tobytes(), b"\0\0\0\0"))
    assert not found["w"].any()  # so nothing had been copied
    with pytest.raises(KeyError):
        found["v"]


def test_a_compressed_zip_is_not_mapped(torch, tmp_path):
    write_ckpt(tmp_path / "a.ckpt", arrays())
    with (
        zipfile.ZipFile(tmp_path / "a.ckpt") as source,
        zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert_same(read_state_dict(tmp_path / "b.ckpt"), arrays())


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_remote_files_are_copied(torch, safetensors, tmp_path, monkeypatch, name):
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    write = write_ckpt if name.endswith(".ckpt") else write_safetensors
    for content in ({"w": np.zeros(2)}, {"w": np.arange(3.0)}):  # the second over the first
        write(tmp_path / name, content)
        found = read_state_dict(tmp_path / name)
        (tmp_path / name).unlink()
        assert_same(found, content)
        write(tmp_path / name, content)


@pytest.mark.parametrize("write", [write_ckpt, write_safetensors])
def test_a_write_that_fails_leaves_what_was_there(torch, safetensors, tmp_path, write):
    (tmp_path / "old").write_text("the file of yesterday")
    with pytest.raises(Exception):  # noqa: B017 - whatever the package says
        write(tmp_path / "old", {"w": np.array([object()])})
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "the file of yesterday"


# --- what PyTorch Lightning leaves beside the weights -------------------------------------------


@contextlib.contextmanager
def lightning():
    """A module that looks like Lightning's callbacks, for as long as something is pickled."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    parents = ["pytorch_lightning", "pytorch_lightning.callbacks"]
    modules = {name: types.ModuleType(name) for name in parents} | {module.__name__: module}

    class ModelCheckpoint:
        def __init__(self):
            self.best_model_score = np.float32(0.5)

    class Mode(enum.Enum):
        MIN = "min"

    for kind in (ModelCheckpoint, Mode):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    with pytest.MonkeyPatch.context() as patch:
        for name, one in modules.items():
            patch.setitem(sys.modules, name, one)
        yield module


def test_lightning_checkpoints(torch, save):
    with lightning() as module:
        content = {
            "epoch": 12,
            "global_step": np.int64(840_000),
            "callbacks": {module.ModelCheckpoint: {"monitor": "val/loss", "mode": module.Mode.MIN}},
            "lr_schedulers": [
                {"last_lr": [np.float64(1e-4)], "callback": module.ModelCheckpoint()}
            ],
            "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.ones(2)}}}],
            "state_dict": {"betas": torch.arange(3.0), "logvar": torch.zeros(2).half()},
        }
        path = save(content)
    assert "pytorch_lightning" not in sys.modules
    assert_same(
        read_state_dict(path),
        {"betas": np.arange(3, dtype=np.float32), "logvar": np.zeros(2, np.float16)},
    )


def test_quantised_arrays_keep_nobody_from_the_others(torch, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    content = {"state_dict": {"q": quantised, "w": torch.ones(2)}}
    torch.save(content, tmp_path / "new.ckpt")
    assert_same(read_state_dict(tmp_path / "new.ckpt"), {"w": np.ones(2, np.float32)})
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="quantised arrays in the old format"):
        read_state_dict(tmp_path / "old.ckpt")


class Node:
    """A value in a configuration of OmegaConf, or the configuration itself."""

    def __init__(self, **state):
        vars(self).update(state)


def test_what_lightning_keeps_of_a_models_arguments(torch, save):
    network = {"params": {"timesteps": 7}}
    arguments = {
        "linear_start": 1e-4,
        "parameterization": Node(_val="v", _parent=None),
        "params": Node(_content={"timesteps": Node(_val=500)}),
        "first_stage_config": network,
        "callback": print,
    }
    for kept in (arguments, argparse.Namespace(**arguments)):
        path = save({"state_dict": {"w": torch.ones(2)}, "hyper_parameters": kept, "note": "a"})
        assert read_metadata(path) == {
            "note": "a",
            "hyper_parameters.linear_start": "0.0001",
            "hyper_parameters.parameterization": "v",
            "hyper_parameters.timesteps": "500",
        }


class Settings(dict):
    """A dict with state, as EasyDict and Lightning's AttributeDict are."""


def objects():
    """Kinds of objects that programs store beside the weights."""
    settings = Settings(lr=0.1)
    settings.frozen = True
    return {
        "argparse": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/data")),
        "a path": Path("/data/model"),
        "a dict of its own class": settings,
        "a defaultdict": collections.defaultdict(list, a=[1]),
        "a deque": collections.deque([1, 2], maxlen=3),
        "a set": {1, 2},
        "an array of NumPy": np.arange(3.0),
        "a scalar of NumPy": np.float64(3),
        "a state of NumPy": np.random.RandomState(0).get_state(),
        "a generator of NumPy": np.random.default_rng(0),
        "a partial": functools.partial(int, base=2),
        "a pattern": re.compile("a+"),
        "a date": datetime.datetime(2022, 4, 13, tzinfo=datetime.UTC),
        "a member of an enum": Colour.RED,
        "a class": Colour,
        "a method": settings.copy,
        "complex": 1j,
        "bytes": b"\x00\xff",
        "large": 2**500,
        "an array": torch_module().ones(2),
    }


class Colour(enum.Enum):
    RED = 1


def torch_module():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", list(objects()) if importlib.util.find_spec("torch") else [])
def test_any_object_beside_the_weights_is_passed_over(torch, save, kind, protocol):
    extra = objects()[kind]
    content = {"state_dict": {"w": torch.ones(2)}, "extra": [extra], "more": {"it": extra}}
    found = read_state_dict(save(content, pickle_protocol=protocol))
    assert_same(found, {"w": np.ones(2, np.float32)})


def test_scalars_under_the_name_that_numpy_1_gave_them(torch, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"best": np.float64(3), "w": torch.ones(1)}, path, **FORMATS["legacy"])
    content = path.read_bytes()
    path.write_bytes(content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    assert path.read_bytes() != content
    assert_same(read_state_dict(path), {"w": np.ones(1, np.float32)})


def test_arrays_are_found_in_entries_of_any_name(torch, save):
    one, two = torch.ones(2), torch.zeros(2)
    expected = np.ones(2, np.float32), np.zeros(2, np.float32)
    names = ["model.w", "ema.w"]
    saved = {"model": {"w": one}, "ema": {"w": two}, "opt": {"state": {0: {"exp_avg": one}}}}
    assert_same(read_state_dict(save(saved)), dict(zip(names, expected, strict=True)))
    saved = {"epoch": two, "state_dict": {"w": one}, "state_dict_ema": {"w": two}, "d": {"w": two}}
    names = ["w", "state_dict_ema.w"]
    assert_same(read_state_dict(save(saved)), dict(zip(names, expected, strict=True)))
    saved = Settings(state_dict=Settings(w=one))
    assert_same(read_state_dict(save(saved)), {"w": expected[0]})


def test_a_network_that_was_saved_whole(torch, save):
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    expected = {name: array.numpy() for name, array in network.state_dict().items()}
    assert_same(read_state_dict(save(network)), expected)
    in_model = {f"model.{name}": array for name, array in expected.items()}
    assert_same(read_state_dict(save({"model": network, "epoch": 3})), in_model)


def test_pytorch_is_not_needed_to_read(torch, save):
    path = save({"w": torch.ones(2)})
    code = f"""
import sys
sys.modules["torch"] = None
from ldm_jax.pretrained.files import read_state_dict
assert read_state_dict({str(path)!r})["w"].tolist() == [1, 1]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what must never run -------------------------------------------------------------------------


class Attack:
    """Pickles as a call, which a plain unpickler makes."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ATTACKS = {
    "posix.system": lambda marker: Attack(os.system, f"touch {marker}"),
    "eval": lambda marker: Attack(eval, f"open({str(marker)!r}, 'w')"),
    "exec": lambda marker: Attack(exec, f"open({str(marker)!r}, 'w')"),
    "pathlib": lambda marker: Attack(Path.touch, Path(marker)),
}


@pytest.mark.parametrize("where", ["beside", "among the arrays", "as a key", "alone"])
@pytest.mark.parametrize("name", ["posix.system", "eval", "exec"])
def test_nothing_in_a_file_is_executed(torch, save, tmp_path, name, where):
    marker = tmp_path / "marker"
    attack = ATTACKS[name](marker)
    content = {
        "beside": {"state_dict": {"w": torch.ones(2)}, "epoch": attack},
        "among the arrays": {"state_dict": {"w": torch.ones(2), "v": attack}},
        "as a key": {attack: 1, "w": torch.ones(2)},
        "alone": attack,
    }[where]
    path = save(content)
    if where == "alone":
        assert refusal(path).startswith("holds no arrays")
    else:
        assert_same(read_state_dict(path), {"w": np.ones(2, np.float32)})
    assert not marker.exists()
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert marker.exists()  # so the attack was a real one


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_in_a_plain_pickle_is_executed(torch, tmp_path, name, protocol):
    path, marker = tmp_path / "model.pt", tmp_path / "marker"
    path.write_bytes(pickle.dumps(ATTACKS[name](marker), protocol))
    refusal(path)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("archive/data.pkl", path.read_bytes())
        archive.writestr("archive/version", "3\n")
    refusal(tmp_path / "zip.pt")
    assert not marker.exists()


def test_a_lightning_that_is_installed_is_not_run_either(torch, save, tmp_path):
    marker = tmp_path / "marker"
    with lightning() as module:

        def load(path):
            Path(path).touch()

        load.__module__, load.__qualname__ = module.__name__, "load"
        module.load = load
        path = save({"hook": Attack(load, str(marker)), "w": torch.ones(1)})
        assert_same(read_state_dict(path), {"w": np.ones(1, np.float32)})
        assert not marker.exists()


# --- what is no checkpoint -----------------------------------------------------------------------


def test_no_file_at_all(tmp_path):
    with pytest.raises(UserError, match=f"^there is no file {tmp_path}/none.ckpt$"):
        read_state_dict(tmp_path / "none.ckpt")
    assert refusal(tmp_path) == "is a folder, not a checkpoint file"


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_an_empty_file(torch, safetensors, tmp_path, name):
    (tmp_path / name).touch()
    assert refusal(tmp_path / name) == "is empty"


def test_other_files(torch, safetensors, tmp_path):
    def said(content, name="model.ckpt"):
        (tmp_path / name).write_bytes(content)
        return refusal(tmp_path / name)

    assert said(b"GGUF\0") == "is not a checkpoint: it begins with 'GGUF\\x00'"
    for name in ("model.ckpt", "model.safetensors"):
        page = b"\n<!DOCTYPE html>\n<title>Sign in</title>" + b" " * 1000
        assert said(page, name).startswith("is a web page")
        assert "git lfs pull" in said(b"version https://git-lfs.github.com/spec/v1", name)
    assert "compressed" in said(b"\x1f\x8b" + bytes(100))
    assert "not a checkpoint" in said(bytes(100), "model.safetensors")
    broken = (50).to_bytes(8, "little") + b'{"w": {"dtype": "F32", "shape": [1'.ljust(60)
    assert "invalid JSON" in said(broken, "model.safetensors")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("model.ckpt", b"...")
        archive.writestr("config.yaml", b"...")
    assert "'config.yaml', 'model.ckpt'" in refusal(tmp_path / "model.zip")
    rng = np.random.default_rng(0)
    for start in (b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}q\x00", b"{"):
        for n in (1, 30, 3000):
            said(start + rng.bytes(n))
            said(start + rng.bytes(n), "model.safetensors")


def test_names_from_a_file_cannot_steer_the_terminal(torch, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x02cevil\x1b[2J\nname\x07\n.")
    refusal(path)
    torch.save({"\x1b[2J": 1, "\udc80": 2}, path, **FORMATS["legacy"])
    assert "[2J" in refusal(path)


def test_torchscript_is_named(torch, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{name}", b"...")
    assert "TorchScript" in refusal(tmp_path / "model.pt")


def test_a_file_that_is_cut_off(torch, safetensors, save, tmp_path):
    path = save({name: to_tensor(torch, array) for name, array in arrays().items()})
    write_safetensors(tmp_path / "model.safetensors", arrays())
    for whole in (path, tmp_path / "model.safetensors"):
        content = whole.read_bytes()
        cut = tmp_path / f"cut{whole.suffix}"
        for end in {*range(1, len(content), len(content) // 25), len(content) - 1}:
            cut.write_bytes(content[:end])
            refusal(cut)


def test_a_file_with_wrong_bits_is_read_or_refused(torch, save, tmp_path):
    content = save({"a": torch.ones(2), "b": torch.zeros(3).long()}).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=3):
            damaged[place] ^= 1 << rng.integers(8)
        (tmp_path / "damaged.ckpt").write_bytes(damaged)
        try:
            read_state_dict(tmp_path / "damaged.ckpt")
        except UserError as error:
            assert len(str(error).splitlines()) == 1


def test_files_without_arrays(torch, safetensors, save, tmp_path):
    assert refusal(save({})) == "holds no arrays"
    assert refusal(save([1, 2])) == "holds no arrays"
    assert refusal(save(torch.ones(2))) == "holds no arrays"
    sparse = torch.ones(2, 2).to_sparse()
    assert refusal(save({"w": sparse})) == "holds no arrays, but 'w'"
    assert refusal(save({"model": {}, "step": 3})) == "holds no arrays, but 'model', 'step'"
    assert "'state_dict'" in refusal(save({"state_dict": None}))
    write_safetensors(tmp_path / "none.safetensors", {})
    assert refusal(tmp_path / "none.safetensors") == "holds no arrays"


def test_float8_becomes_float32(torch, tmp_path):
    float8 = torch.tensor([0.5, 3.0]).to(torch.float8_e4m3fn)
    torch.save({"w": float8}, tmp_path / "model.ckpt")
    assert_same(read_state_dict(tmp_path / "model.ckpt"), {"w": np.array([0.5, 3], np.float32)})


def test_types_that_numpy_has_not(torch, safetensors, tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    assert "'w' as F8_E4M3" in refusal(tmp_path / "model.safetensors")


def test_a_missing_package(monkeypatch, safetensors, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", arrays())
    for package in ("torch", "safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, package, None)
    for use, extra in (
        (lambda: read_state_dict(tmp_path / "a.safetensors"), "pretrained"),
        (lambda: write_safetensors(tmp_path / "b.safetensors", {}), "pretrained"),
        (lambda: write_ckpt(tmp_path / "b.ckpt", {}), "torch"),
    ):
        with pytest.raises(UserError, match=re.escape(f'pip install "ldm_jax[{extra}]"')):
            use()


@pytest.mark.parametrize("name, other", [("a.safetensors", "a.ckpt"), ("a.pt", "a.safetensors")])
def test_the_content_decides_not_the_name(torch, safetensors, tmp_path, name, other):
    (write_safetensors if name.endswith("safetensors") else write_ckpt)(tmp_path / name, arrays())
    (tmp_path / name).rename(tmp_path / other)
    found = read_state_dict(tmp_path / other)
    assert_same({name: found[name] for name in arrays()}, arrays())


# --- pipeline folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.bf16.safetensors",
        "diffusion_pytorch_model.non_ema.safetensors",
        "diffusion_pytorch_model.bin",
        "model.safetensors",
        "pytorch_model.bin",
    ],
)
def test_a_component(torch, safetensors, tmp_path, name):
    content = {"conv_in.weight": np.arange(4, dtype=np.float16)}
    write = write_safetensors if name.endswith(".safetensors") else write_ckpt
    write(tmp_path / "unet" / name, content)
    (tmp_path / "unet" / "config.json").write_text("{}")
    of_unet = {f"unet/{name}": array for name, array in content.items()}
    assert_same(read_checkpoint(tmp_path), of_unet)
    assert_same(read_checkpoint(tmp_path / "unet"), content)


def test_the_best_variant_comes_first(safetensors, tmp_path):
    names = ("", ".fp16", ".non_ema", ".fp16.non_ema")
    for i, variant in enumerate(names):
        file = tmp_path / "unet" / f"diffusion_pytorch_model{variant}.safetensors"
        write_safetensors(file, {"w": np.full(1, i, np.float32)})
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"...")
    assert read_checkpoint(tmp_path)["unet/w"] == 0
    assert read_checkpoint(tmp_path, ema=False)["unet/w"] == 2


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "unet").mkdir()
    said = refusal(tmp_path, read_checkpoint)
    assert "diffusion_pytorch_model.safetensors" in said and "*.index.json" in said


def test_a_component_in_several_files(safetensors, tmp_path):
    content = arrays()
    index = tmp_path / "text_encoder" / "model.safetensors.index.json"
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    place = {name: shards[i % 3] for i, name in enumerate(content)}
    for shard in shards:
        part = {name: content[name] for name in content if place[name] == shard}
        write_safetensors(tmp_path / "text_encoder" / shard, part)
    (tmp_path / "text_encoder" / "model.safetensors.index.fp16.json").write_text("not taken")

    for text in (None, json.dumps({"metadata": {"total_size": 1}, "weight_map": place})):
        if text:
            index.write_text(text)
        found = read_checkpoint(tmp_path / "text_encoder")
        assert len(found) == len(content)
        assert_same({name: found[name] for name in content}, content)

    def said(text):
        index.write_text(text)
        with pytest.raises(UserError) as caught:
            read_checkpoint(tmp_path)
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value)

    assert "'lost'" in said(json.dumps({"weight_map": place | {"lost": shards[0]}}))
    assert "there is no file" in said(json.dumps({"weight_map": place | {"lost": "x.bin"}}))
    assert "outside of the folder" in said(json.dumps({"weight_map": {"w": "../../etc/passwd"}}))
    for broken in ("{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"w": 3}}'):
        assert "is not an index of weights" in said(broken)
    index.unlink()
    (tmp_path / "text_encoder" / shards[1]).unlink()
    assert "2 of 3 files" in refusal(tmp_path / "text_encoder", read_checkpoint)
