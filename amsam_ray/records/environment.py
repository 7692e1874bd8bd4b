"""The environment of a trial for its record: code version, packages and machine."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

import amsam_ray

_PACKAGES = (
    "amsam-ray",
    "boto3",
    "numpy",
    "optuna",
    "ray",
    "safetensors",
    "scipy",
    "segment-anything",
    "torch",
    "torchvision",
    "ultralytics",
)


class Environment(BaseModel):
    """The environment of a trial. Contains no host name, user name, path or environment variable.

    Attributes:
        version: version of amsam-ray.
        commit: commit of its source tree, None if it was installed from a package.
        dirty: True if tracked files differed from the commit.
        python, platform: Python version; operating system and processor architecture.
        packages: versions of the packages that can affect the scores.
        hardware: result of ``amsam_ray.device.hardware``.
    """

    model_config = ConfigDict(frozen=True)

    version: str
    commit: str | None = None
    dirty: bool | None = None
    python: str = ""
    platform: str = ""
    packages: dict[str, str] = {}
    hardware: dict[str, str] = {}


def describe_environment(hardware: Mapping[str, str]) -> Environment:
    """Return the environment of this process; git runs once per process."""
    commit, dirty = _source_state()
    return Environment(
        version=amsam_ray.__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=_package_versions(),
        hardware=dict(hardware),
    )


@cache
def _package_versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def _source_state() -> tuple[str | None, bool | None]:
    """Return (commit, dirty) of the checkout that contains this package, (None, None) if there is none."""
    package = Path(amsam_ray.__file__).resolve().parent
    top = _git(package, "rev-parse", "--show-toplevel")
    # A virtual environment inside another repository must not report the commit of that repository.
    if top is None or Path(top).resolve() != package.parent:
        return None, None
    status = _git(package, "status", "--porcelain", "--untracked-files=no")
    return _git(package, "rev-parse", "HEAD"), None if status is None else bool(status)


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
