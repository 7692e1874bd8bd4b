"""Which folder of the storage a sweep lives in: a new one, the one to continue, or the one to extend."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

import yaml

from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_file import parse_space, space_hash, sweep_id
from amsam_ray.errors import InputError, Problem
from amsam_ray.storage.base import NotFoundError, Storage


@dataclass(frozen=True)
class SweepFolder:
    """One sweep in storage.

    Attributes:
        sweep: its id, the folder's name below ``sweeps/``.
        spaces: hashes of the space files that have driven it, the last one last.
        created: seconds since the epoch.
        space: the space file that drives it, as plain data; None where there is no folder yet.
    """

    sweep: str
    spaces: tuple[str, ...] = ()
    created: float = 0.0
    space: dict[str, Any] | None = None

    @property
    def exists(self) -> bool:
        """Whether the sweep has been started before."""
        return self.space is not None


def folder_key(sweep: str) -> str:
    """Where a sweep's description is stored."""
    return f"sweeps/{sweep}/sweep.json"


def read_folder(storage: Storage, sweep: str) -> SweepFolder | None:
    """The sweep's description, None if there is none that can be read."""
    try:
        content = json.loads(storage.get(folder_key(sweep)))
        return SweepFolder(sweep, tuple(content["spaces"]), float(content["created"]), dict(content["space"]))
    except (NotFoundError, ValueError, KeyError, TypeError):
        return None


def stored_space(folder: SweepFolder) -> SpaceFile:
    """The space file of a sweep that exists. Raises InputError if this version cannot read it."""
    return parse_space(folder.space or {}, folder_key(folder.sweep))


def choose_folder(storage: Storage, space: SpaceFile, *, extend: bool, fresh: bool) -> SweepFolder:
    """The sweep that ``space`` continues or begins; writes nothing.

    Args:
        extend: go on with the newest sweep of this name although the file has changed since.
        fresh: begin a new folder beside those that exist.

    Raises:
        InputError: there is nothing to extend.
    """
    pattern = re.compile(re.escape(space.name) + r"-[0-9a-f]{8}(-\d+)?")
    names = [name for name in storage.folders("sweeps/") if pattern.fullmatch(name)]
    if fresh:
        return SweepFolder(_unused(sweep_id(space), names))
    known = sorted((f for name in names if (f := read_folder(storage, name))), key=lambda f: f.created)
    if extend:
        if not known:
            what = f"there is no sweep {space.name} in {storage.uri} to extend; run without --extend"
            raise InputError(Problem("--extend", what))
        return known[-1]
    same = [folder for folder in known if space_hash(space) in folder.spaces]
    return same[-1] if same else SweepFolder(_unused(sweep_id(space), names))


def write_folder(storage: Storage, folder: SweepFolder, space: SpaceFile) -> None:
    """Note that ``space`` now drives the sweep."""
    hashes = [h for h in folder.spaces if h != space_hash(space)] + [space_hash(space)]
    content = {
        "spaces": hashes,
        "created": folder.created or time.time(),
        "space": space.model_dump(mode="json", by_alias=True),
    }
    storage.put(folder_key(folder.sweep), json.dumps(content, sort_keys=True).encode())
    # For people, and to run again: the same as a space file, with every default filled in.
    storage.put(f"sweeps/{folder.sweep}/space.yaml", yaml.safe_dump(content["space"], sort_keys=False).encode())


def _unused(base: str, names: list[str]) -> str:
    if base not in names:
        return base
    used = [int(name.removeprefix(f"{base}-")) for name in names if re.fullmatch(re.escape(base) + r"-\d+", name)]
    return f"{base}-{max(used, default=1) + 1}"
