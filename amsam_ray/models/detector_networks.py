"""The architectures of detectors, by name. No architecture comes from a file.

Ultralytics describes a network as YAML, builds the layers that it names and evaluates some of its strings as Python.
A detector file stores such a description. It is compared, as data, with the descriptions below, and the network is
built from these. The tables are those of ultralytics' ``yolov8.yaml`` and ``yolo11.yaml`` (AGPL-3.0).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from amsam_ray.errors import InputError, Problem

_UPSAMPLE: list[Any] = [-1, 1, "nn.Upsample", ["None", 2, "nearest"]]
_FAMILIES: dict[str, dict[str, Any]] = {
    "yolov8": {
        "scales": {
            "n": [0.33, 0.25, 1024],
            "s": [0.33, 0.5, 1024],
            "m": [0.67, 0.75, 768],
            "l": [1.0, 1.0, 512],
            "x": [1.0, 1.25, 512],
        },
        "backbone": [
            [-1, 1, "Conv", [64, 3, 2]],
            [-1, 1, "Conv", [128, 3, 2]],
            [-1, 3, "C2f", [128, True]],
            [-1, 1, "Conv", [256, 3, 2]],
            [-1, 6, "C2f", [256, True]],
            [-1, 1, "Conv", [512, 3, 2]],
            [-1, 6, "C2f", [512, True]],
            [-1, 1, "Conv", [1024, 3, 2]],
            [-1, 3, "C2f", [1024, True]],
            [-1, 1, "SPPF", [1024, 5]],
        ],
        "head": [
            _UPSAMPLE,
            [[-1, 6], 1, "Concat", [1]],
            [-1, 3, "C2f", [512]],
            _UPSAMPLE,
            [[-1, 4], 1, "Concat", [1]],
            [-1, 3, "C2f", [256]],
            [-1, 1, "Conv", [256, 3, 2]],
            [[-1, 12], 1, "Concat", [1]],
            [-1, 3, "C2f", [512]],
            [-1, 1, "Conv", [512, 3, 2]],
            [[-1, 9], 1, "Concat", [1]],
            [-1, 3, "C2f", [1024]],
            [[15, 18, 21], 1, "Detect", ["nc"]],
        ],
    },
    "yolo11": {
        "scales": {
            "n": [0.5, 0.25, 1024],
            "s": [0.5, 0.5, 1024],
            "m": [0.5, 1.0, 512],
            "l": [1.0, 1.0, 512],
            "x": [1.0, 1.5, 512],
        },
        "backbone": [
            [-1, 1, "Conv", [64, 3, 2]],
            [-1, 1, "Conv", [128, 3, 2]],
            [-1, 2, "C3k2", [256, False, 0.25]],
            [-1, 1, "Conv", [256, 3, 2]],
            [-1, 2, "C3k2", [512, False, 0.25]],
            [-1, 1, "Conv", [512, 3, 2]],
            [-1, 2, "C3k2", [512, True]],
            [-1, 1, "Conv", [1024, 3, 2]],
            [-1, 2, "C3k2", [1024, True]],
            [-1, 1, "SPPF", [1024, 5]],
            [-1, 2, "C2PSA", [1024]],
        ],
        "head": [
            _UPSAMPLE,
            [[-1, 6], 1, "Concat", [1]],
            [-1, 2, "C3k2", [512, False]],
            _UPSAMPLE,
            [[-1, 4], 1, "Concat", [1]],
            [-1, 2, "C3k2", [256, False]],
            [-1, 1, "Conv", [256, 3, 2]],
            [[-1, 13], 1, "Concat", [1]],
            [-1, 2, "C3k2", [512, False]],
            [-1, 1, "Conv", [512, 3, 2]],
            [[-1, 10], 1, "Concat", [1]],
            [-1, 2, "C3k2", [1024, True]],
            [[16, 19, 22], 1, "Detect", ["nc"]],
        ],
    },
}
_CHANNELS = 3
_NOT_COMPARED = ("nc", "ch", "channels", "yaml_file")  # set from integers, or without effect on the layers

_NETWORKS: dict[str, dict[str, Any]] = {
    f"{family}{scale}": {**table, "scale": scale} for family, table in _FAMILIES.items() for scale in table["scales"]
}


def register_network(name: str, network: Mapping[str, Any]) -> None:
    """Make an architecture known to this process; its author is trusted like any code of the process.

    No file reaches this function. Tests use it for networks of a few thousand weights.

    Args:
        name: lower-case letters and digits.
        network: ultralytics' description with ``backbone`` and ``head``.

    Raises:
        ValueError: the name is not valid, or names another architecture.
    """
    known = _comparable(network)
    if not re.fullmatch("[a-z0-9]+", name) or _NETWORKS.get(name, known) != known:
        raise ValueError(f"{name!r} is not valid or names another network; choose another name")
    _NETWORKS[name] = known


def network_description(name: str, classes: int) -> dict[str, Any]:
    """Return ultralytics' description of a known architecture, a copy.

    Args:
        name: for example ``yolov8n``.
        classes: number of classes.
    """
    return {"nc": classes, "channels": _CHANNELS, **copy.deepcopy(_NETWORKS[name])}


def network_name(network: object) -> str:
    """Return the name of the architecture that a file or a checkpoint describes.

    Args:
        network: a name such as ``yolov8n`` or ``yolov8n.yaml``, or ultralytics' description. It is only compared.

    Raises:
        InputError: it is not one of the known architectures.
    """
    if isinstance(network, str) and network.removesuffix(".yaml") in _NETWORKS:
        return network.removesuffix(".yaml")
    if isinstance(network, Mapping) and all(network.get(key, _CHANNELS) == _CHANNELS for key in ("ch", "channels")):
        wanted = _comparable(network)
        for name, known in _NETWORKS.items():
            if wanted == known or (name.startswith("yolov8") and wanted == _without_scales(known)):
                return name
    what = (
        f"describes a network that is not known. Use a detector with one of the architectures {', '.join(_NETWORKS)}, "
        "or tune one of these with `amsam-ray detector train`."
    )
    raise InputError(Problem("network", what))


def _comparable(network: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in network.items() if key not in _NOT_COMPARED}


def _without_scales(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return a YOLOv8 as ultralytics described it before it had ``scales``, which its published weights may contain."""
    depth, width, limit = known["scales"][known["scale"]]
    layers: dict[str, Any] = {"backbone": [], "head": []}
    for part, rows in layers.items():
        for source, repeats, layer, arguments in known[part]:
            sized = layer in ("Conv", "C2f", "SPPF")
            rows.append([source, repeats, layer, [min(arguments[0], limit), *arguments[1:]] if sized else arguments])
    return {"depth_multiple": depth, "width_multiple": width, **layers}
