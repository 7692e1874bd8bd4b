"""The frozen detector: finds the most confident box of an image (AM-SAM, arXiv 2410.09714, "Automated Prompting").

Boxes are XYXY in pixels of the original image. The network and its post-processing are ultralytics' (AGPL-3.0). A
detector's safetensors file is data: its architecture is one of ``detector_networks``, and nothing in it is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from amsam_ray.config.networks import DetectorConfig
from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import file_sha256, sha256_hex
from amsam_ray.models.detector_file import check_detector, detector_path
from amsam_ray.models.detector_networks import network_description, network_name
from amsam_ray.models.tensor_file import load_tensors, read_content, read_header
from amsam_ray.models.ultralytics_quiet import import_ultralytics, process_unchanged

NANO_IMAGE_SIZE = 256
_BATCH = 16


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("a class name must be printable text")
    return name


ClassName = Annotated[str, Field(strict=True, min_length=1, max_length=100), AfterValidator(_printable)]


class DetectorDescription(BaseModel):
    """What a detector's file says about its network.

    Attributes:
        network: a known architecture: its name, or ultralytics' description, which is only compared.
        names: the names of the classes.
        image_size: side in pixels of the letterboxed input in training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str | dict[str, Any] = "yolov8n.yaml"
    names: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=2000)] = ("object",)
    image_size: int = Field(NANO_IMAGE_SIZE, strict=True, ge=32, le=2048)


@dataclass(frozen=True)
class Detection:
    """The most confident box of an image.

    Attributes:
        box: XYXY in pixels of the original image.
        confidence: in [0, 1].
    """

    box: tuple[float, float, float, float]
    confidence: float


class Detector:
    """A frozen detector.

    Args:
        model: an ultralytics detection network, fp32.
        config: confidence and class filter.
        device: the device to run on.
        image_size: side in pixels of the square that an image is letterboxed to; always a square, so that a box does
            not depend on the other images of its batch.
        weights_sha256: SHA-256 of the weights file.

    Attributes:
        names: class number -> class name.
        image_size, weights_sha256: as given.
        fingerprint: SHA-256 of the weights, the size and the filters, which determine the boxes of an image.

    Raises:
        InputError: the network has no class with a name or number of the filter.
    """

    def __init__(
        self,
        model: Any,
        config: DetectorConfig,
        device: torch.device,
        *,
        image_size: int,
        weights_sha256: str,
    ):
        self.model, self.image_size, self.weights_sha256 = model, image_size, weights_sha256
        self.names: dict[int, str] = dict(model.names)
        self._classes = _class_numbers(config, self.names)
        facts = [weights_sha256, image_size, config.confidence, self._classes]
        self.fingerprint = sha256_hex(json.dumps(facts))
        self._config, self._device = config, device
        self._predictors: dict[float, Any] = {}

    def detect(self, images: Sequence[np.ndarray]) -> list[Detection | None]:
        """Return the most confident box of each image; None if no box reaches the configured confidence.

        Args:
            images: HWC uint8 RGB in [0, 255], of any sizes; processed in batches.
        """
        return [
            next(iter(found), None) for found in self.candidates(images, confidence=self._config.confidence, limit=1)
        ]

    def candidates(self, images: Sequence[np.ndarray], *, confidence: float, limit: int) -> list[list[Detection]]:
        """Return the boxes of each image, most confident first.

        Args:
            images: HWC uint8 RGB, of any sizes; run in batches.
            confidence: boxes below it are left out.
            limit: the most boxes per image.
        """
        if confidence not in self._predictors:
            config = self._config.model_copy(update={"confidence": confidence})
            self._predictors[confidence] = _predictor(self.model, config, self._device, self.image_size, self._classes)
        found: list[list[Detection]] = []
        for start in range(0, len(images), _BATCH):
            bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images[start : start + _BATCH]]
            with process_unchanged():
                results = self._predictors[confidence](source=bgr, stream=False)
            found += [_ranked(result.boxes.xyxy, result.boxes.conf, limit) for result in results]
        return found


def _ranked(boxes_N4: torch.Tensor, confidence_N: torch.Tensor, limit: int) -> list[Detection]:
    order = confidence_N.argsort(descending=True, stable=True)[:limit].tolist()
    return [Detection(tuple(boxes_N4[at].tolist()), float(confidence_N[at])) for at in order]


def load_detector(
    config: DetectorConfig, device: torch.device | str = "cpu", *, state_dir: Path | None = None
) -> Detector | None:
    """Load the detector that a configuration names, without network access.

    ``finetune_epochs`` is ignored: ``amsam_ray.models.detector_tuning.tune_detector`` writes the tuned file and
    returns a configuration that names it.

    Args:
        config: names the weights; ``none`` returns None.
        device: the device to run on.
        state_dir: folder for ultralytics' settings, see ``import_ultralytics``.

    Raises:
        InputError: the file is missing, is a .pt that is neither known nor trusted, does not have the configured
            SHA-256, or is not a detector; or a class of the filter is unknown.
    """
    if config.weights == "none":
        return None
    path = detector_path(config)
    if problems := check_detector(config):
        raise InputError(problems)
    import_ultralytics(state_dir)
    if path.suffix == ".safetensors":
        model, image_size = _load_safetensors(path)
    else:
        model, image_size = _load_pickle(path, config.trust)
    return Detector(model, config, torch.device(device), image_size=image_size, weights_sha256=file_sha256(path))


