"""Ray Train's trainer without the processes that a lane does not need.

A Train run starts, besides its workers, a controller, a dataset manager, a process that removes placement groups and
one that asks an autoscaler for nodes. Each imports Ray Train, some of them torch, which takes seconds of a core. A
lane has no Ray datasets, the driver removes placement groups and asks for nodes (see ``placement_groups`` and
``capacity``), and the controller can run in a thread of the lane, whose life it shares anyway.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ray import train
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

_LEFT_OUT = {"PlacementGroupCleanerCallback", "DatasetsCallback"}


class _FixedSize(FixedScalingPolicy):
    """A fixed number of workers, of which no autoscaler is told."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Do nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Do nothing."""

    def _cancel_resource_request(self) -> None:
        """Do nothing."""


class _InProcess:
    """Mixed into a trainer: runs its controller in the calling thread."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # of the trainer
        return [callback for callback in callbacks if type(callback).__name__ not in _LEFT_OUT]

    def _initialize_and_run_controller(self, **settings: Any) -> train.Result:
        settings["scaling_policy"] = _FixedSize(settings["scaling_policy"].scaling_config)
        controller = TrainController(**settings)
        asyncio.run(controller.run())
        return controller.get_result()


class _LoneTrainer(_InProcess, DataParallelTrainer):
    """For one worker, which needs no process group: the lane's process then need not import torch."""


def make_trainer(*args: Any, scaling_config: train.ScalingConfig, folder: Path, **kwargs: Any) -> DataParallelTrainer:
    """Return a trainer with the arguments of ``ray.train.torch.TorchTrainer``, which blocks in ``fit``.

    Args:
        folder: temporary folder, for the file through which the workers of a process group meet.
    """
    if scaling_config.num_workers == 1:
        return _LoneTrainer(*args, scaling_config=scaling_config, **kwargs)
    from ray.train.torch import TorchTrainer

    from amsam_ray.search.ray.process_group import LaneTorchConfig

    class GroupTrainer(_InProcess, TorchTrainer):
        """For several workers, in a process group."""

    trainer: DataParallelTrainer = GroupTrainer(  # type: ignore[assignment]  # its base has no type
        *args, scaling_config=scaling_config, torch_config=LaneTorchConfig(folder=str(folder)), **kwargs
    )
    return trainer
