"""The frozen networks of an adapter file: found by fingerprint, or given by the user.

An adapter file may come from anyone. Its configuration names files of the machine that trained it
(``backbone.checkpoint``, ``detector.weights``) and may allow a pickle to run code (``detector.trust``). None of this is
followed: the backbone is the shipped or a fetched one with the recorded fingerprint, the detector is the shipped one, a
fetched one or the one inside the adapter file, and every other file is one that the user names.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.hashing import file_sha256
from amsam_ray.inference.adapter_file import AdapterFileError, AdapterInfo
from amsam_ray.models.backbone import Backbone, load_backbone
from amsam_ray.models.weights import NANO_FILE, WEIGHTS
from amsam_ray.paths import weights_dir

if TYPE_CHECKING:
    from amsam_ray.models.detector import Detector

logger = logging.getLogger(__name__)

MAX_IMAGE_SIZE = 4096


def find_backbone(info: AdapterInfo, device: torch.device | str, given: Path | None = None) -> Backbone:
    """Load the frozen SAM of an adapter.

    Args:
        info: what the adapter says about itself.
        device: where to load it.
        given: the checkpoint that the user names; None: the shipped or fetched weights with the adapter's fingerprint.

    Raises:
        InputError: the checkpoint is not here or not readable, or the adapter's image size exceeds
            ``MAX_IMAGE_SIZE``.
        AmsamError: no known weights, or not the given ones, have the adapter's fingerprint.
    """
    arch, size = info.config.backbone.arch, info.config.backbone.size
    if size > MAX_IMAGE_SIZE:
        what = f"is {size} in the adapter file, more than {MAX_IMAGE_SIZE}. Use an adapter of a smaller size."
        raise InputError(Problem("backbone.image_size", what))
    if given is not None:
        if not given.is_file():
            raise InputError(Problem("--backbone", f"there is no file {given}. Correct the path."))
        found = file_sha256(given)
        if found != info.backbone:
            raise AmsamError(
                f"{given} has fingerprint {found}, and the adapter was trained on {arch} with fingerprint "
                f"{info.backbone}. Give that checkpoint with --backbone."
            )
        return load_backbone(BackboneConfig(arch=arch, image_size=size, checkpoint=str(given)), device)
    known = file_sha256(NANO_FILE) if arch == "nano" else WEIGHTS[arch].sha256
    if known != info.backbone:
        raise AmsamError(
            f"the adapter was trained on {arch} weights with fingerprint {info.backbone}, which are neither shipped "
            "nor published. Give their file with --backbone PATH (in Python: backbone=Path(...))."
        )
    return load_backbone(BackboneConfig(arch=arch, image_size=size), device)


def find_detector(
    info: AdapterInfo,
    tuned: bytes | None,
    device: torch.device | str,
    given: Path | None = None,
    *,
    trust: bool = False,
) -> Detector | None:
    """Load the detector of an adapter.

    Args:
        info: what the adapter says about itself.
        tuned: the detector's file inside the adapter; None without one.
        device: where to load it.
        given: the file that the user names; a different detector than in training is used with a warning. None: the
            one inside the adapter, the shipped one, or a fetched one.
        trust: the user allows ``given``, a .pt of unknown origin, to run code.

    Returns:
        The detector, None if the adapter was trained without one.

    Raises:
        InputError: the file is not here, not a detector, or a pickle of unknown origin.
        AmsamError: the adapter was trained with a detector that is not known here.
    """
    from amsam_ray.models.detector import load_detector  # imports ultralytics, which takes seconds

    if given is not None:
        detector = load_detector(_given(info.config.detector, given, trust), device)
        if detector is not None and info.detector not in (None, detector.fingerprint):
            logger.warning("%s is not the detector that the adapter was trained with; the masks may differ.", given)
        return detector
    if tuned is None:
        detector = load_detector(_known(info), device)
    else:
        # ultralytics and the checks read files; this one has no name that the adapter chose.
        with tempfile.TemporaryDirectory(prefix="amsam-detector-") as folder:
            path = Path(folder) / "detector.safetensors"
            path.write_bytes(tuned)
            try:
                detector = load_detector(_filters(info.config.detector, str(path), classes=None), device)
            except InputError as error:
                raise AdapterFileError(
                    Problem("adapter", f"its tuned detector {problem.what}") for problem in error.problems
                ) from None
    if detector is not None and info.detector not in (None, detector.fingerprint):
        raise AmsamError(
            f"the adapter was trained with a detector of fingerprint {info.detector[:64]}, and the one found here has "
            f"{detector.fingerprint}. Give the detector's file with --detector PATH."
        )
    return detector


def find_detectors(
    info: AdapterInfo,
    tuned: bytes | None,
    device: torch.device | str,
    given: Path | None = None,
    *,
    trust: bool = False,
    fused: bool,
) -> tuple[Detector, ...]:
    """Load the detectors of an adapter whose boxes are used; the last one gives the single box.

    As in a trial, ``fused`` pools the candidates of the untuned and the tuned detector.

    Args:
        info, tuned, device, trust: as ``find_detector``.
        given: as ``find_detector``; with a tuned detector and ``fused``, the untuned one.
        fused: whether the masks of all candidate boxes are fused.

    Raises:
        InputError, AmsamError: as ``find_detector``.
    """
    from amsam_ray.models.detector import load_detector  # imports ultralytics, which takes seconds

    if not fused or tuned is None:
        primary = find_detector(info, tuned, device, given, trust=trust)
        return () if primary is None else (primary,)
    config = _known(info) if given is None else _given(info.config.detector, given, trust)
    pool = load_detector(config, device), find_detector(info, tuned, device)
    return tuple(detector for detector in pool if detector is not None)


def _known(info: AdapterInfo) -> DetectorConfig:
    """Return the configuration of the shipped or a fetched detector, or of none."""
    config = info.config.detector
    if config.weights in ("none", "nano"):
        return _filters(config, config.weights, classes=config.classes)
    if config.weights in WEIGHTS:
        path = weights_dir() / WEIGHTS[config.weights].file
        if not path.is_file():
            what = f"there is no file {path}. Run `amsam-ray weights fetch {config.weights}`."
            raise InputError(Problem("detector", what))
        return _filters(config, str(path), classes=config.classes)
    raise AmsamError(
        f"the adapter was trained with a detector that is neither shipped nor published (fingerprint "
        f"{info.detector or 'not recorded'}, file {config.weights[:200]!r}). Files that an adapter names are not "
        "opened. Give the detector with --detector PATH (in Python: detector=Path(...))."
    )


def _given(config: DetectorConfig, path: Path, trust: bool) -> DetectorConfig:
    """Return the configuration of the detector that the user names."""
    from amsam_ray.models.detector_file import OFFICIAL_SHA256

    if not path.is_file():
        raise InputError(Problem("--detector", f"there is no file {path}. Correct the path."))
    sha256 = None
    if path.suffix == ".pt" and not trust:
        sha256 = file_sha256(path)
        # The adapter's hash allows no code: such a .pt is read by torch's restricted unpickler.
        if sha256 not in (*OFFICIAL_SHA256.values(), config.sha256):
            what = (
                f"{path} is a pickle of unknown origin (SHA-256 {sha256}), and loading a pickle can run code. "
                "If you trust its source, add --trust-detector."
            )
            raise InputError(Problem("--detector", what))
    return DetectorConfig(
        weights=str(path), sha256=sha256, trust=trust, confidence=config.confidence, classes=config.classes
    )


def _filters(config: DetectorConfig, weights: str, *, classes: tuple[int | str, ...] | None) -> DetectorConfig:
    """Return a configuration that keeps only the filters of ``config``."""
    return DetectorConfig(weights=weights, confidence=config.confidence, classes=classes, fallback=config.fallback)
