"""Published LPIPS weights: each form of file gives the same parameters, other files are refused."""

from pathlib import Path

import jax
import numpy as np
import pytest

from ldm_jax.autoencoder.perceptual import abstract_params
from ldm_jax.errors import UserError
from ldm_jax.pretrained.lpips import HEADS, load_lpips

REAL = Path(__file__).parents[2].parent / "shared/data/lpips_squeeze/squeezenet11_lpips.npz"
VGG16 = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512]  # 0: pool
TAPS = {"vgg16": (64, 128, 256, 512, 512), "squeezenet": (64, 128, 256, 384, 384, 512, 512)}
FIRES = {3: 128, 4: 128, 6: 256, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512}


def torchvision(network):
    """A state dict like torchvision's, in random numbers; its names count the modules."""
    rng, shapes = np.random.default_rng(0), {}

    def conv(name, size, c_in, c_out):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (c_out, c_in, size, size), (c_out,)

    if network == "vgg16":
        index, c_in = 0, 3
        for width in VGG16:
            if width:
                conv(f"features.{index}", 3, c_in, width)
                c_in = width
            index += 2 if width else 1  # a convolution is followed by its ReLU
        shapes |= {"classifier.0.weight": (2, 7), "classifier.0.bias": (2,)}
    else:
        conv("features.0", 3, 3, 64)
        c_in = 64
        for index, width in FIRES.items():
            conv(f"features.{index}.squeeze", 1, c_in, width // 8)
            conv(f"features.{index}.expand1x1", 1, width // 8, width // 2)
            conv(f"features.{index}.expand3x3", 3, width // 8, width // 2)
            c_in = width
        shapes["classifier.1.weight"] = (2, 512, 1, 1)
    return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def first_stage():
    """The loss of a published first stage, as in its checkpoint, beside some of its own arrays."""
    state, slices = {"encoder.conv_in.bias": np.zeros(4, np.float32)}, [0, 5, 10, 17, 24, 31]
    for name, array in torchvision("vgg16").items():
        if name.startswith("features."):
            index = int(name.split(".")[1])
            block = sum(index >= start for start in slices)
            state[name.replace("features.", f"loss.perceptual_loss.net.slice{block}.")] = array
    for i, width in enumerate((64, 128, 256, 512, 512)):
        head = np.random.default_rng(i).random((1, width, 1, 1), np.float32)
        state[f"loss.perceptual_loss.lin{i}.model.1.weight"] = head
    state["loss.perceptual_loss.scaling_layer.shift"] = np.zeros((1, 3, 1, 1), np.float32)
    return state


def write(file, state):
    if file.suffix == ".safetensors":
        pytest.importorskip("safetensors")
        from safetensors.numpy import save_file

        save_file(state, file)
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in state.items()}, file)
    return file


def squeezenet_npz(file, **changes):
    arrays = {
        name.removeprefix("features.").replace(".", "_"): array.transpose(2, 3, 1, 0)
        if array.ndim == 4
        else array
        for name, array in torchvision("squeezenet").items()
        if name.startswith("features.")
    }
    heads = {f"head{i}": np.full(n, i, np.float32) for i, n in enumerate(TAPS["squeezenet"])}
    arrays = {**arrays, **heads, "shift": np.zeros(3), "conv10_weight": np.zeros((5, 6))} | changes
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    return file


def leaves_in_order(network, params):
    """(kernel, bias) of each convolution, in the order of the network."""
    for name in sorted(set(params) - {"heads"}):
        module = params[name]
        parts = ("squeeze", "expand1x1", "expand3x3") if name.startswith("fire") else ()
        for layer in [module[part] for part in parts] or [module]:
            yield layer["kernel"], layer["bias"]


def assert_same_convolutions(network, params, state):
    expected = [array for name, array in state.items() if name.startswith("features.")]
    found = [array for layer in leaves_in_order(network, params) for array in layer]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        theirs = theirs.transpose(2, 3, 1, 0) if theirs.ndim == 4 else theirs
        np.testing.assert_array_equal(ours, theirs)


def assert_complete(network, params):
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
        lambda a: (a.shape, a.dtype), abstract_params(network)
    )
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))


# ---- what is read ----


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("network", ["vgg16", "squeezenet"])
def test_a_state_dict_of_torchvision_gets_the_heads_kept_here(tmp_path, network, suffix):
    state = torchvision(network)
    params = load_lpips(network, write(tmp_path / f"network{suffix}", state))
    assert_complete(network, params)
    assert_same_convolutions(network, params, state)
    with np.load(HEADS) as heads:
        for i, head in enumerate(params["heads"].values()):
            np.testing.assert_array_equal(head, heads[f"{network}/head{i}"])


