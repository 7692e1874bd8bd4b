"""A sweep's report: one self-contained HTML file, made from the records."""

from __future__ import annotations

from contextlib import closing
from importlib import resources
from pathlib import Path

from amsam_ray.errors import InputError, Problem
from amsam_ray.records.index import Index
from amsam_ray.records.io import ReadRecords, list_sweeps, read_records
from amsam_ray.records.leaderboard import build_leaderboard
from amsam_ray.records.summary import cell_summaries
from amsam_ray.records.tables import plain
from amsam_ray.reports.content import ReportContent
from amsam_ray.storage.base import Storage


def report_key(sweep: str) -> str:
    """Return the key of a sweep's report."""
    return f"reports/{sweep}.html"


def write_report(
    storage: Storage, sweep: str, *, read: ReadRecords | None = None, index_dir: Path | None = None
) -> str:
    """Render the report of ``sweep`` and store it.

    Args:
        storage: the storage of the records, and of the report.
        sweep: id of the sweep.
        read: its records, if they have been read already; None reads them.
        index_dir: folder of the local index, which keeps slow statistics; by default ``amsam_ray.paths.index_dir()``.

    Returns:
        The key of the report, ``reports/<sweep>.html``.

    Raises:
        InputError: the storage has no record of this sweep.
    """
    text = render_report(storage, sweep, read=read, index_dir=index_dir)
    storage.put(report_key(sweep), text.encode())
    return report_key(sweep)


def render_report(
    storage: Storage, sweep: str, *, read: ReadRecords | None = None, index_dir: Path | None = None
) -> str:
    """Return the report of ``sweep`` as HTML. Arguments and errors are those of ``write_report``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    if read is None:
        _check_exists(storage, sweep)
        read = read_records(storage, sweep)
    if not read.records:
        raise InputError(Problem(sweep, f"has no records in {storage.uri} yet; wait for its first trial"))
    with closing(Index(storage, index_dir)) as index:
        rows = build_leaderboard(cell_summaries(read.records), remember=index.remember)
    environment = Environment(
        loader=PackageLoader("amsam_ray.reports", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        content=ReportContent(storage, sweep, read.records, rows),
        problems=read.problems,
        style=(resources.files("amsam_ray.reports") / "assets" / "report.css").read_text(encoding="utf-8"),
        plain=plain,
    )


def _check_exists(storage: Storage, sweep: str) -> None:
    known = list_sweeps(storage)
    if sweep not in known:
        choices = f"choose from {', '.join(known)}" if known else "it holds no sweep"
        raise InputError(Problem(sweep, f"is not a sweep in {storage.uri}; {choices}"))
