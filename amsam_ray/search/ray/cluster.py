"""The connection to Ray: a cluster started on this machine, or a running one."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amsam_ray
from amsam_ray.errors import AmsamError, Problem
from amsam_ray.search.ray.template import WorkerTemplate, start_template
from amsam_ray.search.ray.watchdog import Watchdog

logger = logging.getLogger(__name__)

# Read by Ray when it is imported, by its workers, or by Tune when it starts.
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Lanes have no placement group of the trial's size, so Tune's guess of how many trials may wait is of no use: with
    # a search algorithm it is one, which starts lanes one after the other (ray-project/ray pull 63770).
    "TUNE_MAX_PENDING_TRIALS_PG": "4096",
    # Curves and records are ours; Tune's snapshots are not used to continue a sweep.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A lane closes within seconds, or within two minutes if it uploads results to a storage that was unavailable.
    "TUNE_FORCE_TRIAL_CLEANUP_S": "150",
    "TUNE_WARN_THRESHOLD_S": "5",
    "RAY_AIR_NEW_OUTPUT": "0",
    # How soon a dead training worker is noticed.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Each of these is a process or a thread per lane that watches what the lane watches itself.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_enable_metrics_collection": "0",
    # Ray starts only as many workers at once as there are cores, although a starting process mostly waits.
    "RAY_worker_maximum_startup_concurrency": "16",
}

_REMEDY = "start one with `ray up` or `ray start --head`, or omit --address to run on this machine"
_NO_CLIENT = (
    "is an address of Ray Client, under which Ray Tune moves its driver into an actor, away from the sweep's state; "
    "submit the sweep with the URL of the dashboard (http://HOST:8265), or run on a node with --address auto"
)
_ANSWER_S = 10.0  # how long a cluster may take to accept a connection
# What training workers import: forks of a template have it already.
_TRAINING = ("torch", "amsam_ray.training.trial", "amsam_ray.training.sod_package")
_PREFIX = "amsam-"
_STARTS = 3
_OBJECT_STORE_BYTES = 256 << 20  # nothing large goes through it


def prepare_environment() -> None:
    """Set Ray's environment variables that the user has not set. Call before the first import of ray."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def check_ray(address: str | None) -> list[Problem]:
    """Return what prevents Ray's workers from running this package, as far as it is known without Ray.

    Args:
        address: as for ``connected``.
    """
    if address is None:
        # Ray puts the driver's working directory first on its workers' path.
        here, own = Path.cwd() / "amsam_ray" / "__init__.py", Path(amsam_ray.__file__)
        if here.is_file() and not here.samefile(own):
            what = f"holds another amsam_ray than {own.parent}, and Ray's workers would use it; run from another folder"
            return [Problem(str(Path.cwd()), what)]
        return []
    if address == "auto":
        return []
    if address.startswith("ray://"):
        return [Problem("--address", f"{address} {_NO_CLIENT}")]
    parts = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):(\d{1,5})", address)
    if parts is None:
        what = f"{address!r} is not an address; use auto, host:port or the http:// URL of a dashboard"
        return [Problem("--address", what)]
    try:
        socket.create_connection((parts[1].strip("[]"), int(parts[2])), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        what = f"nothing answers at {address} ({error}); {_REMEDY}"
        return [Problem("--address", what)]
    return []


@contextlib.contextmanager
def connected(address: str | None, cpus: float | None = None) -> Iterator[Path]:
    """Connect to Ray and yield a temporary folder for its files.

    Args:
        address: of a running cluster; None starts one on this machine that ends with this process.
        cpus: number of CPU cores of a cluster on this machine; None: all.

    Raises:
        AmsamError: no cluster answers at ``address``, or Ray does not start.
    """
    prepare_environment()
    import ray

    # Takes a second, in which Ray's processes start.
    threading.Thread(target=importlib.import_module, args=["ray.tune"], name="amsam-import", daemon=True).start()
    folder = make_folder()
    watchdog = Watchdog(folder)
    template: WorkerTemplate | None = None
    try:
        if address is None:
            with watchdog.mark(), _loopback_only(), _few_processes():
                template = start_template(folder, _TRAINING)
                with contextlib.nullcontext() if template is None else template.offered():
                    _start(cpus, folder)
        else:
            _join(address)
        yield folder
    finally:
        ray.shutdown()
        if template is not None:
            template.close()
        watchdog.close()


@contextlib.contextmanager
def _few_processes() -> Iterator[None]:
    """Let Ray start inside without the processes that a sweep on one machine does not need.

    These are an autoscaler's monitor, what is left of a dashboard where none is wanted, for whose start Ray waits, and
    a reader of the workers' logs, which nobody asks for. Each imports Ray.
    """
    from ray._private import node, parameter

    few = functools.partial(parameter.RayParams, no_monitor=True, include_log_monitor=False)  # type: ignore[arg-type]
    with _replaced(parameter, "RayParams", few), _replaced(node.Node, "start_api_server", _no_api_server):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _no_api_server(node: Any, **settings: Any) -> None:
    node._webui_url = ""


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Let Ray start inside as few servers as it can, which listen on the loopback interface only.

    Where ray[default] is installed, Ray starts each node's agent with the servers of a dashboard and of jobs, even
    without a dashboard; where it is not, without them. This makes it believe the latter.

    Ray replaces 127.0.0.1 by the machine's own address, and then listens on all interfaces, unless clusters are
    disabled: by default so on macOS and Windows, elsewhere by RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0. Ray reads the
    variable when it is imported, which may have happened, so this sets what it sets.
    """
    from ray._private import ray_constants, utils

    missing = ImportError("a sweep on one machine needs no dashboard")
    with (
        _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False),
        _replaced(utils, "get_dashboard_dependency_error", lambda: missing),
    ):
        yield


def _start(cpus: float | None, folder: Path) -> None:
    import ray

    for attempt in range(_STARTS):
        try:
            ray.init(
                address="local",
                num_cpus=None if cpus is None else int(cpus),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=str(folder / "ray"),  # Ray opens it to all users, who cannot enter the folder around it
                _node_ip_address="127.0.0.1",
            )
        except Exception as error:
            # Ray gives its node 30 s, which a busy machine may miss. It then raises a bare Exception without a code, so
            # only the text distinguishes this from other failures.
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            logger.warning("Ray did not start within its 30 s (attempt %d of %d).", attempt + 1, _STARTS)
        else:
            _protect_token()
            return
    raise AmsamError(
        f"Ray did not start on this machine within 30 s, {_STARTS} times: the machine is too busy. Reduce "
        "the load and run the same command again."
    )


def _protect_token() -> None:
    """Make Ray's authentication token readable by its owner alone; Ray leaves its permissions to the umask."""
    with contextlib.suppress(OSError):
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


def make_folder() -> Path:
    """Return a new temporary folder of this process, after removing those of processes of ours that were killed."""
    # Ray's folder holds sockets, and the kernel allows 107 characters for their paths.
    base = Path("/tmp" if len(tempfile.gettempdir()) > 16 else tempfile.gettempdir())  # noqa: S108
    _remove_leftovers(base)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))


def _remove_leftovers(base: Path) -> None:
    """Remove the folders of processes that were killed: those of ours whose process has ended."""
    for folder in base.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdigit() and folder.stat().st_uid == os.getuid() and not _alive(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AmsamError(f"There is no Ray cluster at {address} ({first.rstrip('.')}); {_REMEDY}.") from error
