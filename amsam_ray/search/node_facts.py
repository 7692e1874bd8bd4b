"""What one machine says about itself for ``amsam-ray doctor``. Uses no Ray, so that it runs on any node."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import amsam_ray
from amsam_ray.config.space import SpaceFile
from amsam_ray.data.definition import check_dataset_config
from amsam_ray.paths import cache_dir
from amsam_ray.storage.base import NotFoundError, StorageError
from amsam_ray.storage.open import check_storage, open_storage

_GIB = 2**30
_TORCH_S = 120.0


@dataclass(frozen=True)
class Request:
    """What to look at on every node.

    Attributes:
        storage: URI of the results; None: do not check it.
        shared_key: key of an object that the driver has written there; None: there is none.
        space: the space file whose data and weights are needed; None: do not check them.
    """

    storage: str | None = None
    shared_key: str | None = None
    space: SpaceFile | None = None


@dataclass(frozen=True)
class NodeFacts:
    """What one machine says about itself.

    Attributes:
        versions: of Python, this package, Ray and torch.
        clock: seconds since the epoch, at the beginning.
        cores: number of processors.
        memory_gib: available memory.
        disk_gib: free space where the caches are.
        cache: the folder of the caches.
        gpus: a name per GPU that NVIDIA's driver reports.
        driver: version of that driver, empty if there is none.
        torch_gpus: number of GPUs that torch can use.
        problems: subject (``storage``, ``data``, ``weights``) -> what is wrong, with the remedy; an empty list if the
            check passed, no entry if it was not made.
        conditional: whether the storage honours conditional writes; None if that is unknown.
    """

    versions: Mapping[str, str]
    clock: float
    cores: int
    memory_gib: float
    disk_gib: float
    cache: str
    gpus: Sequence[str] = ()
    driver: str = ""
    torch_gpus: int = 0
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    conditional: bool | None = None


def examine(request: Request) -> NodeFacts:
    """Return the facts of this machine. Writes a small object to the storage and deletes it again."""
    clock = time.time()
    gpus, driver = _gpus()
    problems: dict[str, list[str]] = {}
    conditional = None
    if request.storage is not None:
        problems["storage"], conditional = _look_at_storage(request.storage, request.shared_key)
    if request.space is not None:
        problems["data"] = [
            str(problem)
            for index, dataset in enumerate(request.space.datasets)
            for problem in check_dataset_config(dataset, max(request.space.shots), f"datasets[{index}]")
        ]
        problems["weights"] = _look_at_weights(request.space)
    return NodeFacts(
        versions=versions(),
        clock=clock,
        cores=os.cpu_count() or 0,
        memory_gib=_available_memory() / _GIB,
        disk_gib=_free_disk(cache_dir()) / _GIB,
        cache=str(cache_dir()),
        gpus=gpus,
        driver=driver,
        torch_gpus=_torch_gpus() if gpus else 0,
        problems=problems,
        conditional=conditional,
    )


def versions() -> dict[str, str]:
    """Return the versions that must be equal on all nodes."""
    found = {"Python": platform.python_version(), "amsam-ray": amsam_ray.__version__}
    return found | {name: metadata.version(name) for name in ("ray", "torch")}


def _look_at_storage(uri: str, shared_key: str | None) -> tuple[list[str], bool | None]:
    if problems := check_storage(uri, uri):
        return [problem.what for problem in problems], None
    storage = open_storage(uri, patient=False)
    if shared_key is not None:
        try:
            storage.get(shared_key)
        except NotFoundError:
            what = f"{uri} is not the folder that the driver writes to"
            return [f"{what}; give a folder that all nodes share, or s3://bucket/prefix"], None
        except StorageError as error:
            return [str(error)], None
    return [], storage.atomic


def _look_at_weights(space: SpaceFile) -> list[str]:
    from amsam_ray.models.detector_file import check_detector
    from amsam_ray.models.weights import check_backbone

    return [str(problem) for problem in (*check_backbone(space.backbone), *check_detector(space.detector))]


def _gpus() -> tuple[list[str], str]:
    """Return a name per GPU, and the driver's version, as NVIDIA's tool states them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [], ""
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return [], ""
    rows = [line.rpartition(",") for line in told.splitlines() if "," in line]
    return [name.strip() for name, _, _ in rows], rows[0][2].strip() if rows else ""


def _torch_gpus() -> int:
    """Return how many GPUs torch can use, from a process of its own: Ray hides GPUs from a task that asks for none."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [
        sys.executable,
        "-c",
        "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)",
    ]
    try:
        told = subprocess.run(  # noqa: S603  # this interpreter
            command, env=environment, capture_output=True, text=True, timeout=_TORCH_S, check=True
        ).stdout
        return int(told.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0


def _available_memory() -> int:
    """Return the bytes that programs can still allocate without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_disk(folder: Path) -> int:
    """Return the free bytes of the file system that holds ``folder``, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
