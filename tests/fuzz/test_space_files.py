"""Space files: whatever is accepted can be planned, stored and read back."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_file import load_space, parse_space, space_hash, sweep_id
from amsam_ray.errors import InputError
from amsam_ray.search.cells import make_cells
from amsam_ray.search.checks import all_problems
from amsam_ray.search.samplers import check_sampler, optuna_distribution
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.hostile import mutated

SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
SPACES = [yaml.safe_load(path.read_text()) for path in SHIPPED]
TEXTS = [path.read_text() for path in SHIPPED]
DEEP = "a: " + "[" * 5000
BASE = "name: x\ndatasets: [{name: procedural, options: {family: lesion}}]\nshots: [4]\nmethods: [am_sam]\n"

# Inputs that made an earlier version fail, hang or accept nonsense.
KNOWN: dict[str, str | bytes] = {
    "infinite reduction": BASE + "search: {scheduler: {reduction: .inf}}",
    "gigantic top_k": BASE + "finals: {top_k: 1000000000000}",
    "gigantic seeds": BASE + "finals: {seeds: 99999999999}",
    "gigantic gpus": BASE + "resources: {gpus_per_lane: 1.0e308}",
    "gigantic int range": BASE + "search: {space: {rank: {int: [1, 1000000000000]}}}",
    "kind": BASE + "search: {space: {alpha: {kind: uniform, low: 0, high: 1}}}",
    "kind of a list": BASE + "search: {space: {alpha: {kind: [1]}}}",
    "nested when": BASE + "search: {space: {alpha: {uniform: [0, 1], when: {calibration: [[[on]]]}}}}",
    "recursive": BASE + "search: &a {space: *a}",
    "deep": DEEP,
    "deep mapping": "a: " + "{b: " * 2000,
    "explicit tag": BASE + "shot_seed: !!int '3'",
    "python tag": BASE + "storage: !!python/object/apply:os.system ['id']",
    "broken timestamp": BASE + "storage: 2024-99-99",
    "5,000 digits": BASE + "shot_seed: " + "9" * 5000,
    "a NUL in a path": BASE + 'storage: "a\\0b"',
    "a surrogate in a path": BASE + 'storage: "\\ud800"',
    "an over-long path": BASE + "storage: " + "x" * 9000,
    "an over-long name": BASE.replace("name: x", "name: " + "x" * 9000),
    "another user's home": BASE + "storage: ~nobody_here/x",
    "alias bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)),
    "10 MB": BASE + "# " + "x" * 10_000_000,
    "very many values": BASE + f"search: {{space: {{alpha: {{choice: {list(range(40_000))}}}}}}}",
    "100,000 unknown keys": BASE + "".join(f"k{i}: 1\n" for i in range(100_000)),
    "40,000 unknown keys": BASE + "".join(f"k{i}: 1\n" for i in range(20_000)),
    "100 million cells": "name: x\n"
    + f"datasets: [{', '.join(f'{{name: procedural, label: d{i}}}' for i in range(1000))}]\n"
    + f"shots: {[2 * i for i in range(1, 101)]}\n"
    + f"methods: [{', '.join(f'{{name: am_sam, label: m{i}}}' for i in range(1000))}]\n",
    "true epochs": BASE + "train: {epochs: true}",
    "empty": "",
    "null": "null",
    "a list": "[1]",
    "two documents": BASE + "---\n" + BASE,
    "not UTF-8": b"\xff\xfe\x00",
    "a tab": "name:\tx\n\tdatasets: 1",
}


def read(path: Path) -> SpaceFile:
    """Read a space file as ``tune`` does, with the problems of its datasets."""
    try:
        return load_space(path)
    except InputError as error:
        raise InputError(all_problems(path, error)) from None


def write(folder: Path, content: str | bytes) -> Path:
    """Write a space file."""
    path = folder / "space.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    return path


def check(folder: Path, content: str | bytes) -> bool:
    """Read a space file; if it is accepted, plan it and read its stored copy. Returns whether it is accepted."""
    path = write(folder, content)
    accepted, space = attempt("space file", lambda: read(path))
    if accepted:
        plan(space)
    return accepted


def plan(space: SpaceFile) -> None:
    """Do what a sweep does with its space before the first trial."""
    stored = json.loads(json.dumps(space.model_dump(mode="json", by_alias=True)))
    again = parse_space(stored)
    assert (space_hash(again), sweep_id(again)) == (space_hash(space), sweep_id(space))
    planned, cells = attempt("plan of a space file", lambda: make_cells(space))
    for cell in cells[:20] if planned else ():
        attempt("plan of a space file", partial(check_sampler, cell))
        for point in cell.first:
            attempt("plan of a space file", partial(cell.config, point, seed=0))
        ends = [{key: d.values[i] for key, d in cell.space.items()} for i in (0, -1)]
        for point in ends:
            cell.config(point, seed=0)
        for distribution in cell.space.values():
            optuna_distribution(distribution)


@pytest.mark.parametrize("name", KNOWN)
def test_known_inputs_are_refused(tmp_path: Path, name: str) -> None:
    assert not check(tmp_path, KNOWN[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spaces")


@fuzz(2, data=mutated(SPACES))
def test_changed_spaces(folder: Path, data: Any) -> None:
    check(folder, yaml.safe_dump(data, sort_keys=False))


@fuzz(
    share=1,
    text=st.sampled_from(TEXTS),
    cuts=st.lists(st.tuples(st.integers(0, 3000), st.text(max_size=6)), max_size=4),
)
def test_changed_text(folder: Path, text: str, cuts: list[tuple[int, str]]) -> None:
    for at, new in cuts:
        text = text[:at] + new + text[at + len(new) // 2 :]
    check(folder, text)


@fuzz(share=1, content=st.binary(max_size=200) | st.text(alphabet="{}[]:,-&*!|>'\"#% \n\tab1.~<", max_size=200))
def test_any_text(folder: Path, content: str | bytes) -> None:
    check(folder, content)
