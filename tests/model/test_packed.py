"""The file of a stage's weights in a packed run."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.model.packed import encoder_digest, packed_step, read_packed, write_packed

TREE = {
    "params": {
        "unet": {
            "down": {0: {"kernel": np.float32([[1.0, 1.00390625], [-3.14159, 1e-30]])}},
            "bias": np.zeros(2, np.float32),
        }
    },
    "scale_factor": np.float32(0.7654321),
}


def test_what_is_read_is_what_was_written_rounded_to_bfloat16(tmp_path):
    file = tmp_path / "diffusion.npz"
    assert write_packed(file, 70_000, TREE)
    found = read_packed(file)
    kernel, wanted = (t["params"]["unet"]["down"][0]["kernel"] for t in (found, TREE))
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, np.asarray(wanted.astype(jnp.bfloat16), np.float32))
    np.testing.assert_allclose(kernel, wanted, rtol=2**-8)
    assert found["scale_factor"] == TREE["scale_factor"]  # scalars stay as they are
    assert packed_step(file) == 70_000


def test_it_is_arrays_without_pickles_under_the_names_of_the_parameters(tmp_path):
    write_packed(tmp_path / "a.npz", 5, TREE)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        types = {name: file[name].dtype.name for name in file.files}
    assert types == {
        "step": "int64",
        "params/unet/bias": "uint16",
        "params/unet/down/0/kernel": "uint16",
        "scale_factor": "float32",
    }


def test_equal_weights_are_equal_bytes_whatever_their_order(tmp_path):
    file, other = tmp_path / "a.npz", tmp_path / "b.npz"
    write_packed(file, 5, TREE)
    write_packed(other, 5, dict(reversed(TREE.items())))
    assert file.read_bytes() == other.read_bytes()
    assert not write_packed(file, 5, TREE)  # nor is it written again
    assert not write_packed(file, 5, read_packed(file))
    assert write_packed(file, 6, TREE)


def test_the_digest_is_of_the_packed_weights_of_the_encoder(tmp_path):
    parts = ("encoder", "quant_conv", "decoder", "post_quant_conv")
    tree = {name: {"kernel": np.float32([0.1, i])} for i, name in enumerate(parts)}
    write_packed(tmp_path / "a.npz", 5, tree)
    assert encoder_digest(read_packed(tmp_path / "a.npz")) == encoder_digest(tree)

    def with_other(part):
        return encoder_digest(tree | {part: {"kernel": np.float32([0.2, 0])}})

    same = [with_other(part) == encoder_digest(tree) for part in parts]
    assert same == [False, False, True, True]


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"words"])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="a.npz cannot be read as an .npz of arrays"):
        read_packed(tmp_path / "a.npz")
