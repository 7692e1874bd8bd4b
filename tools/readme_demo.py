"""Insert the results of a finished demo into the README: ``python -m tools.readme_demo results``.

Fills the blocks between ``<!-- name -->`` and ``<!-- /name -->`` with the demo's space file and its leaderboard, and
draws ``docs/images/demo.png`` from the finals' overlays. A test compares the space file shown with the shipped one.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
SPACE = ROOT / "search_spaces" / "demo.yaml"
_TILE, _GAP, _TITLE = 192, 6, 18


def fill(text: str, name: str, body: str) -> str:
    """Return ``text`` with the block ``name`` replaced. Raises ValueError if there is no such block."""
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the README has no block {name}")
    return pattern.sub(lambda _: f"<!-- {name} -->\n{body}\n<!-- /{name} -->", text)


def space_block() -> str:
    """Return the demo's space file as the README shows it."""
    return f"```yaml\n{SPACE.read_text().strip()}\n```"


def leaderboard(storage: str) -> str:
    """Return the output of ``amsam-ray leaderboard --format md``."""
    command = [sys.executable, "-m", "amsam_ray.cli.main", "leaderboard", "--storage", storage, "--format", "md"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def picture(storage: Path, shots: int = 8) -> Image.Image:
    """Draw one row per method, with each dataset's median and worst test images as columns."""
    cells: dict[tuple[str, str], Path] = {}
    with (storage / "leaderboards" / "all.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "run" and row["shots"] == str(shots)]
    for row in rows:
        for rank in ("best", "median", "worst"):
            path = storage / "sweeps" / row["sweep"] / "overlays" / f"{row['trial']}.{rank}.png"
            cells[row["method"], f"{row['dataset']}, {rank}"] = path
    methods = sorted({method for method, _ in cells}, key=["sam", "blo_sam", "am_sam"].index)
    columns = sorted({column for _, column in cells if not column.endswith("best")})
    step = _TILE + _GAP
    sheet = Image.new("RGB", (len(columns) * step + 80, len(methods) * step + _TITLE), "white")
    draw = ImageDraw.Draw(sheet)
    for y, method in enumerate(methods):
        draw.text((6, _TITLE + y * step + _TILE // 2), method, fill="black")
        for x, column in enumerate(columns):
            draw.text((80 + x * step, 3), column, fill="black")
            with Image.open(cells[method, column]) as tile:
                sheet.paste(tile.convert("RGB").resize((_TILE, _TILE)), (80 + x * step, _TITLE + y * step))
    return sheet


def main(storage: str) -> None:
    """Write the README's blocks and its image from the results in ``storage``."""
    readme = ROOT / "README.md"
    text = fill(readme.read_text(), "demo.yaml", space_block())
    text = fill(text, "demo leaderboard", leaderboard(storage))
    readme.write_text(text)
    target = ROOT / "docs" / "images" / "demo.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    picture(Path(storage)).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
