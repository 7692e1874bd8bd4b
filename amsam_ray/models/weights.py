"""The published weights: their URLs, their local paths, download and verification. Imports no torch.

Sizes and SHA-256 are those that several independent projects pin for the publisher's files (among them micro-sam and
3D Slicer's segmentation extension). The hexadecimal part of an official SAM file name is the start of its MD5, that of
torchvision's file names the start of their SHA-256.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import requests
from filelock import FileLock

from amsam_ray.config.networks import BackboneConfig
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.hashing import file_sha256
from amsam_ray.paths import weights_dir

_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"
_MOBILE_SAM_URL = "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights"
_YOLO_URL = "https://github.com/ultralytics/assets/releases/download/v8.3.0"
_TORCHVISION_URL = "https://download.pytorch.org/models"
_ASSETS = Path(__file__).parent / "assets"
NANO_FILE = _ASSETS / "nano_sam.safetensors"


@dataclass(frozen=True)
class WeightsFile:
    """A published weights file.

    Attributes:
        name: the name in `weights fetch` and in space files.
        url: the publisher's URL.
        sha256: 64 hex digits.
        size: in bytes.
        licence: the licence of the weights.
    """

    name: str
    url: str
    sha256: str
    size: int
    licence: str

    @property
    def file(self) -> str:
        """The publisher's file name."""
        return self.url.rsplit("/", 1)[1]


WEIGHTS = {
    weights.name: weights
    for weights in (
        WeightsFile(
            "vit_b",
            f"{_SAM_URL}/sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375_042_383,
            "Apache-2.0",
        ),
        WeightsFile(
            "vit_l",
            f"{_SAM_URL}/sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1_249_524_607,
            "Apache-2.0",
        ),
        WeightsFile(
            "vit_h",
            f"{_SAM_URL}/sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2_564_550_879,
            "Apache-2.0",
        ),
        WeightsFile(
            "mobile_sam",
            f"{_MOBILE_SAM_URL}/mobile_sam.pt",
            "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            40_728_226,
            "Apache-2.0",
        ),
        WeightsFile(
            "yolov8n.pt",
            f"{_YOLO_URL}/yolov8n.pt",
            "f59b3d833e2ff32e194b5bb8e08d211dc7c5bdf144b90d2c8412c47ccfc83b36",
            6_549_796,
            "AGPL-3.0",
        ),
        WeightsFile(
            "resnet50",
            f"{_TORCHVISION_URL}/resnet50-0676ba61.pth",
            "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
            102_530_333,
            "BSD-3-Clause",
        ),
        WeightsFile(
            "swin_t",
            f"{_TORCHVISION_URL}/swin_t-704ceda3.pth",
            "704ceda373461b0a224fcdddd75cd2a5e9f8064512ed47adbddef7f343fd147b",
            113_445_839,
            "BSD-3-Clause",
        ),
    )
}


def get_weights(name: str) -> WeightsFile:
    """Return the file called ``name``, or with that file name. Raises InputError that lists the known names."""
    for weights in WEIGHTS.values():
        if name in (weights.name, weights.file):
            return weights
    raise InputError(Problem(name, f"is not a published weights file; choose from {', '.join(WEIGHTS)}"))


def describe_expected(arch: str) -> str:
    """Describe the expected checkpoint of ``arch``, for error messages."""
    weights = WEIGHTS.get(arch)
    if weights is None:
        return f"expected the shipped {NANO_FILE.name}"
    return (
        f"the official file is {weights.file}, {weights.size} bytes, SHA-256 {weights.sha256} "
        f"(`amsam-ray weights fetch {arch}`)"
    )


def resolve_checkpoint(config: BackboneConfig) -> tuple[Path, str | None]:
    """Return the file that a backbone is loaded from and its required SHA-256 (None: any).

    Raises:
        InputError: the file does not exist.
    """
    official = WEIGHTS.get(config.arch)
    if config.checkpoint is not None:
        path = Path(config.checkpoint).expanduser()
        by_name = {weights.file: weights.sha256 for weights in WEIGHTS.values()}
        pinned = config.sha256 or by_name.get(path.name)
    elif official is None:
        path, pinned = NANO_FILE, config.sha256
    else:
        path, pinned = weights_dir() / official.file, config.sha256 or official.sha256
    if not path.is_file():
        raise InputError(
            Problem(str(path), f"does not exist; backbone {config.arch}: {describe_expected(config.arch)}")
        )
    return path, pinned


