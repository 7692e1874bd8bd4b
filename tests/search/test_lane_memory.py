"""The estimate of a lane's memory, and lanes that follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amsam_ray.config.space import ResourcesSection, SpaceFile
from amsam_ray.config.space_file import load_space, parse_space, sweep_id
from amsam_ray.errors import InputError
from amsam_ray.search.lane_memory import LaneMemory, lane_memory
from amsam_ray.search.lane_size import GIB, LANE_CPUS, LaneSize, lane_size
from tests.search.spaces import space

ROOT = Path(__file__).parents[2]
AUTO = {"memory_gib": "auto"}


def of(arch: str = "nano", method: str = "samed", shots: int = 4, image_size: int = 0, **train: Any) -> SpaceFile:
    return parse_space(
        {
            "name": "memory",
            "datasets": ["procedural"],
            "shots": [shots],
            "methods": [method],
            "backbone": {"arch": arch, "image_size": image_size},
            "train": train,
        }
    )


def gib(given: SpaceFile, *, on_gpu: bool = False) -> float:
    return lane_memory(given).of_worker(1, on_gpu=on_gpu) / GIB


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (of(), of(arch="vit_b", image_size=256)),
        (of(arch="vit_b"), of(arch="vit_h")),
        (of(arch="vit_b", image_size=512), of(arch="vit_b")),
        (of(arch="vit_b", method="blo_sam"), of(arch="vit_b")),
        (of(arch="vit_b", checkpointing="on"), of(arch="vit_b")),
        (of(arch="vit_b"), of(arch="vit_b", batch_size=2)),
        (of(arch="vit_b", method="sam"), of(arch="vit_b", method="sam", shots=400)),
        (of(arch="vit_b", precision="bf16"), of(arch="vit_b")),
        (of(), of(augment={"views": 64}, arch="vit_b", image_size=256)),
        (of(method="deeplabv3"), of(method="deeplabv3", batch_size=8)),
    ],
)
def test_estimate_grows_with_what_a_lane_holds(less: SpaceFile, more: SpaceFile) -> None:
    assert gib(less) < gib(more)


def test_step_on_a_gpu_takes_the_gpus_memory() -> None:
    given = of(arch="vit_b")
    assert gib(given, on_gpu=True) < gib(given)
    assert gib(given, on_gpu=True) == gib(of(arch="vit_b", batch_size=4), on_gpu=True)


def test_searched_values_count() -> None:
    searched = {"views": {"choice": [0, 64]}, "lr": {"loguniform": [1e-4, 1e-2]}}
    assert gib(space(shots=(100,), space=searched)) > gib(space(shots=(100,)))


@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        ({"memory_gib": 6}, LaneSize(1, 1, 0, 6 * GIB)),
        ({"memory_gib": 6, "workers_per_lane": 2, "cpus_per_lane": 2}, LaneSize(2, 1, 0, 3 * GIB)),
        ({"memory_gib": 0}, LaneSize(1, 1, 0, 0)),
        ({}, LaneSize(1, 1, 0, 5 * GIB)),
        ({"gpus_per_lane": 1}, LaneSize(1, 1, 1, 3 * GIB)),
        ({"workers_per_lane": 2, "cpus_per_lane": 2}, LaneSize(2, 1, 0, 4 * GIB + GIB // 2)),
    ],
)
def test_memory_of_a_lane_is_shared_by_its_workers(wanted: dict[str, Any], size: LaneSize) -> None:
    estimate = LaneMemory(lane=GIB, on_cpu=4 * GIB, on_gpu=2 * GIB)
    assert lane_size(ResourcesSection(**wanted), [{"CPU": 4.0}], estimate) == size


@pytest.mark.parametrize(
    ("size", "node", "fits", "others"),
    [
        (LaneSize(1, 1, 0, 4 * GIB), {"CPU": 8.0, "memory": 10.0 * GIB}, 2, 8),
        (LaneSize(1, 1, 0, 4 * GIB), {"CPU": 8.0, "memory": 3.9 * GIB}, 0, 8),
        (LaneSize(1, 1, 0, 4 * GIB), {"CPU": 1.0, "memory": 10.0 * GIB}, 1, 1),
        (LaneSize(2, 1, 0, 4 * GIB), {"CPU": 8.0, "memory": 12.0 * GIB}, 1, 4),
        (LaneSize(1, 1, 0.5, 4 * GIB), {"CPU": 8.0, "GPU": 1.0, "memory": 4.0 * GIB}, 1, 2),
        (LaneSize(1, 1, 0, 4 * GIB), {"CPU": 8.0}, 8, 8),
        (LaneSize(1, 1, 0, 0), {"CPU": 8.0, "memory": 1.0}, 8, 8),
    ],
)
def test_lanes_on_a_node_follow_its_memory(size: LaneSize, node: dict[str, float], fits: int, others: int) -> None:
    assert (size.fits(node), size.fits_without_memory(node)) == (fits, others)
    assert (size.lack_of_memory(node) is None) == (fits == others)


@pytest.mark.parametrize("cpus", [0.01, 0.5, 1.0, 8.0])
def test_workers_leave_room_for_the_processes_of_lanes(cpus: float) -> None:
    worker = LaneSize(1, cpus, 0).worker_cpus
    assert worker + LANE_CPUS <= cpus + 1e-9
    if cpus >= 1:  # Ray may place the processes of all lanes on the node that has room for one worker
        assert worker + 100 * LANE_CPUS <= cpus + 1e-9


def test_what_a_lane_reserves_names_its_memory() -> None:
    assert LaneSize(1, 1, 0.5, GIB).request == {"CPU": 1, "GPU": 0.5, "memory": GIB}
    assert LaneSize(1, 1, 0).bundle.keys() == {"CPU"}


@pytest.mark.parametrize("value", [-1, 2_000_000, float("nan"), float("inf"), True, "8GB", None, [8]])
def test_bad_memory_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"resources\.memory_gib"):
        space(resources={"memory_gib": value})


def test_sweep_keeps_its_name_and_its_stored_copy() -> None:
    before, automatic, other = (space(resources={"lanes": 2, **more}) for more in ({}, AUTO, {"memory_gib": 3}))
    assert sweep_id(before) == sweep_id(automatic) == sweep_id(other)
    assert "memory_gib" not in automatic.model_dump(mode="json", by_alias=True)["resources"]
    assert parse_space(other.model_dump(mode="json", by_alias=True)) == other


def test_demo_gets_as_many_lanes_as_before_on_a_small_machine() -> None:
    demo = load_space(ROOT / "search_spaces" / "demo.yaml")
    node = {"CPU": 2.0, "memory": 8.0 * GIB}
    assert lane_size(demo.resources, [node], lane_memory(demo)).fits(node) == 2
