"""Two workers over gloo compute what one worker with the joint batch computes."""

import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from amsam_ray import parallel
from amsam_ray.training.contrastive import sample_loss
from amsam_ray.training.loop import Roles
from tests.training.toys import toy_trainer

ROLES = Roles([0, 1, 2, 3], [4, 5, 6, 7])
RUNS: dict[str, dict[str, Any]] = {
    "am_sam, unrolled, calibration by batch": {"method": "am_sam", "calibration": "batch", "hypergradient": "unrolled"},
    "am_sam, exact, calibration by batch": {"method": "am_sam", "calibration": "batch", "hypergradient": "exact"},
    "am_mca_sam, first order": {"method": "am_mca_sam", "hypergradient": "first_order"},
    "am_mca_sam, exact": {"method": "am_mca_sam", "hypergradient": "exact"},
    "am_sam, drawn boxes": {"method": "am_sam", "box_training": "mix", "hypergradient": "first_order"},
    "mca_sam, one level": {"method": "mca_sam", "lr": 5e-3},
    "blo_sam, Dice over the batch": {"method": "blo_sam", "protocol": "published"},
    "samed, Dice over the batch": {"method": "samed", "protocol": "published", "lr": 0.1},
}


def _train(run: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    trainer = toy_trainer(epochs=2, batch_size=4, roles=ROLES, pictures=8, **run)
    curve = [trainer.epoch() for _ in range(2)]
    return {"weights": trainer.weights, "prompt": trainer.prompt, "curve": curve}


def _gradients_of_gathered() -> torch.Tensor:
    """For this worker's share of z: the gradient of the sample loss, and the gradient of that gradient's square."""
    torch.manual_seed(0)
    z, view = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    share = parallel.my_share(range(4))
    mine = z[share].requires_grad_()
    (grad,) = torch.autograd.grad(sample_loss(mine, view[share], 0.1), mine, create_graph=True)
    (second,) = torch.autograd.grad((grad**2).sum(), mine)
    return torch.stack([grad.detach(), second])


def _worker(rank: int, port: int, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        ends = {name: _train(run) for name, run in RUNS.items()}
        collected = parallel.collect([rank] * (rank + 1))
        results[rank] = (ends, _gradients_of_gathered(), collected)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def workers():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_worker, (port, results), nprocs=2)
        return dict(results)


@pytest.mark.parametrize("name", RUNS)
def test_two_workers_equal_one_with_the_joint_batch(workers, name):
    alone = _train(RUNS[name])
    for rank in (0, 1):
        together = workers[rank][0][name]
        for part in ("weights", "prompt"):
            assert torch.allclose(together[part], alone[part], rtol=1e-3, atol=2e-5), part
        for mine, theirs in zip(together["curve"], alone["curve"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4)


def test_workers_end_with_identical_weights(workers):
    for name in RUNS:
        assert torch.equal(workers[0][0][name]["weights"], workers[1][0][name]["weights"])


def test_gathered_negatives_carry_gradients_of_both_orders(workers):
    alone = _gradients_of_gathered()
    joint = torch.cat([workers[0][1], workers[1][1]], 1)
    # the workers' losses sum to twice the joint mean: gradients double, and gradients of their squares are fourfold
    assert torch.allclose(joint[0], 2 * alone[0], rtol=1e-9)
    assert torch.allclose(joint[1], 4 * alone[1], rtol=1e-9)


def test_collect_joins_in_rank_order(workers):
    assert workers[0][2] == workers[1][2] == [0, 1, 1]


def test_without_a_process_group_all_functions_are_the_identity():
    values = torch.randn(3, 2)
    assert parallel.mean(values) is values and parallel.gather(values) is values
    assert parallel.rank() == 0 and parallel.world_size() == 1
    assert parallel.my_share([4, 5, 6]) == [4, 5, 6]
    assert parallel.collect([1]) == [1]
