"""Adapter files: the trained tensors, the configuration of their trial and the fingerprint of their backbone.

One safetensors file, which contains the detector's file if that was tuned on the shots. Its metadata holds
``format``, ``config`` (the trial's canonical JSON), ``backbone`` (the fingerprint of the frozen SAM), ``detector``
(of the frozen detector; absent without one) and ``version``. Nothing is pickled, so files of unknown origin are safe
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
    """An adapter file is damaged, of another format, or not an adapter file."""


@dataclass(frozen=True)
class AdapterInfo:
    """The metadata of an adapter file.

    Attributes:
        config: the configuration of its trial.
        backbone: fingerprint of the SAM that it was trained on.
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
    """Write an adapter file.

    Args:
        path: a ``.safetensors`` file; its folder exists.
        state: the trained tensors of both levels, by name.
        config: the configuration of the trial.
        backbone: the frozen SAM it was trained on.
        detector: the detector's fingerprint, if one was used.
        tuned_detector: the file of a detector that was tuned on the trial's shots; it is stored in the adapter file,
            because there is no other copy.
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
    """Return the metadata of an adapter file without loading tensors.

    Raises:
        InputError: the file is missing, truncated, no adapter file, or of an unknown format.
    """
    where = _where(adapter)
    metadata = _metadata(_bytes(adapter), where)
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "no format")
        raise AdapterFileError(
            Problem(
                where, f"is not an adapter file of this version ({found} instead of {FORMAT}); give one that it wrote"
            )
        )
    try:
        config = TrialConfig.model_validate_json(metadata["config"])
        return AdapterInfo(config, metadata["backbone"], metadata.get("detector"))
    except (KeyError, ValidationError) as error:
        raise AdapterFileError(Problem(where, f"holds no usable configuration: {error}")) from None


def load_adapter(adapter: Path | bytes, backbone: Backbone) -> AdaptedSam:
    """Build the model of an adapter file on its backbone, in evaluation mode.

    Args:
        adapter: an adapter file, or its content.
        backbone: the frozen SAM that it was trained on.

    Raises:
        InputError: the adapter file cannot be read.
        AmsamError: it was trained on another backbone, or its tensors do not fit its method.
    """
    info = read_adapter_info(adapter)
    where = _where(adapter)
    wanted = (info.config.backbone.arch, info.config.backbone.size)
    if info.backbone != backbone.fingerprint or wanted != (backbone.arch, backbone.image_size):
        raise AmsamError(
            f"{where} was trained on {wanted[0]} at {wanted[1]} px with weights {info.backbone[:12]}, and this is "
            f"{backbone.arch} at {backbone.image_size} px with weights {backbone.fingerprint[:12]}; "
            "load the backbone of its configuration"
        )
    model = build_method(info.config.method, info.config.params, backbone, seed=info.config.seed)
    state = _tensors(adapter)
    state.pop(_DETECTOR, None)
    model.load_trainable_state(state)
    return model.eval()


def read_tuned_detector(adapter: Path | bytes) -> bytes | None:
    """Return the file of the detector that was tuned on the trial's shots; None if it was not tuned."""
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
    """Return the metadata of the header: a safetensors file starts with its length (u64, little endian) and JSON."""
    try:
        (length,) = struct.unpack_from("<Q", content)
        found = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (struct.error, ValueError, AttributeError):
        raise AdapterFileError(Problem(where, "is not a safetensors file, or is truncated")) from None
    return {str(key): str(value) for key, value in found.items()}
