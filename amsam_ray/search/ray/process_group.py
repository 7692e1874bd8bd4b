"""The process group of a lane's workers, without a port that another machine could reach.

With Ray's ``TorchConfig``, torch's store of addresses listens on all interfaces and asks for no password. All workers
of a lane run on one node, so a file replaces the store, and the loopback interface carries the collectives'
connections.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from ray.train.torch.config import TorchConfig, _TorchBackend


@dataclass
class LaneTorchConfig(TorchConfig):
    """How the workers of one node set up torch.

    Attributes:
        folder: temporary folder of that node, created if it is missing.
    """

    folder: str = ""

    @property
    def backend_cls(self) -> type[_LaneBackend]:
        return _LaneBackend


class _LaneBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        workers = len(worker_group)
        store = Path(backend_config.folder) / f"group-{uuid.uuid4().hex}"
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
        ray.get(
            [
                worker_group.execute_single_async(rank, _join, store, backend, rank, workers, backend_config.timeout_s)
                for rank in range(workers)
            ]
        )


def _join(store: Path, backend: str, rank: int, workers: int, timeout_s: float) -> None:
    import torch.distributed as dist

    store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ[name] = "lo"
    dist.init_process_group(
        backend,
        init_method=f"file://{store}",
        rank=rank,
        world_size=workers,
        timeout=timedelta(seconds=timeout_s),
    )
