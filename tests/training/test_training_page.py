"""The snippet of docs/training.md runs as printed."""

import re
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_snippet_runs(tmp_path, monkeypatch, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(snippet, str(PAGE), "exec"), names)
    assert capsys.readouterr().out.startswith("completed ")
    assert names["result"].test_images
    ((mask, probability, box),) = names["predictor"]([np.zeros((40, 60, 3), np.uint8)])
    assert mask.shape == probability.shape == (40, 60) and box is None
