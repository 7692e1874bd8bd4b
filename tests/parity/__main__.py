"""Print the differences between this package and the published procedures, ``python -m tests.parity``."""

from __future__ import annotations

from amsam_ray.config.methods import METHODS
from tests.parity.comparison import PROCEDURES, compare


def table() -> str:
    """Return one row per method and quantity, with the relative differences of both protocols."""
    lines = ["| method | quantity | protocol: published | default |", "| --- | --- | --- | --- |"]
    for method in PROCEDURES:
        published, default = (compare(method, protocol) for protocol in ("published", "default"))
        lines += [f"| {method} | {key} | {value:.1e} | {default[key]:.1e} |" for key, value in published.items()]
    lines.append("")
    for method in PROCEDURES:
        spec = METHODS[method].published
        lines += [f"{method}, by choice: {note}." for note in (spec.notes if spec else ())]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
