"""The layers import only downwards, and only ``search`` and what is above it know Ray."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "amsam_ray"
ORDER = ("data", "models", "training", "results", "search", "cli")
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that ``path`` imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer_of(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if parts[0] in ORDER else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_downwards(path: Path) -> None:
    layer = layer_of(path)
    above = ORDER[ORDER.index(layer) + 1 :] if layer else ORDER
    upward = {n for n in imported(path) for up in above if n == f"amsam_ray.{up}" or n.startswith(f"amsam_ray.{up}.")}
    assert not upward, f"{path.name} ({layer}) imports from a layer above it: {sorted(upward)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_search_and_above_import_ray(path: Path) -> None:
    if layer_of(path) in ("search", "cli"):
        return
    assert not {n for n in imported(path) if n == "ray" or n.startswith("ray.")}


def test_the_rule_sees_a_breach(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from ray import tune\n    import amsam_ray.search.cells\n")
    assert {"ray", "amsam_ray.search.cells"} <= imported(file)


def test_no_file_is_over_500_lines() -> None:
    root = PACKAGE.parent
    long = {
        str(path.relative_to(root)): count
        for folder in ("amsam_ray", "tests", "scripts")
        for path in (root / folder).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 500
    }
    assert not long
