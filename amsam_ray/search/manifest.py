"""The manifest of a sweep in storage, and the choice of the sweep that a run begins, continues or extends."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_file import parse_space, space_hash, sweep_id
from amsam_ray.errors import InputError, Problem
from amsam_ray.records.io import records_folder
from amsam_ray.search.cells import Prior
from amsam_ray.search.prior import read_prior
from amsam_ray.storage.base import NotFoundError, Storage


@dataclass(frozen=True)
class SweepManifest:
    """The description of one sweep in storage.

    Attributes:
        sweep: the sweep's id, its folder below ``sweeps/``.
        spaces: hashes of the space files that it has been run with, the latest last.
        created: seconds since the Unix epoch.
        space: the space file that it was last run with, as plain data; None for a sweep that does not exist yet.
        earlier: the newest sweep that this one begins beside because the space file has changed, else None.
        prior: the first points that ``search.prior`` gave when the sweep began, so that a continued one tries the same.
    """

    sweep: str
    spaces: tuple[str, ...] = ()
    created: float = 0.0
    space: dict[str, Any] | None = None
    earlier: str | None = None
    prior: Prior = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        """Whether the sweep has been started before."""
        return self.space is not None

    @property
    def note(self) -> str | None:
        """One sentence on a sweep that begins beside an earlier one, else None."""
        if self.earlier is None:
            return None
        return (
            f"the space file has changed: this is a new sweep beside {self.earlier}; to continue that one, stop this "
            "run before its first trial ends and add --extend"
        )


def manifest_key(sweep: str) -> str:
    """Return the storage key of a sweep's manifest."""
    return f"sweeps/{sweep}/sweep.json"


def read_manifest(storage: Storage, sweep: str) -> SweepManifest | None:
    """Return a sweep's manifest, None if it is missing. Raises InputError if it is damaged."""
    key = manifest_key(sweep)
    try:
        content = json.loads(storage.get(key))
        prior = {method: tuple(map(dict, points)) for method, points in content.get("prior", {}).items()}
        spaces, created, space = tuple(content["spaces"]), float(content["created"]), dict(content["space"])
        return SweepManifest(sweep, spaces, created, space, prior=prior)
    except NotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        what = "is damaged; restore it from a backup, or delete it to begin a new sweep beside this one's records"
        raise InputError(Problem(f"{storage.uri}/{key}", what)) from None


def stored_space(manifest: SweepManifest) -> SpaceFile:
    """Return the space of an existing sweep. Raises InputError if this version cannot read it."""
    return parse_space(manifest.space or {}, manifest_key(manifest.sweep))


def choose_sweep(storage: Storage, space: SpaceFile, *, extend: bool, fresh: bool) -> SweepManifest:
    """Return the manifest of the sweep that ``space`` continues or begins. Writes nothing.

    Args:
        extend: continue the newest sweep of this name that has records, although the file has changed.
        fresh: begin a new sweep beside the existing ones.

    Raises:
        InputError: no sweep exists to extend, or ``search.prior`` cannot be used.
    """
    found = _choose(storage, space, extend=extend, fresh=fresh)
    before = found.space and found.space.get("search", {}).get("prior")
    if space.search.prior == before:
        return found
    return replace(found, prior=read_prior(storage, space))


def _choose(storage: Storage, space: SpaceFile, *, extend: bool, fresh: bool) -> SweepManifest:
    pattern = re.compile(re.escape(space.name) + r"-[0-9a-f]{8}(-\d+)?")
    names = [name for name in storage.folders("sweeps/") if pattern.fullmatch(name)]
    if fresh:
        return SweepManifest(_unused(sweep_id(space), names))
    known = sorted((f for name in names if (f := read_manifest(storage, name))), key=lambda f: f.created)
    if extend:
        if not known:
            what = f"there is no sweep {space.name} in {storage.uri} to extend; omit --extend"
            raise InputError(Problem("--extend", what))
        return _newest(storage, known)
    same = [manifest for manifest in known if space_hash(space) in manifest.spaces]
    if same:
        return same[-1]
    return SweepManifest(_unused(sweep_id(space), names), earlier=_newest(storage, known).sweep if known else None)


def _newest(storage: Storage, known: list[SweepManifest]) -> SweepManifest:
    """Return the newest sweep with records, or the newest: one that was stopped at once holds nothing to continue."""
    recorded = (manifest for manifest in reversed(known) if any(storage.list(records_folder(manifest.sweep))))
    return next(recorded, known[-1])


def write_manifest(storage: Storage, manifest: SweepManifest, space: SpaceFile) -> None:
    """Record that the sweep is now run with ``space``."""
    hashes = [h for h in manifest.spaces if h != space_hash(space)] + [space_hash(space)]
    content = {
        "spaces": hashes,
        "created": manifest.created or time.time(),
        "space": space.model_dump(mode="json", by_alias=True),
    } | ({"prior": manifest.prior} if manifest.prior else {})
    storage.put(manifest_key(manifest.sweep), json.dumps(content, sort_keys=True).encode())
    # The same as a space file with all defaults, for people to read and to run again.
    storage.put(f"sweeps/{manifest.sweep}/space.yaml", yaml.safe_dump(content["space"], sort_keys=False).encode())


def _unused(base: str, names: list[str]) -> str:
    if base not in names:
        return base
    used = [int(name.removeprefix(f"{base}-")) for name in names if re.fullmatch(re.escape(base) + r"-\d+", name)]
    return f"{base}-{max(used, default=1) + 1}"
