"""Download datasets whose publishers offer a plain URL."""

from __future__ import annotations

import logging
import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from amsam_ray.data.definition import check_options
from amsam_ray.data.layout import Scan, scan
from amsam_ray.data.schema import Archive, DatasetDefinition, unsafe_path
from amsam_ray.data.tree import LocalTree
from amsam_ray.errors import AmsamError, InputError, Problem

# What zipfile raises for damaged archives, besides OSError.
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, RuntimeError, ValueError, LookupError),
)


def fetch_dataset(
    definition: DatasetDefinition, target: Path, *, say: Callable[[str], None] = lambda text: None
) -> Scan:
    """Download and unpack a dataset.

    Nothing is downloaded if ``target`` already holds the dataset. Archives are kept until they are unpacked, so an
    interrupted run continues where it stopped.

    Args:
        definition: the dataset; ``fetch`` lists its archives.
        target: folder to fill; becomes the data root.
        say: called with one sentence per step.

    Returns:
        The labelled images in ``target``.

    Raises:
        InputError: the publisher offers no plain URL; the message says how to get the files.
        AmsamError: a download fails, has another SHA-256 than stated, is not a zip archive or holds unsafe paths, or
            the unpacked files are not the dataset.
    """
    if not definition.fetch:
        page = f" ({definition.homepage})" if definition.homepage else ""
        what = f"has no plain URL; {definition.obtain}{page}"
        raise InputError(Problem(definition.name, what))
    found = _scan(definition, target)
    if found.train and found.test:
        say(f"{target} already holds {definition.title}")
        return found
    downloads = target / ".downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for archive in definition.fetch:
        say(f"downloading {archive.url}")
        path = _download(archive, downloads)
        say(f"unpacking {path.name}")
        unpack(path, target, archive.strip)
        path.unlink()
    shutil.rmtree(downloads)
    found = _scan(definition, target)
    if not (found.train and found.test):
        faults = "; ".join(f"{f.where}: {f.what}" for f in found.findings if f.severity == "fault")
        raise AmsamError(f"{target} was filled, but does not hold {definition.title}: {faults}")
    return found


def unpack(path: Path, target: Path, strip: int = 0) -> None:
    """Unpack a zip archive below ``target``, without the first ``strip`` folders of its paths.

    Raises:
        AmsamError: the file is not a zip archive or is damaged, or a path in it would leave ``target``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                parts = PurePosixPath(member.filename).parts
                if member.is_dir() or len(parts) <= strip or parts[0] == "__MACOSX":
                    continue
                inside = str(PurePosixPath(*parts[strip:]))
                if reason := unsafe_path(inside) or unsafe_path(member.filename):
                    raise AmsamError(f"{path.name} is refused: {reason}")
                destination = target / inside
                destination.parent.mkdir(parents=True, exist_ok=True)
                part = destination.with_name(f".{destination.name}.part")
                with archive.open(member) as source, part.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                part.replace(destination)
    except _BROKEN as error:
        path.unlink(missing_ok=True)
        raise AmsamError(
            f"{path.name} is not a usable zip archive ({error}); run the command again to download it"
        ) from None
    except OSError as error:
        raise AmsamError(
            f"{target} cannot be written ({error.strerror}); free space or choose another folder"
        ) from None


def _scan(definition: DatasetDefinition, target: Path) -> Scan:
    options, _ = check_options(definition, {})
    return scan(LocalTree(target), definition, options)


def _download(archive: Archive, folder: Path) -> Path:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)  # its own log lines would mix with ours
    known = f"sha256:{archive.sha256}" if archive.sha256 else None
    try:
        path = pooch.retrieve(archive.url, known, fname=archive.url.rsplit("/", 1)[1], path=folder)
    except (requests.RequestException, OSError, ValueError) as error:
        raise AmsamError(
            f"{archive.url} cannot be downloaded ({error}); run the command again, or get the file by hand"
        ) from None
    return Path(path)
