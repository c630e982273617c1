"""metrics.jsonl survives kills and resumes."""

import json

import numpy as np
import pytest

from ldm_jax.training.metrics import MetricsLog, read


def test_lines_come_back(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert read(log.path) == []
    log.append({"stage": "diffusion", "step": 10, "loss": np.float32(0.1), "fid": float("inf")})
    log.append({"stage": "diffusion", "step": 20, "loss": np.float64(1 / 3)})
    assert read(log.path) == [
        {"stage": "diffusion", "step": 10, "loss": 0.1, "fid": None},
        {"stage": "diffusion", "step": 20, "loss": 0.3333333},
    ]
    for line in log.path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: 1 / 0)  # strict JSON: no NaN, no Infinity


def test_a_resume_never_doubles_a_line(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.truncate_after("diffusion", 0)  # nothing to do yet
    for stage, steps in [("autoencoder", (10, 20, 30)), ("diffusion", (10, 20, 30))]:
        for step in steps:
            log.append({"stage": stage, "step": step})
    with log.path.open("a") as file:
        file.write('{"stage": "diffusion", "st')  # killed while writing
    log.truncate_after("diffusion", 20)
    log.append({"stage": "diffusion", "step": 30})
    assert [(r["stage"], r["step"]) for r in read(log.path)] == [
        *(("autoencoder", step) for step in (10, 20, 30)),
        *(("diffusion", step) for step in (10, 20, 30)),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_cut_short_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "diffusion", "step": 1}\n{"stage": "diffusion", "step": 2, "lo')
    assert read(path) == [{"stage": "diffusion", "step": 1}]
    MetricsLog(path).truncate_after("diffusion", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


LINE = b'{"stage": "diffusion", "step": 1, "loss": 0.5}\n'


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\xfe\x00\n",
        b"[" * 100_000 + b"\n",
        b"9" * 10_000 + b"\n",
        b"[]\nnull\n",
        b'{"step": 2}\n',
        b'{"stage": "diffusion", "step": "2"}\n',
        b'{"stage": "diffusion", "step": 2, "loss": [1]}\n',
        b'{"stage": "diffusion", "step": 2, "loss": 1e999}\n',
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_damaged_file_is_set_aside_and_goes_on_with_its_whole_lines(damage, tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(LINE + damage + LINE)
    log = MetricsLog(path)
    assert read(path) == [{"stage": "diffusion", "step": 1, "loss": 0.5}] * 2
    log.truncate_after("diffusion", 5)
    log.append({"stage": "diffusion", "step": 3})
    assert [record["step"] for record in read(path)] == [1, 1, 3]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == LINE + damage + LINE
    assert f"{path} was damaged; it is renamed to metrics.jsonl.damaged" in caplog.text


def test_a_folder_in_its_place_is_set_aside(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.mkdir()
    MetricsLog(path).truncate_after("diffusion", 5)
    MetricsLog(path).append({"stage": "diffusion", "step": 3})
    assert len(read(path)) == 1
