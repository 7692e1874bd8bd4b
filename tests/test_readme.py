"""The README's space files, commands and make targets exist and work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from amsam_ray.cli.main import COMMANDS, cli
from amsam_ray.config.space_file import parse_space
from amsam_ray.search.cells import make_cells
from tests.records.synthetic import Folder, write_sweep
from tools.readme_demo import fill, space_block

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
LINES = [line.split("#")[0].split() for kind, body in BLOCKS if not kind for line in body.splitlines()]
CALLS = [line for line in LINES if line[:1] == ["amsam-ray"]]
SPACES = [parse_space(yaml.safe_load(body)) for kind, body in BLOCKS if kind == "yaml"]


def test_the_demo_block_equals_the_shipped_space_file() -> None:
    assert fill(README, "demo.yaml", space_block()) == README, "run: python -m tools.readme_demo results"


def test_space_files_shown_are_valid() -> None:
    assert [space.name for space in SPACES] == ["demo", "mine"]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_commands_shown_exist_with_their_options(call: list[str]) -> None:
    words = [word for word in call[1:] if word in COMMANDS or word in ("check", "show", "list", "fetch", "train")][:2]
    usage = CliRunner().invoke(cli, [*words, "--help"])
    assert usage.exit_code == 0, usage.output
    assert all(option in usage.output for option in call if option.startswith("--"))


def test_commands_that_read_results_run_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    write_sweep(Folder(tmp_path / "results"), tmp_path, datasets=["lesion"], shots=[8], trials=4)
    readers = {"leaderboard", "show", "compare", "report"}
    shown = [call[1:] for call in CALLS if call[1] in readers]
    assert {call[0] for call in shown} == readers
    for call in shown:
        result = CliRunner().invoke(cli, call)
        assert result.exit_code == 0, f"{call}: {result.output} {result.exception}"
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("name", ["export", "predict"])
def test_models_shown_are_cells_of_the_space_files_shown(name: str) -> None:
    cells = {cell.id for space in SPACES for cell in make_cells(space) if cell.space}
    models = [word for call in CALLS if call[1] == name for word in call if re.fullmatch(r"\w+\.k\d+\.\w+", word)]
    assert models and set(models) <= cells


def test_the_make_targets_shown_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    shown = [line[1] for line in LINES if line[:1] == ["make"]]
    assert shown == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in shown)
