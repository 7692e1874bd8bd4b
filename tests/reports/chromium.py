"""Load a page in headless Chromium: console output, document after loading, and screenshots."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
_LOGGED = re.compile(r":(?:CONSOLE|ERROR:CONSOLE)[^\]]*\] (.*)")


def find_chromium() -> str | None:
    """The browser's path, None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Page:
    """A loaded page: its document as HTML, and what went to the console."""

    document: str
    console: tuple[str, ...]


def load(html: Path, profile: Path, *, width: int = 1280) -> Page:
    """Open ``html`` from disk and wait until it is loaded."""
    done = _run(profile, width, 900, ["--dump-dom", f"file://{html}"])
    return Page(done.stdout, tuple(_LOGGED.findall(done.stderr)))


def screenshot(html: Path, image: Path, profile: Path, *, width: int, height: int, dark: bool = False) -> None:
    """Write a PNG of the page's top ``height`` pixels; narrow pages in a frame, because windows have a least width."""
    if width < 500:
        frame = profile / f"frame-{width}.html"
        frame.parent.mkdir(parents=True, exist_ok=True)
        frame.write_text(
            f'<body style="margin:0"><iframe src="file://{html}" '
            f'style="border:0;width:{width}px;height:{height}px"></iframe></body>'
        )
        html = frame
    # 0 is dark and 1 light in Blink's enumeration of preferred colour schemes.
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _run(profile, max(width, 500), height, [scheme, f"--screenshot={image}", f"file://{html}"])


def print_pdf(html: Path, pdf: Path, profile: Path) -> None:
    """Print the page to a PDF."""
    _run(profile, 1280, 900, ["--no-pdf-header-footer", f"--print-to-pdf={pdf}", f"file://{html}"])


def _run(profile: Path, width: int, height: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    browser = find_chromium()
    if browser is None:
        raise RuntimeError("there is no Chromium here; apt-get install chromium")
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    fixed += [f"--user-data-dir={profile}", f"--window-size={width},{height}", "--virtual-time-budget=3000"]
    return subprocess.run([browser, *fixed, *arguments], capture_output=True, text=True, timeout=180, check=True)