def build_network(network: str | Mapping[str, Any], names: Sequence[str]) -> Any:
    """Build a detection network of ultralytics with random weights, in evaluation mode.

    The layers are those of the known architecture; of ``network`` itself, ultralytics reads nothing. The global random
    state is restored afterwards.

    Args:
        network: a known architecture: its name, such as ``yolov8n``, or ultralytics' description of it.
        names: the names of its classes.

    Raises:
        InputError: the architecture is not known.
    """
    known = network_description(network_name(network), len(names))
    import_ultralytics()
    with process_unchanged(), torch.random.fork_rng(devices=[]):
        from ultralytics.nn.tasks import DetectionModel

        model: Any = DetectionModel(known, ch=3, nc=len(names), verbose=False)
    if isinstance(network, Mapping):
        # Equal to the known one except for numbers of no effect; kept so that a tuned file has the same bytes.
        model.yaml = {**network, "nc": len(names), "channels": 3}
    model.names = dict(enumerate(names))
    model.task = "detect"
    return model.eval()


def save_network(model: Any, path: Path, image_size: int) -> None:
    """Write a detector as safetensors, fp16; the metadata describe the network, so that it can be rebuilt.

    Args:
        model: an ultralytics detection network.
        path: file to write.
        image_size: side in pixels of the letterboxed input in training.

    Raises:
        InputError: the architecture is not known, or the names or the size exceed the limits of a detector's file.
    """
    from safetensors.torch import save_file

    description = {
        "network": {key: value for key, value in model.yaml.items() if key != "yaml_file"},
        "names": [model.names[number] for number in sorted(model.names)],
        "image_size": image_size,
    }
    text = json.dumps(description, sort_keys=True)
    _description(text, str(path))
    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, path, metadata={"detector": text})


def _description(text: str, where: str) -> DetectorDescription:
    """Return the checked description of a detector's file."""
    try:
        found = DetectorDescription.model_validate(json.loads(text))
        network_name(found.network)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        what = f"{'.'.join(str(part) for part in first['loc'][:2])}: {first['msg']}"
    except InputError as error:
        what = "; ".join(str(problem) for problem in error.problems)
    except (ValueError, RecursionError):
        what = "its description is not valid JSON"
    else:
        return found
    raise _not_a_detector(where, what)


def _not_a_detector(where: str, what: str) -> InputError:
    what = f"is not a detector of amsam-ray ({what.rstrip('.')}). Give a file that amsam-ray wrote, or a .pt."
    return InputError(Problem(where, what))


def _load_safetensors(path: Path) -> tuple[Any, int]:
    content, where = read_content(path), str(path)
    try:
        header = read_header(content, where, other_dtypes=("I64",))
    except InputError as error:
        raise _not_a_detector(where, error.problems[0].what) from None
    given = _description(header.metadata.get("detector", "{}"), where)
    model = build_network(given.network, given.names)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if header.shapes != wanted:
        name = sorted({*header.shapes.items()} ^ {*wanted.items()})[0][0]
        raise _not_a_detector(where, f"tensor {name[:100]!r} does not fit its network")
    state = load_tensors(content, where)
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return model, given.image_size


def _load_pickle(path: Path, trust: bool) -> tuple[Any, int]:
    """Load an ultralytics checkpoint; without ``trust`` only through torch's weights_only unpickler."""
    with process_unchanged():
        from ultralytics.nn.tasks import torch_safe_load

        try:
            checkpoint, _ = torch_safe_load(str(path), safe_only=not trust)
            model = (checkpoint.get("ema") or checkpoint["model"]).float().eval()
            size = int((checkpoint.get("train_args") or {}).get("imgsz") or 640)
        except Exception as error:  # the restricted unpickler raises whatever its opcodes run into
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(
                Problem(str(path), f"is not an ultralytics detector ({reason}). Give a detection checkpoint.")
            ) from None
    if getattr(model, "task", "detect") != "detect" or not hasattr(model, "names"):
        raise InputError(
            Problem(str(path), f"is a model for {model.task}, not a detector. Give a detection checkpoint.")
        )
    return model, size


def _predictor(
    model: Any, config: DetectorConfig, device: torch.device, image_size: int, classes: list[int] | None
) -> Any:
    with process_unchanged():
        from ultralytics.models.rtdetr import RTDETRPredictor
        from ultralytics.models.yolo.detect import DetectionPredictor

        is_rtdetr = "RTDETR" in type(model.model[-1]).__name__
        predictor = (RTDETRPredictor if is_rtdetr else DetectionPredictor)(
            overrides={
                "task": "detect",
                "mode": "predict",
                "conf": config.confidence,
                "classes": classes,
                "imgsz": image_size,
                "device": device,
                "batch": _BATCH,
                "rect": False,
                "save": False,
                "verbose": False,
            }
        )
        predictor.setup_model(model, verbose=False)
    return predictor


def _class_numbers(config: DetectorConfig, names: dict[int, str]) -> list[int] | None:
    """Return the class filter as numbers; None keeps all classes."""
    if config.classes is None:
        return None
    numbers = {name: number for number, name in names.items()}
    unknown = [c for c in config.classes if c not in numbers and c not in names]
    if unknown:
        known = ", ".join(list(numbers)[:12]) + (", ..." if len(numbers) > 12 else "")
        what = f"{', '.join(map(str, unknown))}: not among the detector's classes ({known}). Correct or remove them."
        raise InputError(Problem("detector.classes", what))
    return sorted({c if isinstance(c, int) else numbers[c] for c in config.classes})
