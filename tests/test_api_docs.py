"""The Python of the README and of docs/api.md runs, with a tiny run in place of runs/scenes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_python_examples_run(page, smoke, tmp_path, monkeypatch):
    ended, run = smoke
    assert ended.code == 0, ended.err
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert blocks and "runs/scenes" in blocks[0]
    monkeypatch.chdir(tmp_path)  # where the examples write their files
    names = {}
    for number, block in enumerate(blocks, 1):
        code = compile(block.replace("runs/scenes", str(run)), f"{page}, example {number}", "exec")
        exec(code, names)
