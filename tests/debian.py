"""Programs from Debian's packages for the slower suites, unpacked into a folder; nothing is installed on the system."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def cache_dir(name: str) -> Path:
    """Return the folder of a group of packages, in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amsam_ray" / name


def unpacked(packages: Sequence[str], cache: Path) -> Path:
    """Return the folder that packages and what they need are unpacked into; the first call downloads them, as root.

    Packages that are installed in their newest version are not in it.

    Raises:
        RuntimeError: there is no apt-get.
        subprocess.CalledProcessError: the packages cannot be downloaded.
    """
    root = cache / "root"
    if (cache / "complete").exists():
        return root
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"{', '.join(packages)} come from Debian's packages; apt-get is not here")
    (cache / "debs" / "partial").mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::Cache::archives={cache / 'debs'}", "-o", "APT::Sandbox::User=root"]
    command = ["apt-get", "-qq", "-y", "--no-install-recommends", "--download-only", *options, "install", *packages]
    if subprocess.run(command).returncode:  # package lists that are missing or outdated
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        subprocess.run(command, check=True)
    root.mkdir(exist_ok=True)
    for package in sorted((cache / "debs").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    (cache / "complete").touch()
    return root
