"""``amsam-ray profile``: where the time of one trial goes, and how far its steps are from the device's floor."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from amsam_ray.errors import InputError, Problem, counted

if TYPE_CHECKING:
    from amsam_ray.config.space import SpaceFile
    from amsam_ray.config.trial import TrialConfig
    from amsam_ray.search.cells import Cell
    from amsam_ray.training.profiling import TrialProfile
    from amsam_ray.training.result import TrialResult


@click.command()
@click.option("--space", "space_path", required=True, metavar="FILE", help="The space file.")
@click.option("--cell", metavar="CELL", help="For example lesion.k4.am_sam [default: the first one that trains].")
@click.option("--epochs", type=click.IntRange(min=1), help="End the trial after this epoch [default: train it whole].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def profile(space_path: str, cell: str | None, epochs: int | None, as_json: bool) -> None:
    """Run one trial and print the time of its phases, the cost of its steps, and the floor of this device.

    The trial is the first of its cell, the method's published setting. It runs in this process, without Ray; inputs are
    prepared anew, and nothing is written to the storage.
    """
    from amsam_ray.config.space_file import load_space, problems_at
    from amsam_ray.search.cells import make_cells
    from amsam_ray.search.checks import all_problems, check_trial

    try:
        space = load_space(space_path)
    except InputError as error:
        raise InputError(all_problems(space_path, error)) from None
    problems = check_trial(space)
    chosen = None if problems else _choose(make_cells(space), cell)
    if chosen is None:
        raise InputError(problems_at(space_path, problems))
    found = report(chosen, _profile(space, chosen, epochs))
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)


def _choose(cells: list[Cell], name: str | None) -> Cell:
    """Return the named cell, or the first whose method trains something, or the first."""
    from amsam_ray.config.methods import METHODS

    if name is None:
        return next((cell for cell in cells if METHODS[cell.entry.name].trainable), cells[0])
    for cell in cells:
        if cell.id == name:
            return cell
    names = ", ".join(cell.id for cell in cells[:20])
    raise InputError(Problem(f"--cell {name}", f"is not a cell of the space file; use one of {names}"))


def _profile(space: SpaceFile, cell: Cell, epochs: int | None) -> TrialProfile:
    from rich.console import Console

    from amsam_ray.cli.progress import quiet
    from amsam_ray.paths import cache_dir, log_dir
    from amsam_ray.search.study import CellStudy
    from amsam_ray.search.trials import derived_seed
    from amsam_ray.training.profiling import profile_trial

    config = cell.config(CellStudy(cell).ask(0), seed=derived_seed(space.search.seed, cell.id, 0, "trial"))
    log = log_dir() / f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}-profile.log"
    with (
        quiet(log) as (_, err),
        Console(file=err).status(f"Profiling a trial of {cell.id}"),
        tempfile.TemporaryDirectory(prefix="amsam-profile-") as folder,
    ):
        return profile_trial(
            config,
            cache_dir=cache_dir(),
            work_dir=Path(folder),
            record=lambda result: _record(Path(folder) / "storage", cell, config, result),
            epochs=epochs,
        )


def _record(folder: Path, cell: Cell, config: TrialConfig, result: TrialResult) -> None:
    """Write the record of a trial to a storage in ``folder``, as a lane does."""
    from amsam_ray.device import hardware
    from amsam_ray.records.environment import describe_environment
    from amsam_ray.records.io import write_trial
    from amsam_ray.records.schema import Record
    from amsam_ray.search.trials import trial_id
    from amsam_ray.storage.local import LocalStorage

    now = time.time()
    record = Record.build(
        trial=trial_id(cell.id, 0),
        sweep="profile",
        config=config,
        result=result,
        environment=describe_environment(hardware()),
        started=now,
        finished=now,
        searched=tuple(cell.space),
        published=True,
    )
    write_trial(LocalStorage(folder), record, result)


def report(cell: Cell, profile: TrialProfile) -> dict[str, Any]:
    """Return a profile as plain values: seconds, bytes and shares of 1."""
    from amsam_ray.device import hardware

    found: dict[str, Any] = {
        "cell": cell.id,
        "backbone": cell.source.backbone.arch,
        "image_size": cell.source.backbone.size,
        "precision": cell.source.train.precision,
        "batch_size": cell.source.train.batch_size,
        "device": str(profile.device),
        "hardware": hardware(),
        "threads": profile.threads,
        "epochs": profile.result.epochs_run,
        "trial_s": round(profile.seconds, 4),
        "phases_s": {name: round(seconds, 4) for name, seconds in _rows(profile.phases, profile.seconds)},
        "peak_memory_bytes": profile.result.peak_memory_bytes,
        "step": None,
    }
    if (step := profile.step) is not None:
        found["step"] = {
            "per_epoch": step.steps_per_epoch,
            "seconds": float(f"{step.seconds:.4g}"),
            "kernel_share": round(step.kernel_share, 3),
            "host_reads_per_epoch": step.host_reads,
            "sync_warnings_per_epoch": step.sync_warnings,
            "flops": step.flops,
            "bytes": step.bytes,
            "op_bytes": step.op_bytes,
            "device_flops_per_s": float(f"{step.rates.flops:.4g}"),
            "device_bytes_per_s": float(f"{step.rates.bytes:.4g}"),
            "floor_s": float(f"{step.floor_seconds:.4g}"),
            "times_floor": round(step.times_floor, 2),
        }
    return found


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False)
    gpu = found["device"].startswith("cuda")
    console.print(
        f"{found['cell']}: {found['backbone']} at {found['image_size']} px, {found['precision']}, batches of "
        f"{found['batch_size']}, {counted(found['epochs'], 'epoch')}\n"
        f"{found['device']}: {found['hardware']['gpu' if gpu else 'cpu']}, {counted(found['threads'], 'thread')}",
        soft_wrap=True,
    )
    phases = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("phase", "seconds", "share"):
        phases.add_column(name, justify="left" if name == "phase" else "right", no_wrap=True)
    for name, seconds in {**found["phases_s"], "all": found["trial_s"]}.items():
        phase, _, part = name.partition("/")
        phases.add_row(f"  {part}" if part else phase, f"{seconds:.3f}", f"{seconds / found['trial_s']:.1%}")
    facts = Table(box=None, pad_edge=False, header_style="dim")
    facts.add_column("a step" if found["step"] else "", no_wrap=True)
    facts.add_column("")
    for name, value in _facts(found["step"]):
        facts.add_row(name, value)
    facts.add_row("peak memory", f"{found['peak_memory_bytes'] / 2**20:,.0f} MiB")
    console.print(phases, "", facts)


def _facts(step: dict[str, Any] | None) -> list[tuple[str, str]]:
    if step is None:
        return [("steps", "none: the method trains nothing")]
    waits = step["sync_warnings_per_epoch"]
    reads = f"{counted(step['host_reads_per_epoch'], 'value')} in an epoch of {counted(step['per_epoch'], 'step')}"
    return [
        ("time", f"{step['seconds'] * 1e3:.3g} ms, {step['kernel_share']:.0%} of it in tensor operations"),
        ("read by the host", reads + ("" if waits is None else f", which waits {counted(waits, 'time')}")),
        ("work", f"{step['flops'] / 1e9:.3g} GFLOP; this device {step['device_flops_per_s'] / 1e9:.3g} GFLOP/s"),
        ("must move", f"{step['bytes'] / 2**20:.3g} MiB; this device {step['device_bytes_per_s'] / 1e9:.3g} GB/s"),
        ("operations move", f"{step['op_bytes'] / 2**20:.3g} MiB, one by one"),
        ("floor", f"{step['floor_s'] * 1e3:.3g} ms; a step takes {step['times_floor']:.3g} times as long"),
    ]


def _rows(phases: dict[str, float], total: float) -> list[tuple[str, float]]:
    """Return each phase with the sum of its parts, its parts as ``phase/part``, and what is outside of all phases."""
    rows: list[tuple[str, float]] = []
    for phase in dict.fromkeys(name.partition("/")[0] for name in phases):
        parts = {name: seconds for name, seconds in phases.items() if name.partition("/")[0] == phase}
        rows.append((phase, sum(parts.values())))
        if len(parts) > 1:
            rows += [(name if "/" in name else f"{name}/other", seconds) for name, seconds in parts.items()]
    return [*rows, ("outside of phases", max(0.0, total - sum(phases.values())))]
