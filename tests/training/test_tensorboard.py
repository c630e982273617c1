"""Event files for TensorBoard, read back."""

import struct
import sys

import numpy as np
import pytest

from ldm_jax.errors import UserError
from ldm_jax.training.metrics import MetricsLog, read
from ldm_jax.training.tensorboard import TensorBoard, check_installed

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def events(folder):
    """Every event of a folder, in order: a file is a row of (length, checksum, event, checksum)."""
    for file in sorted(folder.glob("events.out.tfevents.*"), key=lambda f: f.stat().st_mtime_ns):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def scalars(folder):
    """(step, name) -> value, as TensorBoard shows them: a start purges what came after it."""
    found = {}
    for event in events(folder):
        if event.HasField("session_log"):
            found = {key: value for key, value in found.items() if key[0] < event.step}
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[event.step, value.tag] = value.simple_value
    return found


def test_what_the_metrics_say_is_logged_but_for_what_is_not_finite(tmp_path):
    board = TensorBoard(tmp_path / "board", 0)
    log = MetricsLog(tmp_path / "metrics.jsonl").heard_by(board.record)
    log.append({"stage": "autoencoder", "step": 5, "loss": np.float32(0.25), "kl": float("nan")})
    log.append({"stage": "autoencoder", "step": 10, "loss": 0.125})
    board.close()
    assert scalars(tmp_path / "board") == {(5, "loss"): 0.25, (10, "loss"): 0.125}
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl")] == [5, 10]


def test_a_start_from_a_checkpoint_takes_back_what_came_after_it(tmp_path):
    for start, steps, value in ((0, (5, 10, 15), 1.0), (10, (15, 20), 2.0)):
        board = TensorBoard(tmp_path, start)
        for step in steps:
            board.record({"stage": "diffusion", "step": step, "loss": value})
        board.close()
    found = {step: value for (step, _), value in scalars(tmp_path).items()}
    assert found == {5: 1.0, 10: 1.0, 15: 2.0, 20: 2.0}


def test_an_image_is_logged_as_it_is(tmp_path):
    from io import BytesIO

    from PIL import Image

    x = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    board = TensorBoard(tmp_path, 0)
    board.image(7, "preview", x)
    board.close()
    [(step, image)] = [
        (event.step, value.image)
        for event in events(tmp_path)
        for value in event.summary.value
        if value.HasField("image")
    ]
    shown = Image.open(BytesIO(image.encoded_image_string))
    assert step == 7 and np.array_equal(np.asarray(shown), x)


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "tensorboardX.py").write_text("raise ImportError('there is none')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [one for one in sys.modules if one.partition(".")[0] == "tensorboardX"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r'there is none\): pip install "ldm_jax\[tensorboard\]"'):
        check_installed()
