"""Command lines run inside the test process or as real ones, tiny experiments, tiny real data."""

import contextlib
import fcntl
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.exit_code import ExitCode
from ldm_jax.commands.sample.run import main as sample_main
from ldm_jax.commands.train.run import main as train_main
from ldm_jax.model.load import load_run
from ldm_jax.model.run_dir import RunDir
from ldm_jax.training.sharding import make_mesh

REPOSITORY = Path(__file__).parents[1]

# The smallest networks that have all parts, on 8x8 images: for runs on other data than scenes.
TINY = """
    --data.size 8
    --autoencoder.network.channels 4 --autoencoder.network.groups 2
    --autoencoder.network.channel-mult 1 --autoencoder.network.num-res-blocks 1
    --autoencoder.network.z-channels 2 --autoencoder.network.mid-attention False
    --autoencoder.loss.disc-weight 0 --autoencoder.loss.perceptual-weight 0
    --autoencoder.optimiser.warmup-steps 0 --autoencoder.optimiser.schedule constant
    --autoencoder.batch-size 4 --autoencoder.steps 4
    --autoencoder.progress.log-every 2 --autoencoder.progress.save-every 2
    --diffusion.unet.channels 8 --diffusion.unet.groups 4 --diffusion.unet.head-channels 4
    --diffusion.unet.channel-mult 1 --diffusion.unet.num-res-blocks 1
    --diffusion.unet.attention-factors
    --diffusion.text.dim 8 --diffusion.text.depth 1 --diffusion.text.heads 1
    --diffusion.class-dim 8
    --diffusion.optimiser.warmup-steps 0 --diffusion.optimiser.schedule constant
    --diffusion.batch-size 4 --diffusion.steps 4 --diffusion.ema-decay 0.9
    --diffusion.progress.log-every 2 --diffusion.progress.save-every 2
    --classifier.unet.channels 8 --classifier.unet.groups 4 --classifier.unet.head-channels 4
    --classifier.unet.channel-mult 1 --classifier.unet.num-res-blocks 1
    --classifier.unet.attention-factors
    --classifier.optimiser.warmup-steps 0 --classifier.optimiser.schedule constant
    --classifier.batch-size 4 --classifier.steps 4
    --classifier.progress.log-every 2 --classifier.progress.save-every 2
    --sampling.steps 2 --evaluation.num-images 16
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a refusal, after `error: `; anything else fails the test."""
        lines = self.err.splitlines()
        assert (self.code, len(lines)) == (2, 1) and lines[0].startswith("error: "), self
        return lines[0].removeprefix("error: ")


