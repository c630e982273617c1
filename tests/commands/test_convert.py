"""Published weights become a run directory and come out of one: `python -m ldm_jax convert`."""

import json
import pickle
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.commands.train.run import main as train_main
from ldm_jax.model.run_dir import RunDir
from ldm_jax.pretrained.files import read_state_dict
from ldm_jax.pretrained.match import averaged

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
KEYS = Path(__file__).parents[3] / "shared" / "reference" / "keys"


def test_published_weights_draw_and_come_out_as_they_went_in(
    file, sample, tmp_path, convert, command, words_of
):
    path, arrays = file("class")
    run, out = tmp_path / "run", tmp_path / "out.ckpt"
    ended = convert(path, *words_of("class"), "--out", run)
    assert ended.code == 0, ended
    assert "unet: " in ended.out and "weights whose average is used" in ended.out

    words = ["--class-label", "3", "--num-images", "2", "--steps", "2", "--out", tmp_path / "a.png"]
    assert sample(run, *words).code == 0
    assert Image.open(tmp_path / "a.png").size[0] > 100
    again = command(train_main, [*words_of("class")[1:], "--run-dir", run])
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


def test_raw_weights_on_request_and_safetensors(file, tmp_path, convert, words_of):
    path, arrays = file("class", ".safetensors")
    key = "model.diffusion_model.input_blocks.0.0.weight"
    taken = {}
    for ema in ("True", "False"):
        run = tmp_path / ema
        assert convert(path, *words_of("class"), "--out", run, "--ema", ema).code == 0
        saved = RunDir(run).checkpoints("diffusion").restore_part(["ema"])["ema"]
        taken[ema] = saved["unet"]["conv_in"]["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(taken["True"], arrays[averaged(key)])
    np.testing.assert_array_equal(taken["False"], arrays[key])


def test_the_scale_factor_is_the_file_s_where_the_model_measured_it(
    file, tmp_path, convert, words_of
):
    path, _ = file("measured", scale_factor=np.float32(0.75))
    assert convert(path, *words_of("measured"), "--out", tmp_path / "run").code == 0
    saved = RunDir(tmp_path / "run").checkpoints("diffusion").restore_part(["constants"])
    assert saved["constants"]["scale_factor"] == 0.75
    path, _ = file("measured")
    refused = convert(path, *words_of("measured"), "--out", tmp_path / "other")
    assert "multiplied" in refused.error and not (tmp_path / "other" / "config.json").exists()


def test_a_first_stage_reconstructs_and_serves_another_run(
    file, sample, photographs, tmp_path, convert, words_of
):
    path, arrays = file("first")
    run = tmp_path / "run"
    assert convert(path, *words_of("first"), "--out", run).code == 0
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


def test_a_model_of_texts_takes_its_tokenizer_along(file, sample, tmp_path, convert, words_of):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "cube"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path, _ = file("text")
    run = tmp_path / "run"
    words = [path, *words_of("text"), "--out", run, "--tokenizer"]
    assert "tokenizer" in convert(*words, tmp_path / "gone.json").error
    assert convert(*words, tmp_path / "tokenizer.json").code == 0
    (tmp_path / "tokenizer.json").unlink()
    words = ["--prompt", "red cube", "--num-images", "1", "--steps", "2"]
    assert sample(run, *words, "--out", tmp_path / "a.png").code == 0
    model = ldm_jax.load(str(run))
    assert not np.array_equal(*(model.encode_conditions(model.parse(c)) for c in ("red", "cube")))

    # A pipeline's own tokenizer is used: nothing is downloaded
    pipeline, again = tmp_path / "pipeline", tmp_path / "again"
    assert convert("export", run, "--out", pipeline).code == 0
    (pipeline / "ldm_jax.json").unlink()  # so that it is like any other
    assert convert(pipeline, *words_of("text"), "--out", again).code == 0
    saved = (json.loads((one / "tokenizer.json").read_text()) for one in (run, again))
    assert next(saved) == next(saved)


def test_a_model_of_layouts_knows_its_objects_by_number_or_by_the_names_it_is_given(
    file, sample, tmp_path, convert, words_of
):
    path, _ = file("layout")
    convert_to = partial(convert, path, *words_of("layout"), "--out")
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


def test_only_models_that_call_something_by_name_take_names(file, tmp_path, convert, words_of):
    path, _ = file("measured")
    (tmp_path / "names.txt").write_text("a")
    words = [*words_of("measured"), "--out", tmp_path / "run"]
    error = convert(path, *words, "--names", tmp_path / "names.txt").error
    assert "classes or layouts" in error


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def test_a_file_that_does_not_fit_is_refused_in_one_line(file, tmp_path, convert, words_of):
    good, _ = file("class")
    run, marker = tmp_path / "run", tmp_path / "executed"
    bad = {name: tmp_path / name for name in ("cut.ckpt", "words.ckpt", "evil.ckpt", "raw.pth")}
    bad["cut.ckpt"].write_bytes(good.read_bytes()[:-2000])
    bad["words.ckpt"].write_text("<!DOCTYPE html>")
    torch.save({"callbacks": Malicious(str(marker))}, bad["evil.ckpt"])
    bad["raw.pth"].write_bytes(pickle.dumps(Malicious(str(marker))))
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    bad |= {"some.zip": tmp_path / "some.zip", "none": tmp_path / "none.ckpt"}
    for path in bad.values():
        assert path.name in convert(path, *words_of("class"), "--out", run).error
    assert not marker.exists() and not run.exists()

    other = convert(good, *words_of("measured"), "--out", run).error
    assert "do not fit" in other and "seems to hold" in other
    assert "unknown model 'celeba'" in convert(good, "--model", "celeba", "--out", run).error
    assert "its data decides" in convert(good, "--model", "folder", "--out", run).error
    assert "--out" in convert(good, *words_of("class")).error
    assert not run.exists()


def test_an_existing_directory_is_not_overwritten(file, tmp_path, convert, words_of):
    path, _ = file("class")
    words = [path, *words_of("class"), "--out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert "not empty" in convert(*words, tmp_path / "mine").error
    assert convert(*words, tmp_path / "run").code == 0
    assert "is a run already" in convert(*words, tmp_path / "run").error


def test_check_compares_names_and_shapes_alone(file, tmp_path, convert, words_of):
    _, arrays = file("class")
    keys = {key: list(value.shape) for key, value in arrays.items()}

    def check(keys):
        (tmp_path / "keys.json").write_text(json.dumps(keys))
        return convert("check", tmp_path / "keys.json", *words_of("class"))

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
    assert "has no weights" in convert("check", tmp_path, *words_of("class")).error


@pytest.mark.skipif(not KEYS.exists(), reason="the published lists of names are not here")
@pytest.mark.parametrize("model", ["celeba256", "cin256-v2", "vq-f8"])
def test_published_lists_of_names_map_one_to_one(model, convert):
    """All of them: `tests/pretrained/test_names.py`."""
    ended = convert("check", KEYS / f"{model}.json", "--model", model)
    assert ended.code == 0 and "one to one: yes" in ended.out, ended
