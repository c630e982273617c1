"""Bad command lines of `python sample.py`, each one line, before any model is opened."""

import pytest


@pytest.mark.parametrize(
    "words, said",
    [
        (["--num-samples", 3], ["there is no option --num-samples", "--num-images"]),
        (["run", "--caption", "a b"], ["no option --caption; perhaps you meant --prompt"]),
        (["run", "--ddim_steps", 50], ["perhaps you meant --steps"]),
        (["run", "--scale", 3], ["perhaps you meant --guidance"]),
        (["run", "-n", 3], ["there is no option -n; perhaps you meant --num-images"]),
        (["run", "--outdir", "x"], ["perhaps you meant --out"]),
        (["run", "--H", 512], ["perhaps you meant --height"]),
        (["run", "extra"], ["'extra' belongs to no option"]),
        (["run", "--seed"], ["Missing value", "--seed"]),
        (["run", "--seed", "--steps", 3], ["Missing value", "--seed"]),
        (["run", "--seed", "x"], ["--seed", "int", "'x'"]),
        (["run", "--seed", 2**32], ["--seed is 4294967296; it must be less than 4294967296"]),
        (["run", "--steps", 10**30], ["--steps is 1000", "at most 2147483647"]),
        (["run", "--steps", -1], ["--steps is -1; it must be at least 1"]),
        (["run", "--guidance", "nan"], ["--guidance is nan; it must be a finite number"]),
        (["run", "--guidance", "1e39"], ["--guidance is 1e+39; it must be at most 3.4"]),
        (["run", "--guidance", "-inf"], ["--guidance is -inf; it must be a finite number"]),
        (["run", "--eta", 1, "--temperature", "nan"], ["--temperature is nan; it must be a f"]),
        (["run", "--temperature", -1], ["--temperature is -1.0; it must be at least 0"]),
        (["run", "--guide-scale", "inf"], ["--guide-scale is inf; it must be a finite number"]),
        (["run", "--strength", "nan"], ["--strength is nan; it must be a finite number"]),
        (["run", "--height", 400_000_000], ["--height is 400000000; it must be at most 16384"]),
        (["run", "--width", -8], ["--width is -8; it must be at least 1"]),
        (["run", "--window", 0], ["--window is 0; it must be at least 1"]),
        (["run", "--tile", 10**20], ["--tile is 100000000000000000000; it must be at most"]),
        (["run", "--num-images", 10**9], ["--num-images is 1000000000; it must be at most"]),
        (["run", "--batch-size", 10**9], ["--batch-size is 1000000000; it must be at most"]),
        (["run", "--outpaint", 100_000], ["--outpaint is (100000,); it must be at most 16384"]),
        (["run", "--interpolate", 0], ["--interpolate is 0; it must be at least 2"]),
        (["run", "--guide-factor", -1], ["--guide-factor is -1; it must be at least 1"]),
        (["run", "--trajectory", -1], ["--trajectory is -1; it must be at least 0"]),
        (["run", "--out", "folder.png"], ["folder.png is a folder; it is to be a file"]),
        (["run", "--out", "file"], ["file cannot be written to", "file is not a folder"]),
        (["run", "--out", "file/x/y.png"], ["file is not a folder"]),
        (["run", "--out", "/proc/x.png"], ["/proc cannot be written to"]),
        (["run", "--out", "x.webp"], ["--out is 'x.webp'", ".png"]),
        (["run", "--out", "hdfs://a/b.png"], ["paths that begin with hdfs:// are not known"]),
        (["run", "--out", f"{'long' * 100}.png"], ["a name of 404 letters is too long"]),
        (["hdfs://a/b"], ["hdfs://a/b: paths that begin with hdfs:// are not known"]),
        (["nowhere"], ["nowhere is no run directory"]),
        (["file"], ["file"]),
        (["folder.png"], ["folder.png is no run directory"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if len(str(value)) < 60 else "",
)
def test_a_bad_command_line_is_one_line_and_leaves_nothing(
    words, said, sample, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    error = sample(*words).error
    assert all(part in error for part in said), error
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.png"}
