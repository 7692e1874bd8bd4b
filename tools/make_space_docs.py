"""Generate docs/space-file.md from the schema: ``python -m tools.make_space_docs``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from amsam_ray.config.datasets import AugmentConfig, DatasetConfig, SelectionConfig
from amsam_ray.config.methods import METHODS
from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.config.params import PARAMS
from amsam_ray.config.space import (
    FinalsSection,
    MethodEntry,
    ResourcesSection,
    SchedulerSection,
    SearchSection,
    SpaceFile,
    TrainSection,
)

TARGET = Path(__file__).parent.parent / "docs" / "space-file.md"
SECTIONS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("The file", SpaceFile, "Only `name`, `datasets`, `shots` and `methods` are required."),
    (
        "`datasets[]`",
        DatasetConfig,
        "A bare name means `{name: ...}`. [data.md](data.md) lists the options of each dataset.",
    ),
    ("`selection`", SelectionConfig, ""),
    ("`methods[]`", MethodEntry, "A bare name means `{name: ...}`. Labelled variants of a method form an ablation."),
    ("`backbone`", BackboneConfig, ""),
    ("`detector`", DetectorConfig, ""),
    ("`train`", TrainSection, ""),
    ("`train.augment`", AugmentConfig, ""),
    ("`search`", SearchSection, ""),
    ("`search.scheduler`", SchedulerSection, "A bare name means `{name: ...}`."),
    ("`finals`", FinalsSection, ""),
    ("`resources`", ResourcesSection, ""),
)
HEAD = """# The space file

One YAML file describes one sweep. Every combination of dataset, number of shots and method is a *cell*; of a dataset
with [classes](data.md#several-classes), every class has cells of its own. The hyperparameters of `search.space` are
searched within every cell. The whole file is checked before anything starts, and all problems are reported together,
each with its line. This page is generated from the schema by
`python -m tools.make_space_docs`; a test compares the two.

The file holds plain data: null, true/false (also `on`/`off`), decimal numbers, text, lists and mappings. Put dates in
quotes. YAML 1.1 reads `1e-4` as text: write `1.0e-4`. Outside ranges and choices, `1e-4` is read as the number that it
can only mean, and `4.0` as the whole number 4; other text, quoted numbers and true/false are not numbers. Anchors,
aliases and `<<` work; tags do not. The limits are 1 MiB, 32 levels, 50,000 values after aliases are expanded, and
10,000 cells.
"""
SPACE = """
## `search.space`

| in YAML | meaning |
| --- | --- |
| `alpha: {uniform: [0.5, 1.0]}` | a number in [0.5, 1] |
| `lr: {loguniform: [1.0e-4, 1.0e-2]}` | a number, uniform on a log scale |
| `rank: {int: [2, 16]}`, `rank: {logint: [2, 64]}` | a whole number, both ends included |
| `head: {choice: [cold, warm]}` | one of the values |
| `w_token: 0.1` | a constant |
| `tau_token: {loguniform: [0.03, 1.0], when: {adaptors: [tc, mc]}}` | searched only where `adaptors` is tc or mc |

A key is searched in the cells whose method uses it *and* where it has an effect: `alpha` is omitted if calibration is
off. A key without effect in any cell is an error. The first trial of every cell is the method's published setting; the
points of `search.first` follow, which may lie outside the ranges. A range whose ends are equal and a choice of one
value are allowed. A range holds numbers up to 1e9 (whole numbers up to 1,000,000), a choice up to 1,000 values.

## Parameters

"""


def _table(model: type[BaseModel]) -> list[str]:
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for name, field in model.model_fields.items():
        if field.is_required():
            default = "required"
        else:
            value = field.get_default(call_default_factory=True)
            default = "" if isinstance(value, BaseModel) or value in (None, "", (), {}) else f"`{_yaml(value)}`"
        lines.append(f"| `{name}` | {default} | {field.description or ''} |".replace("  ", " "))
    return lines


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def render() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for title, model, note in SECTIONS:
        parts.append(f"\n## {title}\n\n" + (f"{note}\n\n" if note else "") + "\n".join(_table(model)) + "\n")
    parts.append(SPACE)
    rows = ["| key | allowed | default | meaning | methods |", "| --- | --- | --- | --- | --- |"]
    for info in PARAMS.values():
        users = ", ".join(name for name, spec in METHODS.items() if info.name in spec.keys)
        allowed = info.allowed.replace("|", "\\|")
        rows.append(f"| `{info.name}` | {allowed} | `{info.default}` | {info.doc} | {users} |")
    parts.append("\n".join(rows) + "\n\nA method's own defaults (`amsam-ray methods list`) override these.\n")
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(render())
