"""What the README shows is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from amsam_ray.cli.main import COMMANDS, cli
from amsam_ray.search.space_file import parse_space
from scripts.readme_demo import fill, space_block

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
LINES = [line.split("#")[0].split() for kind, body in BLOCKS if not kind for line in body.splitlines()]
CALLS = [line for line in LINES if line[:1] == ["amsam-ray"]]


def test_the_demos_space_file_is_the_shipped_one() -> None:
    assert fill(README, "demo.yaml", space_block()) == README, "run: python -m scripts.readme_demo results"


def test_space_files_shown_are_valid() -> None:
    shown = [parse_space(yaml.safe_load(body)) for kind, body in BLOCKS if kind == "yaml"]
    assert [space.name for space in shown] == ["demo", "mine"]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_commands_shown_exist_with_their_options(call: list[str]) -> None:
    words = [word for word in call[1:] if word in COMMANDS or word in ("check", "show", "list", "fetch", "train")][:2]
    usage = CliRunner().invoke(cli, [*words, "--help"])
    assert usage.exit_code == 0, usage.output
    assert all(option in usage.output for option in call if option.startswith("--"))


def test_the_make_targets_shown_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    shown = [line[1] for line in LINES if line[:1] == ["make"]]
    assert shown == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in shown)
