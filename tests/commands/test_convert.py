"""Published weights become a run directory and come out of one: `python -m ldm_jax convert`."""

import json
import pickle
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.autoencoder.discriminator import DiscriminatorConfig
from ldm_jax.autoencoder.loss import AutoencoderLossConfig
from ldm_jax.autoencoder.network import AutoencoderConfig
from ldm_jax.commands.convert import check_main, convert_main, export_main
from ldm_jax.commands.train.run import main as train_main
from ldm_jax.conditioning.transformer import TransformerConfig
from ldm_jax.data.folder import FolderConfig
from ldm_jax.diffusion.unet import UNetConfig
from ldm_jax.experiments import EXPERIMENTS, FIRST_STAGES
from ldm_jax.model.latent_diffusion import LatentDiffusion
from ldm_jax.model.published import network_parts, published_info
from ldm_jax.model.run_dir import RunDir
from ldm_jax.pretrained.convert import write_compvis
from ldm_jax.pretrained.files import read_state_dict, write_safetensors
from ldm_jax.pretrained.match import averaged

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
KEYS = Path(__file__).parents[3] / "shared" / "reference" / "keys"


def tiny(**diffusion):
    """A model with every part of a published one, on 16x16 images."""
    smoke = EXPERIMENTS["smoke"]()
    stage = smoke.diffusion
    return replace(
        smoke,
        data=FolderConfig(size=16),
        autoencoder=replace(
            smoke.autoencoder,
            network=AutoencoderConfig(
                4, (1, 2), 1, mid_attention=False, z_channels=2, groups=2, bottleneck="vq",
                codebook_size=8,
            ),
            loss=AutoencoderLossConfig(disc_weight=0.5),
            discriminator=DiscriminatorConfig(4, 1),
        ),
        diffusion=replace(
            stage,
            unet=UNetConfig(8, (1, 2), 1, attention_factors=(), head_channels=4, groups=4),
            text=TransformerConfig(8, 1, 1),
            class_dim=8,
            scale_factor=2.0,
            **diffusion,
        ),
    )  # fmt: skip


MODELS = {
    "tiny-class": lambda: tiny(condition="class"),
    "tiny-measured": lambda: replace(
        tiny(condition="none"),
        diffusion=replace(tiny(condition="none").diffusion, scale_factor=0.0, drop_probability=0.0),
    ),
    "tiny-text": lambda: tiny(condition="text", tokenizer="bert", ema_decay=0.0),
    "tiny-layout": lambda: tiny(condition="layout"),
    "tiny-first": lambda: tiny(condition="none"),
}


@pytest.fixture(autouse=True)
def models(monkeypatch):
    for name, make in MODELS.items():
        monkeypatch.setitem(EXPERIMENTS, name, make)
    monkeypatch.setitem(FIRST_STAGES, "tiny-first", MODELS["tiny-first"])


