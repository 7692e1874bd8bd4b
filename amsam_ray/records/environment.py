"""What a trial ran on: code, packages and machine, as its record states them."""

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
    """Where a trial ran. Holds no host name, user name, path or environment variable.

    Attributes:
        version: of amsam-ray.
        commit: of its source tree, None where it was installed from a package.
        dirty: whether tracked files of that tree differed from the commit.
        packages: version of each package that the numbers depend on.
        hardware: as ``amsam_ray.device.hardware`` describes it.
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
    """This process's environment; asks git once and remembers the answer."""
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
    """(commit, whether it was changed) of the checkout that this package runs from, (None, None) if there is none."""
    package = Path(amsam_ray.__file__).resolve().parent
    top = _git(package, "rev-parse", "--show-toplevel")
    # An environment inside somebody's repository must not report that repository's commit as ours.
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
