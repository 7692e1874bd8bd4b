"""The command line starts fast and documents its commands."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from amsam_ray.cli.main import COMMANDS, cli


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def fastest(command: list[str], tries: int = 3) -> float:
    """Return the seconds of the fastest of a few runs, since other processes can only slow a run down."""
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_importing_the_package_is_fast_and_loads_no_torch() -> None:
    loaded = run("import amsam_ray, sys; print('torch' in sys.modules, 'ray' in sys.modules)").stdout
    assert loaded.split() == ["False", "False"]
    bare = fastest([sys.executable, "-c", "pass"])
    assert fastest([sys.executable, "-c", "import amsam_ray"]) - bare < 0.3


def test_help_answers_within_a_second() -> None:
    assert fastest([sys.executable, "-m", "amsam_ray.cli.main", "--help"]) < 1.0


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_has_help(name: str) -> None:
    module, attribute = COMMANDS[name][0].split(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    "module",
    [
        "amsam_ray",
        "amsam_ray.api",
        "amsam_ray.config.space_file",
        "amsam_ray.config.yaml_loader",
        "amsam_ray.config.methods",
        "amsam_ray.config.trial",
        "amsam_ray.data.definition",
    ],
)
def test_validation_needs_no_torch_and_no_ray(module: str) -> None:
    loaded = run(f"import {module}, sys; print([m for m in ('torch', 'ray', 'pandas') if m in sys.modules])").stdout
    assert loaded.strip() == "[]"
