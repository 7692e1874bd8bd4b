"""The plan and the estimate of ``amsam-ray tune --dry-run``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from amsam_ray.search.dry_run import _memory
from amsam_ray.search.lane_size import GIB, LaneSize
from amsam_ray.search.ray.probe import Probe
from tests.search.driving import Driver
from tests.search.spaces import space

CELL = "lesions.k8.am_sam"


def test_plan_states_trials_and_duration_and_writes_nothing(tmp_path: Path) -> None:
    driver = Driver(tmp_path, space(shots=(4, 8), methods=("am_sam", "sam"), trials=5), {"seconds": 0.2})
    assert driver.run("--dry-run") == 0, driver.terminal()
    lines = driver.terminal().splitlines()
    assert "  lesions.k8.am_sam: 5 trials, 4 finals, 0 recorded (lambda, lr)" in lines
    assert "  lesions.k8.sam: 1 trial, 1 final, 0 recorded (nothing to search)" in lines
    assert "4 cells, 22 trials, 22 to run" in lines
    assert re.search(r"2 lanes, each 1 worker of 1 CPU and 0 GPU; [12] fit now", driver.terminal())
    assert re.search(r"A lane needs [12]\.\d GiB of memory by an estimate", driver.terminal())
    assert f"Probe of {CELL}: first epoch" in driver.terminal()
    assert re.search(r"It took 0\.\d GiB of memory\n", driver.terminal())
    # 9 trials at 8 shots and 9 at 4, 0.2 s each at most, over two lanes.
    assert re.search(r"About [0-4] s, without the time for test scores", driver.terminal())
    assert not driver.results.exists() and len(driver.starts()) == 1


def test_failed_probe_is_reported_in_one_sentence(tmp_path: Path) -> None:
    for fault, status, text in (
        ("input", 2, f"error: {CELL}: the image is no image"),
        ("raise", 1, f"error: The probe of {CELL} failed: ValueError: the labels are upside down"),
        ("exit", 1, f"error: The probe of {CELL} did not finish ("),
    ):
        driver = Driver(tmp_path / fault, space(shots=(8,)))
        driver.fake = {"faults": {driver.seed(CELL, 0): fault}}
        assert driver.run("--dry-run") == status
        assert text in driver.terminal() and "Traceback" not in driver.terminal()


def test_lane_that_needs_more_memory_than_this_machine_has_is_refused_before_ray_starts(tmp_path: Path) -> None:
    driver = Driver(tmp_path, space(resources={"lanes": 2, "memory_gib": 900_000, "cpus_per_lane": 4096}))
    assert driver.run("--dry-run") == driver.run() == 2
    told = " ".join(driver.terminal().split())
    assert told.count("resources.memory_gib): a lane needs 900000.0 GiB of memory, more than the ") == 2
    assert told.count("resources.cpus_per_lane): a lane needs 4096 CPU, more than the ") == 2, "all problems at once"
    assert not driver.results.exists() and not driver.starts()


GPU = LaneSize(1, 1, 0.25, 4 * GIB)


@pytest.mark.parametrize(
    ("measured", "size", "words"),
    [
        (Probe(1, 1, 3 * GIB), LaneSize(1, 1, 0, 4 * GIB), None),
        (Probe(1, 1, 5 * GIB), LaneSize(1, 1, 0, 0), None),
        (
            Probe(1, 1, 5 * GIB),
            LaneSize(2, 1, 0, 4 * GIB),
            "the 4.00 GiB of a lane's worker; set resources.memory_gib to at least 10.0",
        ),
        (Probe(1, 1, GIB, 5 * GIB, 22 * GIB), GPU, None),
        (
            Probe(1, 1, GIB, 9 * GIB, 22 * GIB),
            GPU,
            "a lane's share of 5.5 GiB; set resources.gpus_per_lane to at least 0.5",
        ),
        (Probe(1, 1, GIB, 14 * GIB, 22 * GIB), GPU, "set resources.gpus_per_lane to at least 1"),
    ],
)
def test_more_memory_than_a_lanes_share_is_told(measured: Probe, size: LaneSize, words: str | None) -> None:
    told, *warnings = _memory(measured, size)
    assert told.startswith(f"It took {measured.host / GIB:.1f} GiB of memory")
    assert len(warnings) == (words is not None) and (words or "") in "".join(warnings)
