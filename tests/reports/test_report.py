"""The report is complete, self-contained, consistent with the CSV, and free of errors in a browser."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from amsam_ray.cli.main import cli
from amsam_ray.errors import InputError
from amsam_ray.records.leaderboard import update_leaderboards
from amsam_ray.reports.html import render_report, write_report
from amsam_ray.reports.importance import MINIMUM_TRIALS, parameter_importances
from amsam_ray.storage.open import open_storage
from tests.records.synthetic import Folder, config, record, write_record, write_sweep
from tests.reports import chromium

SWEEP = "demo-00000000"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a whole sweep, its leaderboards and its report."""
    folder = tmp_path_factory.mktemp("report")
    root = folder / "results"
    write_sweep(Folder(root), folder, datasets=("lesion", "isic2018"), trials=14)
    Folder(root).put(f"sweeps/{SWEEP}/space.yaml", b"name: demo  # <script>alert(1)</script>\n")
    storage = open_storage(root)
    update_leaderboards(storage, index_dir=folder / "index")
    assert write_report(storage, SWEEP, index_dir=folder / "index") == f"reports/{SWEEP}.html"
    return root


def html(results: Path) -> str:
    return (results / "reports" / f"{SWEEP}.html").read_text()


class _Rows(HTMLParser):
    """The leaderboards' rows: their data attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.dataset, self.rows = "", []  # type: ignore[var-annotated]

    def handle_starttag(self, tag, attributes) -> None:
        found = dict(attributes)
        if tag == "table":
            self.dataset = found.get("data-dataset", "")
        elif tag == "tr" and "data-dataset" in found:
            self.rows.append(found)


def rows_of(text: str) -> list[dict[str, str]]:
    parser = _Rows()
    parser.feed(text)
    return parser.rows


def assert_equal_to_csv(text: str, results: Path) -> None:
    rows = rows_of(text)
    for dataset in ("lesion", "isic2018"):
        stored = (results / "leaderboards" / f"{dataset}.csv").read_text()
        lines = list(csv.DictReader(io.StringIO(stored)))
        shown = [row for row in rows if row["data-dataset"] == dataset]
        assert len(shown) == len(lines) > 5
        for row, line in zip(shown, lines, strict=True):
            assert {f"data-{name.replace('_', '-')}": value for name, value in line.items()}.items() <= row.items()


def test_figures_equal_the_csv(results: Path) -> None:
    assert_equal_to_csv(html(results), results)


def test_shown_scores_are_the_rounded_ones(results: Path) -> None:
    text = html(results)
    for row in rows_of(text):
        if row["data-dice-std"]:
            shown = f"{100 * float(row['data-dice-mean']):.1f} ± {100 * float(row['data-dice-std']):.1f}"
            assert f'data-column="dice_mean">{shown}<' in text


def test_every_section_is_present(results: Path) -> None:
    text = html(results)
    headings = ["Convergence", "Shots", "Alpha", "Hyperparameters", "Importance", "Time", "Test images", "Cost"]
    for heading in headings:
        assert text.count(f"<h3>{heading}</h3>") == 2, heading
    assert text.count("<svg") >= 2 * (2 + 1 + 2 + 4 + 1 + 1)
    assert text.count('src="data:image/webp;base64,') == 2 * 6 * 3
    assert "space.yaml" in text and "0123456789ab" in text


def test_the_page_has_no_external_resources_and_no_scripts(results: Path) -> None:
    text = html(results)
    assert "<script" not in text and '<link rel="stylesheet"' not in text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert {a.split(":")[0] for a in addresses if not a.startswith("#")} == {"data"}
    assert "@import" not in text and "url(http" not in text


def test_figures_use_the_colours_of_the_page(results: Path) -> None:
    figures = re.findall(r"<svg.*?</svg>", html(results), flags=re.DOTALL)
    assert all("var(--ink)" in figure and "var(--s1)" in figure for figure in figures)
    assert not [c for figure in figures for c in re.findall(r"#0[0-9a]0[0-9a-f]{3}\b", figure)]
    # Clips and markers are referenced by id; different figures must not share one.
    ids = [name for figure in set(figures) for name in set(re.findall(r' id="([mp][0-9a-f]{10})"', figure))]
    assert len(ids) == len(set(ids)) > 20


def test_report_of_a_sweep_without_finals(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "results")
    write_record(storage, record(config()))
    write_record(storage, record(config(method="blo_sam"), status="failed", score=float("nan")))
    text = render_report(storage, SWEEP, index_dir=tmp_path / "index")
    assert "no finals yet" in text and "blo_sam" in text


def test_unknown_sweep(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a sweep"):
        render_report(open_storage(tmp_path), "nobody", index_dir=tmp_path / "index")


def test_command(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path))
    out = tmp_path / "r.html"
    result = CliRunner().invoke(cli, ["report", "--storage", str(results), "--out", str(out)])
    assert result.exit_code == 0 and result.output.strip() == str(out)
    assert out.read_text().startswith("<!doctype html>")


def test_importances_find_the_relevant_hyperparameter() -> None:
    random = np.random.default_rng(0)
    trials = []
    for _ in range(60):
        params = {"lr": float(10 ** random.uniform(-4, -2)), "rank": int(random.integers(2, 17)), "head": "warm"}
        trials.append((params, -abs(params["rank"] - 9) + random.normal(0, 0.2)))  # type: ignore[operator]
    found = parameter_importances(trials, maximise=True)
    assert next(iter(found)) == "rank" and found["rank"] > 0.7
    assert "head" not in found and sum(found.values()) == pytest.approx(1)
    assert parameter_importances(trials[: MINIMUM_TRIALS - 1], maximise=True) == {}


@pytest.mark.browser
def test_in_a_browser(results: Path, tmp_path: Path) -> None:
    page_file = results / "reports" / f"{SWEEP}.html"
    page = chromium.load(page_file, tmp_path / "profile")
    assert page.console == ()
    assert_equal_to_csv(page.document, results)
    light, dark, phone = (tmp_path / f"{name}.png" for name in ("light", "dark", "phone"))
    chromium.screenshot(page_file, light, tmp_path / "profile", width=1280, height=3000)
    chromium.screenshot(page_file, dark, tmp_path / "profile", width=1280, height=3000, dark=True)
    chromium.screenshot(page_file, phone, tmp_path / "profile", width=390, height=6000)
    pixels = {path.stem: np.asarray(Image.open(path).convert("L"), dtype=float) for path in (light, dark, phone)}
    assert pixels["light"].mean() > 200 > 80 > pixels["dark"].mean()
    # Nothing sticks out of a phone: beside the 390 px of the page is nothing but the frame's own white.
    assert pixels["phone"][:, 395:].min() == 255
    chromium.print_pdf(page_file, tmp_path / "report.pdf", tmp_path / "profile")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.browser
def test_console_errors_are_detected(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>missing()</script>")
    assert "missing is not defined" in chromium.load(tmp_path / "bad.html", tmp_path / "profile").console[0]
