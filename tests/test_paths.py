from __future__ import annotations

import ast
from pathlib import Path

import pytest

from amsam_ray import paths

PACKAGE = Path(__file__).parent.parent / "amsam_ray"


def test_cache_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "chosen"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("AMSAM_WEIGHTS_DIR", raising=False)
    assert paths.mirrors_dir() == tmp_path / "chosen/datasets"
    assert paths.prepared_dir() == tmp_path / "chosen/prepared"
    assert paths.detectors_dir() == tmp_path / "chosen/detectors"
    assert paths.ultralytics_dir() == tmp_path / "chosen/ultralytics"
    assert paths.index_dir() == tmp_path / "chosen/index"
    assert paths.log_dir() == tmp_path / "chosen/logs"
    assert paths.spool_dir("/results") == tmp_path / "chosen/spool/6e59d036a832840d"
    assert paths.weights_dir() == tmp_path / "user/amsam_ray/weights"
    monkeypatch.delenv("AMSAM_CACHE_DIR")
    assert paths.mirrors_dir() == tmp_path / "user/amsam_ray/datasets"
    assert paths.mirrors_dir(tmp_path) == tmp_path / "datasets"


def test_only_paths_reads_the_environment_for_cache_folders() -> None:
    variables = {"AMSAM_CACHE_DIR", "AMSAM_WEIGHTS_DIR", "XDG_CACHE_HOME"}
    readers = {
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in variables
    }
    assert readers == {"paths.py"}
