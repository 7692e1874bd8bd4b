"""Writes docs/space-file.md from the schema itself: ``python -m tools.make_space_docs``."""

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
        "A bare name stands for `{name: ...}`. [data.md](data.md) lists each one's options.",
    ),
    ("`selection`", SelectionConfig, ""),
    ("`methods[]`", MethodEntry, "A bare name stands for `{name: ...}`; labelled variants make an ablation's rows."),
    ("`backbone`", BackboneConfig, ""),
    ("`detector`", DetectorConfig, ""),
    ("`train`", TrainSection, ""),
    ("`train.augment`", AugmentConfig, ""),
    ("`search`", SearchSection, ""),
    ("`search.scheduler`", SchedulerSection, "A bare name stands for `{name: ...}`."),
    ("`finals`", FinalsSection, ""),
    ("`resources`", ResourcesSection, ""),
)
HEAD = """# The space file

One YAML file describes one sweep: every dataset with every number of shots and every method is a *cell*, and the
hyperparameters of `search.space` are searched within every cell. The file is checked whole before anything starts;
all problems are told at once, each with its line. This page is written from the schema by
`python -m tools.make_space_docs`, and a test keeps the two equal.

YAML 1.1 reads `1e-4` as text: write `1.0e-4`. A bare `on` or `off` is fine.
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
| `tau_token: {loguniform: [0.03, 1.0], when: {adaptors: [tc, mc]}}` | searched only where an earlier key says so |

A key is searched in the cells whose method has it *and* where it acts: `alpha` is left out where the calibration is
off. A key that acts in no cell is an error. The first trial of every cell is the method's published setting; the
points of `search.first` follow it.

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
    """The whole page."""
    parts = [HEAD]
    for title, model, note in SECTIONS:
        parts.append(f"\n## {title}\n\n" + (f"{note}\n\n" if note else "") + "\n".join(_table(model)) + "\n")
    parts.append(SPACE)
    rows = ["| key | allowed | default | meaning | methods |", "| --- | --- | --- | --- | --- |"]
    for info in PARAMS.values():
        users = ", ".join(name for name, spec in METHODS.items() if info.name in spec.keys)
        allowed = info.allowed.replace("|", "\\|")
        rows.append(f"| `{info.name}` | {allowed} | `{info.default}` | {info.doc} | {users} |")
    parts.append("\n".join(rows) + "\n\nA method's own defaults (`amsam-ray methods list`) come before these.\n")
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(render())
