"""The driver's side of the template of Ray's workers: see ``template_process``.

Only for a Ray that this process starts on its own machine. Ray's command for starting a worker is replaced by
``worker_shim``, which asks the template for a fork and starts the worker the ordinary way if it gets none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from amsam_ray.search.ray import worker_shim

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
# Libraries start threads when they are imported, which a fork would lose: pyarrow's allocator one that returns memory,
# OpenBLAS one per core.
_NO_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false", "OPENBLAS_NUM_THREADS": "1"}


def start_template(folder: Path, modules: Sequence[str]) -> WorkerTemplate | None:
    """Return a template, or None, with a line in the log, where there can be none.

    Args:
        folder, modules: see WorkerTemplate.
    """
    try:
        if sys.platform != "linux":
            raise OSError("only Linux is supported")
        return WorkerTemplate(folder, modules)
    except OSError as error:
        logger.info("Template of Ray's workers: not used: %s; Ray starts its workers itself", error)
        return None


class WorkerTemplate:
    """The template process of this driver, from its construction to ``close``.

    Args:
        folder: the driver's temporary folder, which only its user can enter.
        modules: what the training workers import, in this order, after Ray.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, folder: Path, modules: Sequence[str]):
        self._closed = False
        self._socket = str(folder / "template")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._socket)
            listener.listen(1024)
            settings = {"listener": listener.fileno(), "path": sys.path, "modules": list(modules)}
            self._process = subprocess.Popen(  # noqa: S603  # a file of this package
                [sys.executable, str(_HERE / "template_process.py"), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"OMP_NUM_THREADS": "1", **os.environ, **_NO_THREADS},
                pass_fds=[listener.fileno()],
                start_new_session=True,  # so that Ctrl-C in the driver's terminal does not end the workers
            )
        threading.Thread(target=self._log, name="amsam-template", daemon=True).start()

    def _log(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                logger.info("Template of Ray's workers: %s", line.decode(errors="replace").strip())
        status = self._process.wait()  # its workers end when its id is free
        if not self._closed:
            logger.info("Template of Ray's workers: ended with status %d, and its workers with it", status)

    @contextlib.contextmanager
    def offered(self) -> Iterator[None]:
        """Let a Ray that is started inside fork its workers from the template."""
        from ray._private import ray_constants

        ordinary = ray_constants.SETUP_WORKER_FILENAME
        setup = Path(ray_constants.__file__).parent / "workers" / ordinary
        names = {worker_shim.SOCKET: self._socket, worker_shim.ORDINARY: str(setup)}
        os.environ.update(names)
        ray_constants.SETUP_WORKER_FILENAME = worker_shim.__file__  # joined to a folder, it stays as it is
        try:
            yield
        finally:
            ray_constants.SETUP_WORKER_FILENAME = ordinary
            for name in names:
                del os.environ[name]

    def close(self) -> None:
        """End the template. Workers that it has forked are not ended."""
        self._closed = True
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
