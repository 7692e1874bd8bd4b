"""Adapters on disk: the trained tensors, what they were trained with, and the backbone they belong to.

One safetensors file, with the detector's file inside if that was tuned on the trial's shots. Its metadata holds
``format``, ``config`` (the trial's canonical JSON), ``backbone`` (the fingerprint of the frozen SAM), ``detector``
(of the frozen detector; absent without one) and ``version``. Nothing in the file is executed, and no file that its
config names is opened (``frozen_networks``); ``docs/security.md`` states what is checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from amsam_ray import __version__
from amsam_ray.config.methods import uses_sam
from amsam_ray.config.trial import TrialConfig
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.build import build_model
from amsam_ray.models.tensor_file import TensorFileError, TensorHeader, load_tensors, read_content, read_header
from amsam_ray.models.trained_model import TrainedModel

FORMAT = "amsam_ray.adapter/1"
_DETECTOR = "detector.file"  # no parameter of a model has this name
_FINGERPRINT = re.compile("[0-9a-f]{64}")


class AdapterFileError(InputError):
    """The content of an adapter file is damaged, of another format, or not an adapter."""


@dataclass(frozen=True)
class AdapterInfo:
    """The metadata of an adapter.

    Attributes:
        config: the configuration of the trial that wrote it.
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
    backbone: str,
    *,
    detector: str | None = None,
    tuned_detector: Path | None = None,
) -> None:
    """Write the trained tensors of a trial.

    Args:
        path: a ``.safetensors`` file; its folder exists.
        state: the trained tensors by name, of both levels, and what a few-shot model remembers.
        config: the configuration of the trial.
        backbone: the fingerprint of the frozen network it was trained on, as a rule of SAM.
        detector: the detector's fingerprint, if one was used.
        tuned_detector: the file of a detector that was tuned on the trial's shots. It is written into the adapter,
            its only copy besides the node's cache.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    if tuned_detector is not None:
        tensors[_DETECTOR] = torch.frombuffer(bytearray(tuned_detector.read_bytes()), dtype=torch.uint8)
    metadata = {
        "format": FORMAT,
        "config": config.canonical(),
        "backbone": backbone,
        "version": __version__,
    }
    if detector is not None:
        metadata["detector"] = detector
    save_file(tensors, path, metadata)


def read_adapter_info(adapter: Path | bytes) -> AdapterInfo:
    """Return what an adapter says about itself, without loading tensors.

    Raises:
        InputError: the file is missing, cut short, not an adapter, or of a format that this version does not know.
    """
    return _info(_bytes(adapter), _where(adapter))


def _info(content: bytes, where: str) -> AdapterInfo:
    metadata = _header(content, where).metadata
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "no format")[:100]
        what = f"is not an adapter of this version ({found} instead of {FORMAT}). Use the version that wrote it."
        raise AdapterFileError(Problem(where, what))
    try:
        config = TrialConfig.model_validate_json(metadata["config"])
        backbone, detector = metadata["backbone"], metadata.get("detector")
    except KeyError as error:
        what = f"holds no usable config: {error} is missing. Copy or download the file again."
        raise AdapterFileError(Problem(where, what)) from None
    except ValidationError as error:
        what = f"holds no usable config: {str(error)[:2000]}. Use the version that wrote it."
        raise AdapterFileError(Problem(where, what)) from None
    if not all(_FINGERPRINT.fullmatch(text) for text in (backbone, detector) if text is not None):
        what = "holds no usable config: a fingerprint is not 64 hexadecimal digits. Copy or download the file again."
        raise AdapterFileError(Problem(where, what))
    return AdapterInfo(config, backbone, detector)


def load_adapter(adapter: Path | bytes, backbone: Backbone | None, device: torch.device | str = "cpu") -> TrainedModel:
    """Return the model of an adapter on its backbone, in evaluation mode.

    Args:
        adapter: a file, or its content.
        backbone: the frozen SAM that it was trained on; not used for a network that was trained without one.
        device: where a network without ``backbone`` computes.

    Raises:
        InputError: it is not a readable adapter, its values do not fit its method, a weight is NaN or infinite, or
            published weights that it needs are not on this machine.
        AmsamError: it belongs to another backbone, or the names or shapes of its tensors are not those of its method.
    """
    content, where = _bytes(adapter), _where(adapter)
    info = _info(content, where)
    if not uses_sam(info.config.method, info.config.params):
        backbone = None
    elif backbone is None:
        raise AmsamError(f"{where} was trained on a frozen SAM; load it with that backbone.")
    else:
        _check_backbone(info, backbone, where)
    config = info.config
    try:
        model = build_model(config.method, config.params, backbone, seed=config.seed, device=device, restored=True)
    except (ValueError, RuntimeError, OverflowError, ZeroDivisionError) as error:
        what = f"holds no usable config: {config.method} cannot be built ({str(error)[:200]}). Use another file."
        raise AdapterFileError(Problem(where, what)) from None
    state = _tensors(content, where)
    state.pop(_DETECTOR, None)
    model.load_trainable_state(state)
    return model.eval()


def _check_backbone(info: AdapterInfo, backbone: Backbone, where: str) -> None:
    wanted = (info.config.backbone.arch, info.config.backbone.size)
    if info.backbone != backbone.fingerprint or wanted != (backbone.arch, backbone.image_size):
        raise AmsamError(
            f"{where} was trained on {wanted[0]} at {wanted[1]} px with weights {info.backbone[:12]}, and this is "
            f"{backbone.arch} at {backbone.image_size} px with weights {backbone.fingerprint[:12]}; "
            "load the backbone with its fingerprint"
        )


def read_tuned_detector(adapter: Path | bytes) -> bytes | None:
    """Return the file of the detector that was tuned on the trial's shots; None if the adapter contains none."""
    found = _tensors(_bytes(adapter), _where(adapter)).get(_DETECTOR)
    return None if found is None else found.numpy().tobytes()


def _tensors(content: bytes, where: str) -> dict[str, Tensor]:
    _header(content, where)
    try:
        return load_tensors(content, where)
    except TensorFileError as error:
        raise AdapterFileError(error.problems) from None


def _header(content: bytes, where: str) -> TensorHeader:
    """Return the checked header: the bytes of a detector are the only tensor that does not hold floats."""
    try:
        header = read_header(content, where, other_dtypes=("U8",))
    except TensorFileError as error:
        raise AdapterFileError(error.problems) from None
    for name, entry in header.tensors.items():
        if (entry.dtype == "U8") != (name == _DETECTOR):
            what = f"is damaged: {name[:100]!r} has type {entry.dtype}. Copy or download it again."
            raise AdapterFileError(Problem(where, what))
    return header


def _where(adapter: Path | bytes) -> str:
    return str(adapter) if isinstance(adapter, Path) else "adapter"


def _bytes(adapter: Path | bytes) -> bytes:
    return adapter if isinstance(adapter, bytes) else read_content(adapter)