def random_trees(name, seed):
    """part -> parameters drawn at random."""
    experiment, rng = MODELS[name](), np.random.default_rng(seed)
    stage = "autoencoder" if name in FIRST_STAGES else "diffusion"
    info = published_info(experiment.diffusion, stage)
    wanted = network_parts(LatentDiffusion(experiment, info), stage)
    return wanted, {
        part.name: jax.tree.map(
            lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), part.shapes
        )
        for part in wanted
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """(model, further arrays) -> a file as CompVis publishes it, and the arrays in it."""

    def make(name, ending=".ckpt", **buffers):
        wanted, trees = random_trees(name, 0)
        average = {"unet": random_trees(name, 1)[1]["unet"]} if "unet" in trees else None
        arrays = write_compvis(trees, wanted, ema=average, buffers=buffers)
        path = tmp_path_factory.mktemp("published") / f"model{ending}"
        if ending == ".ckpt":
            tensors = {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
            torch.save({"state_dict": tensors, "global_step": 7}, path)
        else:
            write_safetensors(path, arrays)
        return path, arrays

    return make


@pytest.fixture
def convert(command):
    """`convert(...)`, `convert('check', ...)`, `convert('export', ...)`: the three commands."""
    mains = {"check": check_main, "export": export_main}

    def run(*words):
        if words[0] in mains:
            return command(mains[words[0]], words[1:])
        return command(convert_main, words)

    return run


def test_published_weights_draw_and_come_out_as_they_went_in(
    file, sample, tmp_path, convert, command
):
    path, arrays = file("tiny-class")
    run, out = tmp_path / "run", tmp_path / "out.ckpt"
    ended = convert(path, "--model", "tiny-class", "--out", run)
    assert ended.code == 0, ended
    assert "unet: " in ended.out and "weights whose average is used" in ended.out

    words = ["--class-label", "3", "--num-images", "2", "--steps", "2", "--out", tmp_path / "a.png"]
    assert sample(run, *words).code == 0
    assert Image.open(tmp_path / "a.png").size[0] > 100
    again = command(train_main, ["tiny-class", "--run-dir", run])
    assert again.code == 0 and "finished" in again.err

    assert convert("export", run, "--out", out).code == 0
    exported = read_state_dict(out)
    for key, value in arrays.items():
        if key.startswith("model.diffusion_model."):  # the run keeps the average alone
            value = arrays[averaged(key)]
        np.testing.assert_array_equal(exported[key], value)
    assert exported["scale_factor"] == 2.0
    extra = set(exported) - set(arrays) - {"scale_factor"}
    assert {len(exported[key]) for key in extra} == {1000} and len(extra) == 12


def test_raw_weights_on_request_and_safetensors(file, tmp_path, convert):
    path, arrays = file("tiny-class", ".safetensors")
    key = "model.diffusion_model.input_blocks.0.0.weight"
    taken = {}
    for ema in ("True", "False"):
        run = tmp_path / ema
        assert convert(path, "--model", "tiny-class", "--out", run, "--ema", ema).code == 0
        saved = RunDir(run).checkpoints("diffusion").restore_part(["ema"])["ema"]
        taken[ema] = saved["unet"]["conv_in"]["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(taken["True"], arrays[averaged(key)])
    np.testing.assert_array_equal(taken["False"], arrays[key])


def test_the_scale_factor_is_the_file_s_where_the_model_measured_it(file, tmp_path, convert):
    path, _ = file("tiny-measured", scale_factor=np.float32(0.75))
    assert convert(path, "--model", "tiny-measured", "--out", tmp_path / "run").code == 0
    saved = RunDir(tmp_path / "run").checkpoints("diffusion").restore_part(["constants"])
    assert saved["constants"]["scale_factor"] == 0.75
    path, _ = file("tiny-measured")
    refused = convert(path, "--model", "tiny-measured", "--out", tmp_path / "other")
    assert "multiplied" in refused.error and not (tmp_path / "other").exists()


def test_a_first_stage_reconstructs_and_serves_another_run(
    file, sample, photographs, tmp_path, convert
):
    path, arrays = file("tiny-first")
    run = tmp_path / "run"
    assert convert(path, "--model", "tiny-first", "--out", run).code == 0
    images = photographs / "captions"
    done = sample(run, "--reconstruct", images, "--out", tmp_path / "rec.png")
    assert done.code == 0 and "PSNR" in done.out
    assert Image.open(tmp_path / "rec.png").size[1] > 190  # two rows
    assert "no image" in sample(run, "--reconstruct", tmp_path / "run" / "checkpoints").error
    assert "cannot be read" in sample(run, "--reconstruct", tmp_path / "gone.png").error

    assert convert("export", run, "--out", tmp_path / "out.safetensors").code == 0
    exported = read_state_dict(tmp_path / "out.safetensors")
    assert set(exported) == set(arrays)
    for key, value in arrays.items():
        np.testing.assert_array_equal(exported[key], value)


def test_a_model_of_texts_takes_its_tokenizer_along(file, sample, tmp_path, convert):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "cube"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path, _ = file("tiny-text")
    run = tmp_path / "run"
    words = [path, "--model", "tiny-text", "--out", run, "--tokenizer"]
    assert "tokenizer" in convert(*words, tmp_path / "gone.json").error
    assert convert(*words, tmp_path / "tokenizer.json").code == 0
    (tmp_path / "tokenizer.json").unlink()
    images = []
    for i, caption in enumerate(["red cube", "cube"]):
        file_out = tmp_path / f"{i}.png"
        words = ["--num-images", "1", "--steps", "2", "--guidance", "30", "--out", file_out]
        assert sample(run, "--prompt", caption, *words).code == 0
        images.append(np.asarray(Image.open(file_out))[:140])
    assert not np.array_equal(*images)


def test_a_model_of_layouts_knows_its_objects_by_number_or_by_the_names_it_is_given(
    file, sample, tmp_path, convert
):
    path, _ = file("tiny-layout")
    convert_to = partial(convert, path, "--model", "tiny-layout", "--out")
    assert convert_to(tmp_path / "numbers").code == 0
    names = tmp_path / "names.txt"
    for lines, wrong in [
        (["a"], "has 1 lines; the model knows 354"),
        (["a"] * 354, "'a' twice"),
        ([str(i) for i in range(353)] + ["", "x"], "has 355 lines"),
    ]:
        names.write_text("\n".join(lines))
        error = convert_to(tmp_path / "names", "--names", names).error
        assert wrong in error and not (tmp_path / "names").exists()
    assert "cannot be read" in convert_to(tmp_path / "names", "--names", tmp_path / "x").error
    names.write_text("\n".join([f"kind {i}" for i in range(354)]) + "\n")
    assert convert_to(tmp_path / "names", "--names", names).code == 0
    images = []
    for run, label in [("numbers", "353"), ("names", "kind 353"), ("names", "kind 3")]:
        box = {"label": label, "box": [0, 0.1, 0.5, 0.9]}
        (tmp_path / "layout.json").write_text(json.dumps({"objects": [box]}))
        out = tmp_path / f"{label}.npz"
        words = ["--layout", tmp_path / "layout.json", "--num-images", "8", "--steps", "2"]
        assert sample(tmp_path / run, *words, "--guidance", "300", "--out", out).code == 0
        images.append(np.load(out)["arr_0"])
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    error = sample(tmp_path / "numbers", "--layout", tmp_path / "layout.json").error
    assert "unknown label 'kind 3'" in error


def test_only_models_that_call_something_by_name_take_names(file, tmp_path, convert):
    path, _ = file("tiny-measured")
    (tmp_path / "names.txt").write_text("a")
    words = ["--model", "tiny-measured", "--out", tmp_path / "run"]
    error = convert(path, *words, "--names", tmp_path / "names.txt").error
    assert "classes or layouts" in error


def test_a_trained_run_is_exported_under_the_published_names(smoke, tmp_path, convert):
    _, smoke = smoke
    ended = convert("export", smoke, "--out", tmp_path / "smoke.ckpt")
    assert ended.code == 0
    names = read_state_dict(tmp_path / "smoke.ckpt")
    assert {
        "model.diffusion_model.time_embed.0.weight",
        "model_ema.diffusion_modeltime_embed0weight",
        "first_stage_model.encoder.conv_in.weight",
        "cond_stage_model.transformer.token_emb.weight",
        "betas",
        "scale_factor",
    } <= set(names)
    state = RunDir(smoke).checkpoints("diffusion").restore_part(["params", "ema"])
    for tree, name in (
        (state["params"], "model.diffusion_model.out.2.weight"),
        (state["ema"], "model_ema.diffusion_modelout2weight"),
    ):
        expected = tree["unet"]["conv_out"]["kernel"].transpose(3, 2, 0, 1)
        np.testing.assert_array_equal(names[name], expected)
    assert "exists already" in convert("export", smoke, "--out", tmp_path / "smoke.ckpt").error
    assert ".safetensors" in convert("export", smoke, "--out", tmp_path / "smoke.bin").error
    assert "no run directory" in convert("export", tmp_path, "--out", tmp_path / "x.ckpt").error


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def test_a_file_that_does_not_fit_is_refused_in_one_line(file, tmp_path, convert):
    good, _ = file("tiny-class")
    run, marker = tmp_path / "run", tmp_path / "executed"
    bad = {name: tmp_path / name for name in ("cut.ckpt", "words.ckpt", "evil.ckpt", "raw.pth")}
    bad["cut.ckpt"].write_bytes(good.read_bytes()[:-2000])
    bad["words.ckpt"].write_text("<!DOCTYPE html>")
    torch.save({"state_dict": {}, "callbacks": Malicious(str(marker))}, bad["evil.ckpt"])
    bad["raw.pth"].write_bytes(pickle.dumps(Malicious(str(marker))))
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    bad |= {"some.zip": tmp_path / "some.zip", "none": tmp_path / "none.ckpt"}
    for path in bad.values():
        assert path.name in convert(path, "--model", "tiny-class", "--out", run).error
    assert not marker.exists() and not run.exists()

    other = convert(good, "--model", "tiny-measured", "--out", run).error
    assert "do not fit" in other and "seems to hold" in other
    assert "unknown model 'celeba'" in convert(good, "--model", "celeba", "--out", run).error
    assert "its data decides" in convert(good, "--model", "folder", "--out", run).error
    assert "--out" in convert(good, "--model", "tiny-class").error
    assert not run.exists()


def test_an_existing_directory_is_not_overwritten(file, tmp_path, convert):
    path, _ = file("tiny-class")
    words = [path, "--model", "tiny-class", "--out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert "not empty" in convert(*words, tmp_path / "mine").error
    assert convert(*words, tmp_path / "run").code == 0
    assert "is a run already" in convert(*words, tmp_path / "run").error


def test_check_compares_names_and_shapes_alone(file, tmp_path, convert):
    _, arrays = file("tiny-class")
    keys = {key: list(value.shape) for key, value in arrays.items()}

    def check(keys, model="tiny-class"):
        (tmp_path / "keys.json").write_text(json.dumps(keys))
        return convert("check", tmp_path / "keys.json", "--model", model)

    fits = check(keys)
    assert fits.code == 0 and "one to one: yes" in fits.out
    first = next(key for key in keys if key.startswith("first_stage_model."))
    for changed in (
        {key: shape for key, shape in keys.items() if key != first},
        keys | {first: [5, *keys[first]]},
        keys | {"first_stage_model.encoder.bonus": [3]},
    ):
        assert "do not fit" in check(changed).error
    assert "not a list of names" in check({"a": "b"}).error
    assert "is a folder" in convert("check", tmp_path, "--model", "tiny-class").error


@pytest.mark.skipif(not KEYS.exists(), reason="the published lists of names are not here")
@pytest.mark.parametrize("model", ["celeba256", "cin256-v2", "vq-f8"])
def test_published_lists_of_names_map_one_to_one(model, convert):
    """All of them: `tests/pretrained/test_names.py`."""
    ended = convert("check", KEYS / f"{model}.json", "--model", model)
    assert ended.code == 0 and "one to one: yes" in ended.out, ended
