"""The import graph: no cycle, nothing imported from a layer above, Ray only where it belongs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "amsam_ray"
# Bottom first. Modules that stand directly in the package are below all of these.
ORDER = ("config", "storage", "data", "models", "inference", "training", "records", "reports", "search", "cli")
TORCH_FREE = ("config", "storage", "records", "search", "cli")
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def _statements(node: ast.AST, *, lazy: bool) -> Iterator[ast.stmt]:
    """The import statements below ``node``: with ``lazy``, those inside functions and ``TYPE_CHECKING`` too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.If):
            yield from _statements(child, lazy=lazy)


def imported(path: Path, *, lazy: bool = True) -> set[str]:
    """Every module that ``path`` imports."""
    names: set[str] = set()
    for node in _statements(ast.parse(path.read_text()), lazy=lazy):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= submodules & set(MODULES) or {node.module}
    return names


def layer_of(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if parts[0] in ORDER else None


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle in order; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if found := visit(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_nothing_from_a_layer_above(path: Path) -> None:
    layer = layer_of(path)
    above = ORDER[ORDER.index(layer) + 1 :] if layer else ORDER
    if path.parent == PACKAGE and path.name in ("__init__.py", "api.py"):
        above = ("cli",)  # the public API: names of all layers, imported on first use
    upward = {n for n in imported(path) for up in above if n == f"amsam_ray.{up}" or n.startswith(f"amsam_ray.{up}.")}
    assert not upward, f"{path.name} ({layer}) imports from a layer above it: {sorted(upward)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_ray_side_of_the_search_imports_ray(path: Path) -> None:
    if path.is_relative_to(PACKAGE / "search" / "ray"):
        return
    assert not {n for n in imported(path) if n == "ray" or n.startswith("ray.")}


def test_no_import_cycle() -> None:
    assert not cycle({name: imported(path) & set(MODULES) for name, path in MODULES.items() if name != "amsam_ray"})


def test_the_rules_detect_a_violation(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from ray import tune\n    import amsam_ray.search.cells\n")
    assert {"ray", "amsam_ray.search.cells"} <= imported(file)
    assert imported(file, lazy=False) == set()
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_file_is_over_500_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for folder in ("amsam_ray", "tests", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 500
    }
    assert not long
