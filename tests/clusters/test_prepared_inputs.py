"""Machines that share prepared inputs through a bucket: the second computes nothing that is cheaper to download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amsam_ray.storage.open import open_storage
from tests.clusters.machines import NETWORK, Machine, missing
from tests.clusters.sweeps import bed
from tests.conftest import use

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
FIRST, SECOND, DISTANT = (f"{NETWORK}.{host}" for host in (4, 5, 6))
SHOTS, AT_FIRST = 20, 16  # AT_FIRST are downloaded before anything is measured


def train(machine: Machine, storage: str) -> dict[str, Any]:
    """Run the trial on a machine, print what it found, and return it."""
    output = machine.run(f"python -m tests.clusters.prepared_node {storage} --shots {SHOTS}", timeout=400)
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(machine.ip, json.dumps(found, indent=2))
    return found


def test_a_machine_downloads_what_another_computed_unless_computing_is_cheaper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := missing():
        pytest.skip(reason)
    with bed(tmp_path, (4, 5, 6)) as (lab, server):
        use(server, monkeypatch)
        storage = f"s3://{server.bucket}/lab"
        first = train(lab.machines[FIRST], storage)
        assert first["encoder_images"] == SHOTS
        entries = [entry for entry in open_storage(storage).list("prepared/") if "/features-" in f"/{entry.key}"]
        assert len(entries) == SHOTS
        print(f"in the bucket: {len(entries)} embeddings, {sum(entry.size for entry in entries) / 2**20:.1f} MiB")

        second = train(lab.machines[SECOND], storage)
        assert second["encoder_images"] == 0 and second["result"] == first["result"]
        assert f"{SHOTS} downloaded, 0 computed" in second["log"][-1]

        # An embedding of 800 KiB takes more than three seconds; computing it takes a third of one, on an idle machine.
        lab.machines[DISTANT].slow_down("2mbit")
        distant = train(lab.machines[DISTANT], storage)
        assert distant["encoder_images"] == SHOTS - AT_FIRST and distant["result"] == first["result"]
        assert f"{AT_FIRST} downloaded, {SHOTS - AT_FIRST} computed" in distant["log"][-1]
