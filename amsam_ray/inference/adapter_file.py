"""Adapters on disk: the trained tensors, what they were trained with, and the backbone they belong to.

One safetensors file, with the detector's file inside if that was tuned on the trial's shots. Its metadata holds
``format``, ``config`` (the trial's canonical JSON), ``backbone`` (the fingerprint of the frozen SAM), ``detector``
(of the frozen detector; absent without one) and ``version``. Nothing is pickled, so a file from elsewhere is safe
to open.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from amsam_ray import __version__
from amsam_ray.config.trial import TrialConfig
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.models.adapted import AdaptedSam, build_method
from amsam_ray.models.backbone import Backbone

FORMAT = "amsam_ray.adapter/1"
_DETECTOR = "detector.file"  # no parameter of a model has this name


class AdapterFileError(InputError):
    """The content of an adapter file is damaged, of another format, or not an adapter at all."""


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter says about itself.

    Attributes:
        config: the trial that made it.
        backbone: fingerprint of the SAM it belongs to.
        detector: fingerprint of the detector it was trained with, None without one.
    """

    config: TrialConfig
    backbone: str
    detector: str | None


def save_adapter(
    path: Path,
    state: Mapping[str, Tensor],
    config: TrialConfig,
    backbone: Backbone,
    *,
    detector: str | None = None,
    tuned_detector: Path | None = None,
) -> None:
    """Write what a trial trained.

    Args:
        path: a ``.safetensors`` file; its folder exists.
        state: the trained tensors by name, of both levels.
        config: the trial's.
        backbone: the frozen SAM it was trained on.
        detector: the detector's fingerprint, if one was used.
        tuned_detector: the file of a detector that was tuned on the trial's shots. It goes into the adapter, since
            it is nowhere else to be had.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    if tuned_detector is not None:
        tensors[_DETECTOR] = torch.frombuffer(bytearray(tuned_detector.read_bytes()), dtype=torch.uint8)
    metadata = {
        "format": FORMAT,
        "config": config.canonical(),
        "backbone": backbone.fingerprint,
        "version": __version__,
    }
    if detector is not None:
        metadata["detector"] = detector
    save_file(tensors, path, metadata)


def read_adapter_info(adapter: Path | bytes) -> AdapterInfo:
    """What an adapter says about itself, without loading tensors.

    Raises:
        InputError: the file is missing, cut short, no adapter, or of a format that this version does not know.
    """
    where = _where(adapter)
    metadata = _metadata(_bytes(adapter), where)
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "no format")
        raise AdapterFileError(Problem(where, f"is not an adapter of this version ({found} instead of {FORMAT})"))
    try:
        config = TrialConfig.model_validate_json(metadata["config"])
        return AdapterInfo(config, metadata["backbone"], metadata.get("detector"))
    except (KeyError, ValidationError) as error:
        raise AdapterFileError(Problem(where, f"holds no usable config: {error}")) from None


def load_adapter(adapter: Path | bytes, backbone: Backbone) -> AdaptedSam:
    """The model that an adapter and its backbone make, in eval mode.

    Args:
        adapter: a file, or its content.
        backbone: the frozen SAM that it was trained on.

    Raises:
        InputError: it is no readable adapter.
        AmsamError: it belongs to another backbone, or its tensors are not its method's.
    """
    info = read_adapter_info(adapter)
    where = _where(adapter)
    wanted = (info.config.backbone.arch, info.config.backbone.size)
    if info.backbone != backbone.fingerprint or wanted != (backbone.arch, backbone.image_size):
        raise AmsamError(
            f"{where} was trained on {wanted[0]} at {wanted[1]} px with weights {info.backbone[:12]}, and this is "
            f"{backbone.arch} at {backbone.image_size} px with weights {backbone.fingerprint[:12]}; "
            "load the backbone that it names"
        )
    model = build_method(info.config.method, info.config.params, backbone, seed=info.config.seed)
    state = _tensors(adapter)
    state.pop(_DETECTOR, None)
    model.load_trainable_state(state)
    return model.eval()


def read_tuned_detector(adapter: Path | bytes) -> bytes | None:
    """The file of the detector that was tuned on the trial's shots, None if the detector is not one of those."""
    found = _tensors(adapter).get(_DETECTOR)
    return None if found is None else found.numpy().tobytes()


def _tensors(adapter: Path | bytes) -> dict[str, Tensor]:
    try:
        return load(_bytes(adapter))
    except SafetensorError as error:
        raise AdapterFileError(Problem(_where(adapter), f"is damaged: {error}")) from None


def _where(adapter: Path | bytes) -> str:
    return str(adapter) if isinstance(adapter, Path) else "adapter"


def _bytes(adapter: Path | bytes) -> bytes:
    if isinstance(adapter, bytes):
        return adapter
    try:
        return adapter.read_bytes()
    except OSError as error:
        raise InputError(Problem(str(adapter), f"cannot be read ({error.strerror})")) from None


def _metadata(content: bytes, where: str) -> dict[str, str]:
    """The header's metadata: a safetensors file starts with the header's length (u64, little endian) and JSON."""
    try:
        (length,) = struct.unpack_from("<Q", content)
        found = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (struct.error, ValueError, AttributeError):
        raise AdapterFileError(Problem(where, "is not a safetensors file, or is cut short")) from None
    return {str(key): str(value) for key, value in found.items()}
