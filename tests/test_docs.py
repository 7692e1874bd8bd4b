"""Documentation pages match the code."""

from __future__ import annotations

import re
from pathlib import Path

from amsam_ray.data.patterns import SUFFIXES
from tools.make_space_docs import TARGET, render

ROOT = Path(__file__).parent.parent


def test_the_space_file_page_is_current() -> None:
    assert TARGET.read_text() == render(), "run: python -m tools.make_space_docs"


def test_the_data_page_lists_the_supported_image_types() -> None:
    listed = re.search(r"Files ending in (.*?) \(in any case\)", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    assert listed is not None and set(re.findall(r"\.[a-z]+", listed[1])) == SUFFIXES


def test_links_between_pages_exist() -> None:
    broken = [
        f"{page.name}: {link}"
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert not broken
