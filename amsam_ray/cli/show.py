"""``amsam-ray show``: the record of one trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from amsam_ray.cli.lookup import STORAGE, find_record, open_index
from amsam_ray.errors import printable

if TYPE_CHECKING:
    from amsam_ray.records.schema import Record


@click.command()
@click.argument("trial")
@STORAGE
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def show(trial: str, storage: str, form: str) -> None:
    """Print the record of TRIAL, or of SWEEP/TRIAL.

    A cell, such as lesion.k4.am_sam, selects the trial of its leaderboard row.
    """
    with open_index(storage) as (opened, index):
        record = find_record(opened, index, trial)
    if form == "json":
        click.echo(record.to_bytes().decode(), nl=False)
        return
    for title, lines in describe(record):
        click.secho(title, bold=True)
        width = max((len(name) for name, _ in lines), default=0)
        for name, value in lines:
            click.echo(f"  {name:<{width}}  {value}")


def describe(record: Record) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the sections of a trial's description, each a heading with lines of printable name and value."""
    return [
        (title, [(printable(name), printable(value)) for name, value in lines]) for title, lines in _sections(record)
    ]


def _sections(record: Record) -> list[tuple[str, list[tuple[str, str]]]]:
    from amsam_ray.records.leaderboard import acting_params
    from amsam_ray.records.tables import plain, score_title, show_score

    environment = record.environment
    commit = f"{environment.commit[:12]}{' (modified)' if environment.dirty else ''}" if environment.commit else "-"
    scores = [(f"{score_title(m)} on selection images", show_score(m, s)) for m, s in record.val.items()]
    scores += [(f"{score_title(m)} on test images", show_score(m, s)) for m, s in (record.test or {}).items()]
    status = record.status + (f" ({record.reason})" if record.reason else "")
    return [
        (
            f"{record.sweep}/{record.trial}",
            [
                ("status", status),
                ("role", record.role),
                ("best epoch", f"{record.best_epoch} of {record.epochs_run} run"),
                *_search(record),
                *scores,
            ],
        ),
        (
            "hyperparameters (* searched)",
            [
                (name + (" *" if name in record.searched else ""), plain(value))
                for name, value in acting_params(record.method, record.params).items()
            ],
        ),
        *_protocol(record),
        (
            "ran",
            [
                ("started", f"{record.started:%Y-%m-%d %H:%M:%S} UTC"),
                ("seconds", f"{record.seconds:.1f}"),
                *[(f"  {phase}", f"{seconds:.2f}") for phase, seconds in record.timings.items()],
                ("GPU seconds", f"{record.gpu_seconds:.1f}"),
                ("peak memory", f"{record.peak_memory_bytes / 2**20:.0f} MiB"),
                ("trained parameters", f"{record.trained_params:,}"),
                *sorted(environment.hardware.items()),
            ],
        ),
        (
            "made of",
            [
                ("seed", f"{record.seed} (shots {record.shot_seed})"),
                ("shots", record.shots_sha256[:12]),
                ("backbone", f"{record.backbone} {record.backbone_fingerprint[:12]}"),
                *((("pretrained", record.pretrained),) if record.pretrained else ()),
                ("detector", (record.detector_fingerprint or "-")[:12]),
                ("prompt coverage", plain(record.prompt_coverage) or "-"),
                ("amsam-ray", f"{environment.version}, commit {commit}"),
                *sorted(pair for pair in environment.packages.items() if pair[0] != "amsam-ray"),
            ],
        ),
        (
            "stored",
            [
                ("record", record.key),
                ("adapter", record.adapter or "-"),
                *[(f"{o.rank} test image", o.key) for o in record.overlays],
            ],
        ),
    ]


def _search(record: Record) -> list[tuple[str, str]]:
    """Return why the search of a final's cell ended early, if it did."""
    if record.flat_after is None:
        return []
    return [("search", f"ended early: the first {record.flat_after} trials differed by no more than noise")]


def _protocol(record: Record) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what a published protocol changes besides hyperparameters, such as a warm-up in steps."""
    from amsam_ray.config.methods import METHODS, protocol_of
    from amsam_ray.config.params import MethodParams

    if record.method not in METHODS or record.params.get("protocol") != "published":
        return []
    notes = protocol_of(record.method, MethodParams(protocol="published")).notes
    return [("as in the public code", [("-", note) for note in notes])]
