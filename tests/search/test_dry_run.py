"""The plan and the estimate of ``amsam-ray tune --dry-run``."""

from __future__ import annotations

import re
from pathlib import Path

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
    assert f"Probe of {CELL}: first epoch" in driver.terminal()
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