def called(main, words) -> Ended:
    """A command line run in this process, which it leaves as it was."""
    root, out, err = logging.getLogger(), io.StringIO(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # pytest's own would be closed
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with ExitCode() as status:
                main([str(word) for word in words])
    finally:
        root.handlers, root.level = handlers, level
    return Ended(status.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """The scenes that are drawn go where they are forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDM_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def command():
    """`command(main, words)` runs a command line in this process."""
    return called


@pytest.fixture(scope="session")
def train():
    """`train('smoke', '--seed', 1)` is `python train.py smoke --seed 1` on all eight devices."""
    return lambda *words: called(train_main, words)


@pytest.fixture(scope="session")
def one_device():
    return make_mesh(1, 1, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def train_tiny():
    """`train_tiny('folder', '--data.path', p)` trains the smallest networks, on one device."""

    def run(experiment, *words):
        return called(train_main, [experiment, "--mesh.data", "1", *TINY.split(), *words])

    return run


@pytest.fixture(scope="session")
def loaded():
    """`loaded(path)` is the model of a run, opened once: what it has compiled is shared."""
    models = {}

    def load(path):
        run = path if isinstance(path, RunDir) else RunDir(path)
        key = str(run.path), run.checkpoints("diffusion").latest_step()
        if key not in models:
            models[key] = load_run(run)
        return models[key]

    return load


@pytest.fixture(scope="session")
def sample(loaded):
    """`sample(run, '--prompt', 'a cube')` is `python sample.py run --prompt 'a cube'`."""
    return lambda *words: called(partial(sample_main, load=loaded), words)


@pytest.fixture(scope="session")
def process():
    """Starts `python SCRIPT words...` as a real process that sees one device.

    environment: what else is set in it; None: not set. options: of `subprocess.Popen`.
    """
    started = []

    def start(script, *words, environment=None, **options):
        one_device = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
        variables = os.environ | one_device | (environment or {})
        variables = {name: value for name, value in variables.items() if value is not None}
        command = [sys.executable, str(REPOSITORY / script), *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=variables, **pipes, **options))
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
            one.communicate()


@pytest.fixture(scope="session")
def ended():
    """Waits for a process."""

    def wait(one):
        out, err = one.communicate(timeout=1200)
        return Ended(one.returncode, out, err)

    return wait


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """`made_once("name", make)`: (how `make(path)` ended, the run directory that it made).

    One of pytest's processes makes it, while the others wait; each has a copy of its own.
    """
    own, shared = tmp_path_factory.mktemp("runs"), tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    shared = shared / "made_once"
    shared.mkdir(exist_ok=True)
    copies = {}

    def run(name, make):
        if name not in copies:
            path, note = shared / name, shared / f"{name}.json"
            with (shared / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not note.exists():
                    shutil.rmtree(path, ignore_errors=True)  # of one that has failed
                    ended = make(path)
                    note.write_text(json.dumps([ended.code, ended.out, ended.err]))
            copy = shutil.copytree(path, own / name)
            code, *texts = json.loads(note.read_text())
            copies[name] = Ended(code, *(t.replace(str(path), str(copy)) for t in texts)), copy
        return copies[name]

    return run


@pytest.fixture(scope="session")
def smoke(made_once, process, ended):
    """(`python train.py smoke`, how it ended; its run directory): the run that nothing disturbs."""
    return made_once("smoke", lambda p: ended(process("train.py", "smoke", "--run-dir", p)))


@pytest.fixture(scope="session")
def classified(made_once, smoke, process, ended):
    """(how training a classifier ended, the run directory): beside all that smoke has left."""

    def make(path):
        shutil.copytree(smoke[1], path)
        return ended(process("train.py", "smoke", "--run-dir", path, "--stage", "classifier"))

    return made_once("classified", make)


@pytest.fixture(scope="session")
def parts():
    """All that the newest checkpoint of a stage holds, as bytes by name."""

    def read(run, stage):
        names = ["step", "params", "opt_state"] + ["ema", "constants"] * (stage != "autoencoder")
        state = RunDir(run).checkpoints(stage).restore_part(names)
        leaves, _ = jax.tree_util.tree_flatten_with_path(state)
        return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}

    return read


COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


def image(i):
    """(A square at a place of its own on a grey ground, 20x18; the name of its colour)."""
    colour = list(COLOURS)[i % 2]
    pixels = np.full((18, 20, 3), 20 * i, np.uint8)
    pixels[4 : 12 + i % 3, 3 + i % 4 : 14] = COLOURS[colour]
    return Image.fromarray(pixels), colour


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Folders of ten images: `flat`, `classes` (a sub-folder each), `captions` (a .txt each)."""
    root = tmp_path_factory.mktemp("photographs")
    for i in range(10):
        square, colour = image(i)
        for folder in ("flat", f"classes/{colour}", "captions"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            square.save(root / folder / f"{i}.png")
        (root / "captions" / f"{i}.txt").write_text(f"a {colour} square\n")
    return root


@pytest.fixture(scope="session")
def trained(made_once, train_tiny, photographs):
    """`trained('flat')` etc.: (how training on that folder ended, its run directory), done once."""
    views = {"flat": ("random", True), "classes": ("centre", True), "captions": ("centre", False)}

    def run(layout):
        crop, flip = views[layout]
        words = ["--data.path", photographs / layout, "--data.crop", crop, "--data.flip", flip]
        return made_once(layout, lambda path: train_tiny("folder", *words, "--run-dir", path))

    return run


@pytest.fixture(scope="session")
def damage():
    """Changes a few bytes of a checkpoint, as a bad disk would."""

    def change(run, stage, step):
        files = (run / "checkpoints" / stage / str(step)).rglob("d/*")
        file = next(path for path in files if path.stat().st_size > 200)
        file.write_bytes(file.read_bytes()[:-9] + b"different")

    return change


@pytest.fixture(scope="session")
def trained_task(made_once, train_tiny):
    """`trained_task('layout')`: (how training scenes-layout ended, its run directory), once."""

    def run(kind):
        words = ["--data.count", 16, "--data.validation-count", 16, "--data.size", 32]
        words += ["--evaluation.judged-images", 16]
        words += ["--autoencoder.network.channel-mult", 1, 2]
        words += ["--autoencoder.loss.perceptual-weight", 0]
        first = "" if kind == "none" else run("none")[1]  # one for all
        words += ["--autoencoder.from-run", first]
        name = "scenes-unconditional" if kind == "none" else f"scenes-{kind}"
        return made_once(name, lambda path: train_tiny(name, *words, "--run-dir", path))

    return run


@pytest.fixture(scope="session")
def of_classes(made_once, trained, train_tiny, photographs):
    """The run directory of `trained('classes')`, with a classifier too."""
    words = ["--data.path", photographs / "classes", "--data.crop", "centre", "--data.flip", True]

    def make(path):
        shutil.copytree(trained("classes")[1], path)
        return train_tiny("folder", *words, "--run-dir", path, "--stage", "classifier")

    ended, run = made_once("classes-classified", make)
    assert ended.code == 0, ended.err
    return run
