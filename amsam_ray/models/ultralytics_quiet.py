"""Imports ultralytics offline and silently; it writes only to a folder that the caller chooses.

By default, importing ultralytics writes settings to the home folder, contacts github.com and pypi.org, and changes
thread counts and print options of the process. All imports of it in this package go through this module.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

_OFFLINE = {
    "YOLO_OFFLINE": "true",  # no download of versions, fonts or assets
    "YOLO_AUTOINSTALL": "false",  # a checkpoint must not make pip install the packages that it names
    "YOLO_VERBOSE": "false",  # read at import; the logger then prints errors only
}


def import_ultralytics(state_dir: Path | None = None) -> ModuleType:
    """Import ultralytics, offline and silent.

    Args:
        state_dir: folder for the settings file that ultralytics always writes. None: a temporary folder, removed
            when the process ends. Only the first import in a process has an effect.

    Returns:
        The package.
    """
    if "ultralytics" not in sys.modules:
        if state_dir is None:
            state_dir = Path(tempfile.mkdtemp(prefix="amsam-ultralytics-"))
            atexit.register(shutil.rmtree, state_dir, ignore_errors=True)
        state_dir.mkdir(parents=True, exist_ok=True)
        os.environ.update(_OFFLINE)
        os.environ["YOLO_CONFIG_DIR"] = str(state_dir)
    with process_unchanged():
        import ultralytics
        from ultralytics.utils import SETTINGS

        if SETTINGS["sync"]:
            SETTINGS.update({"sync": False})  # no usage statistics
    return ultralytics


@contextlib.contextmanager
def process_unchanged() -> Iterator[None]:
    """Restore what ultralytics changes in the process: threads, print options, ``Image.open``, OMP_NUM_THREADS."""
    import cv2
    from PIL import Image

    opener = Image.open  # theirs tries to install a package when a file is not an image
    omp = os.environ.get("OMP_NUM_THREADS")
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    options = np.get_printoptions()
    try:
        yield
    finally:
        Image.open = opener
        if omp is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)
        torch.set_printoptions(profile="default")
        np.set_printoptions(**options)