def check_backbone(config: BackboneConfig, where: str = "backbone") -> list[Problem]:
    """Return the problems of a backbone's file that are visible without reading it: existence and size."""
    try:
        path, pinned = resolve_checkpoint(config)
    except InputError as error:
        return [Problem(f"{where}.checkpoint", str(problem)) for problem in error.problems]
    official = WEIGHTS.get(config.arch)
    size = path.stat().st_size
    if official and pinned == official.sha256 and size != official.size:
        return [Problem(f"{where}.checkpoint", f"{path} has {size} bytes; {describe_expected(config.arch)}")]
    return []


def find_published(name: str) -> Path:
    """Return the path of a fetched file.

    Args:
        name: in ``WEIGHTS``.

    Raises:
        InputError: it is not on this machine, or of another size.
    """
    weights = get_weights(name)
    path = weights_dir() / weights.file
    if not path.is_file():
        raise InputError(Problem(str(path), f"does not exist; run `amsam-ray weights fetch {name}`"))
    if (size := path.stat().st_size) != weights.size:
        what = f"has {size} bytes, and the published file {weights.size}; run `amsam-ray weights fetch {name}`"
        raise InputError(Problem(str(path), what))
    return path


def check_published(name: str) -> list[Problem]:
    """Return the problems of a published file that are visible without reading it: existence and size."""
    try:
        find_published(name)
    except InputError as error:
        return error.problems
    return []


def _download(url: str, part: Path, size: int, progress: Callable[[int], None]) -> None:
    """Append the missing bytes of ``url`` to ``part``. Raises requests.RequestException if the connection breaks."""
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as answer:
        if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise requests.ConnectionError("the server has fewer bytes than the part that is already downloaded")
        answer.raise_for_status()
        resumed = answer.status_code == HTTPStatus.PARTIAL_CONTENT
        done = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            for chunk in answer.iter_content(1 << 16):
                file.write(chunk)
                done += len(chunk)
                progress(done)
    if done < size:
        raise requests.ConnectionError(f"the connection ended after {done} of {size} bytes")


def fetch(
    weights: WeightsFile,
    directory: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """Download and verify a published file.

    Received bytes are kept in ``<file>.part``. After a broken connection, this call or a later one resumes with an
    HTTP range request. The file gets its final name only after verification.

    Args:
        weights: the file to download.
        directory: the target folder; None: ``weights_dir()``.
        progress: called with the number of bytes received so far.
        attempts: the maximum number of connections.
        pause: seconds before the second attempt; doubles with each further attempt.

    Returns:
        The path of the file.

    Raises:
        AmsamError: the server cannot be reached or returns an error, or the bytes have another SHA-256 (the partial
            file is then removed).
    """
    directory = directory or weights_dir()
    directory.mkdir(parents=True, exist_ok=True)
    target, part = directory / weights.file, directory / f"{weights.file}.part"
    with FileLock(directory / f".{weights.file}.lock"):
        if target.exists() and file_sha256(target) == weights.sha256:
            return target
        for attempt in range(attempts):
            try:
                _download(weights.url, part, weights.size, progress)
                break
            except requests.HTTPError as error:
                raise AmsamError(f"{weights.url}: {error}") from error
            except (requests.RequestException, OSError) as error:
                if attempt == attempts - 1:
                    raise AmsamError(
                        f"{weights.url}: {error}. The received bytes are kept in {part}. "
                        "Run the same command to resume."
                    ) from error
                time.sleep(pause * 2**attempt)
        found = file_sha256(part)
        if found != weights.sha256:
            size = part.stat().st_size
            part.unlink()
            raise AmsamError(
                f"{weights.url}: got {size} bytes with SHA-256 {found}, expected {weights.size} bytes with "
                f"{weights.sha256}. The file is removed; run the command again."
            )
        part.replace(target)
    return target
