"""Texts on the command line: each is used, or refused in one line with exit status 1 or 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from amsam_ray.cli.main import main
from amsam_ray.errors import InputError
from tests.fuzz.harness import attempt
from tests.fuzz.hostile import TEXTS
from tests.fuzz.test_records import assert_harmless

COMMANDS = {
    "tune --space": ["tune", "--space", "{}"],
    "leaderboard --storage": ["leaderboard", "--storage", "{}"],
    "report --storage": ["report", "--storage", "{}"],
    "report --out": ["report", "--storage", ".", "--out", "{}"],
    "status --storage": ["status", "--storage", "{}"],
    "show --storage": ["show", "x", "--storage", "{}"],
    "data check": ["data", "check", "{}"],
    "data detect": ["data", "detect", "{}"],
    "data check --root": ["data", "check", "folder", "--root", "{}"],
    "data check --option": ["data", "check", "procedural", "--option", "family={}"],
    "data list --data-root": ["data", "list", "--data-root", "{}"],
    "predict": ["predict", "{}", "--adapter", "x.safetensors", "--out", "o"],
    "predict --adapter": ["predict", "a.png", "--adapter", "{}", "--out", "o"],
    "methods show": ["methods", "show", "{}"],
    "weights fetch": ["weights", "fetch", "{}"],
    "leaderboard --dataset": ["leaderboard", "--storage", ".", "--dataset", "{}"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_texts(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMSAM_DATA", raising=False)
    (tmp_path / "a.png").write_bytes(b"x")
    for text in (*TEXTS, "\udcff"):  # a byte that is not UTF-8
        if set(text) & {"\0", "\ud800"} or text.startswith("s3://"):
            continue  # no argument of a process holds these characters, and test_s3_listings.py has a server
        arguments = [part.replace("{}", text) for part in COMMANDS[command]]

        def call(arguments: list[str] = arguments) -> None:
            try:
                main(arguments)
            except SystemExit as ended:
                if ended.code:
                    assert ended.code in (1, 2)
                    raise InputError(f"status {ended.code}") from None

        capfd.readouterr()
        attempt("command line", call)
        error = capfd.readouterr().err
        assert "Traceback" not in error
        assert_harmless(error)
