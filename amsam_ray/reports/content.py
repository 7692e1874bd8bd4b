"""The content of a sweep's report, section by section, for the HTML template."""

from __future__ import annotations

import base64
import io
import re
import statistics
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from amsam_ray.config.classes import base_label
from amsam_ray.config.metrics import METRICS
from amsam_ray.data.images import ImageError
from amsam_ray.errors import InputError
from amsam_ray.records.class_means import MEAN
from amsam_ray.records.schema import Record
from amsam_ray.records.tables import Row, columns, duration, gain_text, show_score
from amsam_ray.reports import figures
from amsam_ray.reports.plots import Plot, Plots, score_label
from amsam_ray.storage.base import NotFoundError, Storage, StorageError

_MAX_SPACE = 1 << 20  # bytes of a space file that are shown
_MAX_PIXELS = 16_000_000  # of an overlay, which is drawn with at most 1,024 pixels a side


@dataclass(frozen=True)
class Gallery:
    """The stored overlays of one leaderboard row: (rank, name of the image, score, overlay as a data URI)."""

    title: str
    pictures: tuple[tuple[str, str, str, str], ...]


class ReportContent:
    """The values that the template shows, section by section.

    Args:
        storage: the storage of overlays and space file.
        sweep: id of the sweep.
        records: its records, at least one.
        rows: its leaderboard.
    """

    def __init__(self, storage: Storage, sweep: str, records: Sequence[Record], rows: Sequence[Row]):
        self.storage, self.sweep, self.records, self.rows = storage, sweep, records, rows
        self.by_trial = {record.trial: record for record in records}
        self.datasets = tuple(dict.fromkeys(row["dataset"] for row in rows))
        methods = [row["method"] for row in rows if row["source"] == "run"]
        papers = [row["method"] for row in rows if row["source"] == "paper"]
        self.palette = figures.Palette(sorted(set(methods)) + sorted(set(papers) - set(methods)))

    @cached_property
    def summary(self) -> list[tuple[str, str]]:
        """Label and text of the facts about the whole sweep."""
        first, last = min(r.started for r in self.records), max(r.finished for r in self.records)
        search = [r for r in self.records if r.role == "search"]
        counts = {s: sum(r.status == s for r in search) for s in ("completed", "pruned", "failed")}
        return [
            ("sweep", self.sweep),
            ("first trial", f"{first:%Y-%m-%d %H:%M} UTC"),
            ("from first to last", duration((last - first).total_seconds())),
            ("cells", str(len({r.cell for r in self.records}))),
            ("search trials", f"{len(search)} ({', '.join(f'{n} {s}' for s, n in counts.items() if n)})"),
            ("finals", str(len(self.records) - len(search))),
            ("work", duration(sum(r.seconds for r in self.records))),
            ("GPU time", duration(sum(r.gpu_seconds for r in self.records))),
            ("report made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ]

    @cached_property
    def gains(self) -> list[tuple[Row, str]]:
        """The rows for which it is known what the search won over the published setting, largest gain first."""
        known = [r for r in self.rows if r["source"] == "run" and r.get("gain_over_published") is not None]
        known.sort(key=lambda row: -row["gain_over_published"])
        return [(row, gain_text(row, self.primary(row["dataset"]))) for row in known]

    def gain_class(self, row: Row) -> str:
        """Return ``won``, ``lost`` or ``even``: whether the interval of a gain excludes zero."""
        if row.get("kept") or row.get("gain_ci_low") is None:
            return "even"
        return "won" if row["gain_ci_low"] > 0 else "lost" if row["gain_ci_high"] < 0 else "even"

    @cached_property
    def search_paid(self) -> str:
        """One sentence: in how many cells the search found more than the published setting."""
        if not self.gains:
            return ""
        counts = {kind: sum(self.gain_class(row) == kind for row, _ in self.gains) for kind in ("won", "even", "lost")}
        text = f"The search beat the published setting in {counts['won']} of {len(self.gains)} cells"
        rest = [f"{counts['even']} without a clear difference"] if counts["even"] else []
        rest += [f"{counts['lost']} worse"] if counts["lost"] else []
        return f"{text} ({', '.join(rest)})." if rest else f"{text}."

    @cached_property
    def findings(self) -> list[str]:
        """Whether the search paid, and per dataset the leading row and whether its lead is significant."""
        sentences = [self.search_paid] if self.search_paid else []
        for dataset in self.datasets:
            measured = [r for r in self.dataset_rows(dataset) if r["source"] in ("run", MEAN) and r.get("seeds")]
            if not measured:
                sentences.append(f"{dataset}: no finals yet.")
                continue
            row, metric = measured[0], self.primary(dataset)
            score = show_score(metric, row.get(f"{metric}_mean")) or "unknown"
            subject = f"{dataset}, mean over the classes" if row["source"] == MEAN else dataset
            text = f"{subject}: {row['method']} with {row['shots']} shots leads, {score_label(metric)} {score}"
            p = row.get("p_vs_next")
            if p is not None:
                verdict = "and the lead is significant" if p < 0.05 else "but the lead may be chance"
                text += f", {verdict} (p = {p:.2g} against {measured[1]['method']}, {measured[1]['shots']} shots)"
            sentences.append(text + ".")
        return sentences

    def dataset_rows(self, dataset: str) -> list[Row]:
        """Return the leaderboard of one dataset."""
        return [row for row in self.rows if row["dataset"] == dataset]

    def primary(self, dataset: str) -> str:
        """Return the dataset's primary metric."""
        return next(r.primary for r in self.records if dataset in (r.dataset, base_label(r.dataset)))

    def metrics(self, dataset: str) -> list[str]:
        """Return the metrics of its leaderboard, the primary one first."""
        rows = self.dataset_rows(dataset)
        found = [m for m in METRICS if any(row.get(f"{m}_mean") is not None for row in rows)]
        return sorted(found, key=lambda metric: metric != self.primary(dataset))

    def header(self, metric: str) -> str:
        """Return the column heading of a metric."""
        return score_label(metric)

    def cell(self, row: Row, metric: str) -> str:
        """Format a score with its standard deviation over seeds."""
        mean, std = row.get(f"{metric}_mean"), row.get(f"{metric}_std")
        return show_score(metric, mean) + (f" ± {show_score(metric, std)}" if std is not None else "")

    def interval(self, row: Row, metric: str) -> str:
        """Format the confidence interval of a score; empty if there is none."""
        low, high = row.get(f"{metric}_ci_low"), row.get(f"{metric}_ci_high")
        return "" if low is None or high is None else f"[{show_score(metric, low)}, {show_score(metric, high)}]"

    def chosen(self, row: Row) -> str:
        """Format the searched hyperparameters of a row."""
        record = self.by_trial.get(str(row.get("trial")))
        names = record.searched if record else ()
        return ", ".join(f"{name} {_short(row[name])}" for name in names if row.get(name) is not None)

    def csv_columns(self, dataset: str) -> list[str]:
        """Return the columns of the dataset's CSV whose names can be part of an attribute's name."""
        return [name for name in columns(self.dataset_rows(dataset)) if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name)]

    def plots(self, dataset: str) -> Iterator[tuple[str, list[Plot]]]:
        """Yield (heading, figures) for each section with at least one figure."""
        records = [record for record in self.records if record.dataset == dataset]
        if not records:  # the means over classes
            return iter(())
        return Plots(records, self.dataset_rows(dataset), self.palette).sections()

    def galleries(self, dataset: str) -> Iterator[Gallery]:
        """Yield the best, median and worst test image of each row."""
        for row in self.dataset_rows(dataset):
            record = self.by_trial.get(str(row.get("trial")))
            pictures = []
            if record is None:
                continue
            for overlay in record.overlays:
                try:
                    uri = _data_uri(self.storage.get(overlay.key))
                except (StorageError, InputError, ImageError):  # a record may name any file, or none
                    continue
                pictures.append((overlay.rank, overlay.name, show_score(record.metric, overlay.score), uri))
            if pictures:
                yield Gallery(f"{row['method']}, {row['shots']} shots", tuple(pictures))

    @cached_property
    def environments(self) -> list[tuple[str, list[str]]]:
        """(fact, its different values over all trials)."""
        lines: dict[str, dict[str, None]] = {}
        for record in self.records:
            for name, value in _environment_of(record):
                lines.setdefault(name, {})[value] = None
        return [(name, list(values)) for name, values in lines.items()]

    @cached_property
    def space(self) -> str | None:
        """The space file of the sweep, None if it is not stored."""
        try:
            return self.storage.get(f"sweeps/{self.sweep}/space.yaml")[:_MAX_SPACE].decode(errors="replace")
        except NotFoundError:
            return None

    def costs(self, dataset: str) -> list[tuple[str, list[str]]]:
        """Return (cell, [trials, seconds per trial, seconds, GPU seconds, peak memory, trained parameters])."""
        cells: dict[str, list[Record]] = {}
        for record in self.records:
            if record.dataset == dataset:
                cells.setdefault(f"{record.label}, {record.shots} shots", []).append(record)
        return [
            (
                name,
                [
                    str(len(own)),
                    f"{statistics.median(r.seconds for r in own):.1f}",
                    f"{sum(r.seconds for r in own):.0f}",
                    f"{sum(r.gpu_seconds for r in own):.0f}",
                    f"{max(r.peak_memory_bytes for r in own) / 2**20:.0f} MiB",
                    f"{max(r.trained_params for r in own):,}",
                ],
            )
            for name, own in sorted(cells.items())
        ]


def _environment_of(record: Record) -> Iterable[tuple[str, str]]:
    environment = record.environment
    yield "amsam-ray", environment.version
    if environment.commit:
        yield "commit", environment.commit[:12] + (" with changes" if environment.dirty else "")
    yield "Python", environment.python
    yield "platform", environment.platform
    yield from sorted(environment.hardware.items())
    yield from sorted(environment.packages.items())
    yield "backbone", f"{record.backbone} {record.backbone_fingerprint[:12]}".strip()
    if record.pretrained:
        yield "pretrained", record.pretrained
    if record.detector_fingerprint:
        yield "detector", record.detector_fingerprint[:12]
    yield "seed of the shots", str(record.shot_seed)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _data_uri(png: bytes) -> str:
    """Return a PNG as a data URI of its WebP version, which has a fifth of the size."""
    from PIL import Image

    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise ValueError(f"{picture.width}x{picture.height} pixels")
            picture.convert("RGB").save(buffer, "WEBP", quality=88)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ImageError("overlay", f"is not a picture of a test image ({error}); delete it") from None
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