def test_a_first_stage_carries_network_and_heads(tmp_path):
    state = first_stage()
    params = load_lpips("vgg16", write(tmp_path / "model.safetensors", state))
    assert_complete("vgg16", params)
    assert_same_convolutions("vgg16", params, torchvision("vgg16"))
    for i, head in enumerate(params["heads"].values()):
        expected = state[f"loss.perceptual_loss.lin{i}.model.1.weight"]
        np.testing.assert_array_equal(head, expected.reshape(-1))


def test_an_npz_carries_network_and_heads(tmp_path):
    params = load_lpips("squeezenet", squeezenet_npz(tmp_path / "lpips.npz"))
    assert_complete("squeezenet", params)
    assert_same_convolutions("squeezenet", params, torchvision("squeezenet"))
    assert [head[0] for head in params["heads"].values()] == list(range(7))


def test_no_file_means_the_published_one(tmp_path):
    file, asked = write(tmp_path / "s.safetensors", torchvision("squeezenet")), []
    params = load_lpips("squeezenet", fetch=lambda *args: asked.append(args) or file)
    assert_complete("squeezenet", params)
    ((url, sha256),) = asked
    # torchvision's files carry the beginning of their hash in their name
    assert url.startswith("https://download.pytorch.org/models/squeezenet1_1-")
    assert len(sha256) == 64 and url.endswith(f"-{sha256[:8]}.pth")


def test_the_heads_kept_here_are_the_published_ones():
    with np.load(HEADS) as heads:
        assert len(heads.files) == 12
        for network, widths in TAPS.items():
            for i, width in enumerate(widths):
                head = heads[f"{network}/head{i}"]
                assert head.shape == (width,) and head.dtype == np.float32 and np.all(head >= 0)
        if REAL.exists():
            with np.load(REAL) as real:
                for i in range(7):
                    np.testing.assert_array_equal(heads[f"squeezenet/head{i}"], real[f"head{i}"])
    assert "Richard Zhang" in HEADS.with_name("LICENSE.lpips").read_text()


# ---- what is refused ----


def refusal(network, file):
    with pytest.raises(UserError) as error:
        load_lpips(network, file)
    message = str(error.value)
    assert "\n" not in message and Path(file).name in message
    return message


def test_the_other_network_is_refused(tmp_path):
    file = write(tmp_path / "vgg16.safetensors", torchvision("vgg16"))
    assert "LPIPS with squeezenet: fire2" in refusal("squeezenet", file)
    file = write(tmp_path / "squeezenet.safetensors", torchvision("squeezenet"))
    assert "LPIPS with vgg16: conv1_2" in refusal("vgg16", file)
    file = write(tmp_path / "first_stage.safetensors", first_stage())
    assert "LPIPS with squeezenet" in refusal("squeezenet", file)
    assert "LPIPS with vgg16" in refusal("vgg16", squeezenet_npz(tmp_path / "lpips.npz"))


def test_missing_and_wrongly_shaped_arrays_are_named(tmp_path):
    file = tmp_path / "lpips.npz"
    squeezenet_npz(file, **{"4_expand3x3_bias": None})
    assert "fire3.expand3x3.bias is missing" in refusal("squeezenet", file)
    squeezenet_npz(file, head6=None)
    assert "heads.fire9 is missing" in refusal("squeezenet", file)
    squeezenet_npz(file, **{"0_weight": np.zeros((7, 7, 3, 96))})
    assert "conv1.kernel has the shape (7, 7, 3, 96), not (3, 3, 3, 64)" in refusal(
        "squeezenet", file
    )


def test_files_without_lpips_are_refused(tmp_path):
    file = write(tmp_path / "other.safetensors", {"encoder.conv_in.bias": np.zeros(3, np.float32)})
    assert "holds no LPIPS weights" in refusal("vgg16", file)
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    assert "conv1.bias is missing" in refusal("squeezenet", tmp_path / "other.npz")


def test_unreadable_npz_files_are_refused(tmp_path):
    whole = squeezenet_npz(tmp_path / "whole.npz").read_bytes()
    objects = tmp_path / "objects.npz"
    np.savez(objects, head0=np.array([{}], object), allow_pickle=True)
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:500] + whole[900:]):
        (tmp_path / "damaged.npz").write_bytes(content)
        assert "cannot be read" in refusal("squeezenet", tmp_path / "damaged.npz")
    for file in (objects, tmp_path / "nowhere.npz", tmp_path):
        refusal("squeezenet", file)
