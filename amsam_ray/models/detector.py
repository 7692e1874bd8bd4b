"""The frozen detector: an image in, its most confident box out (AM-SAM, arXiv 2410.09714, "Automated Prompting").

Boxes are XYXY in pixels of the original image. The network and its post-processing are ultralytics' (AGPL-3.0).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amsam_ray.config.networks import DetectorConfig
from amsam_ray.errors import InputError, Problem
from amsam_ray.hashing import file_sha256, sha256_hex
from amsam_ray.models.ultralytics_quiet import import_ultralytics, process_unchanged
from amsam_ray.models.weights import WEIGHTS
from amsam_ray.paths import weights_dir

NANO_DETECTOR = Path(__file__).parent / "assets" / "nano_detector.safetensors"
NANO_IMAGE_SIZE = 256
_BATCH = 16

OFFICIAL_SHA256 = {
    "yolov8n.pt": WEIGHTS["yolov8n.pt"].sha256,
    "yolov8s.pt": "1f47a78bf100391c2a140b7ac73a1caae18c32779be7d310658112f7ac9aa78a",
    "yolov8m.pt": "5d4a90cdc7a21786cc59cd19778e9eafff836df9e2da32524737c7ee6efe4fe5",
    "yolov8l.pt": "64c9115303f6a25575f82200d1b22ec409fa6bd7d08d0313884fc20d919478cd",
    "yolov8x.pt": "3df4ada6b4dad6d657868f2fdf7faecfb34dcfccf3a25c4b82079064718524c8",
}
"""SHA-256 of the publisher's release files, which are loaded without ``trust``."""


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
        device: where to run.
        image_size: side in pixels of the square that an image is letterboxed to; square always, so that a box does
            not depend on which images share its batch.
        weights_sha256: of the weights' file.

    Attributes:
        image_size, weights_sha256: as given.
        fingerprint: SHA-256 of weights, size and filters: all that boxes depend on besides the image.

    Raises:
        InputError: a class of the filter is not one of the network's.
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
        self._predictor = _predictor(model, config, device, image_size, self._classes)

    def detect(self, images: Sequence[np.ndarray]) -> list[Detection | None]:
        """The most confident box of each image, None where nothing reaches the confidence.

        Args:
            images: HWC uint8 RGB, of any sizes; run in batches.
        """
        found: list[Detection | None] = []
        for start in range(0, len(images), _BATCH):
            bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images[start : start + _BATCH]]
            with process_unchanged():
                results = self._predictor(source=bgr, stream=False)
            found += [_best(result.boxes.xyxy, result.boxes.conf) for result in results]
        return found


def _best(boxes_N4: torch.Tensor, confidence_N: torch.Tensor) -> Detection | None:
    if not len(confidence_N):
        return None
    top = int(confidence_N.argmax())
    left, upper, right, lower = (float(value) for value in boxes_N4[top])
    return Detection((left, upper, right, lower), float(confidence_N[top]))


def load_detector(
    config: DetectorConfig, device: torch.device | str = "cpu", *, state_dir: Path | None = None
) -> Detector | None:
    """Load the detector that a configuration names, without any network access.

    ``finetune_epochs`` is not acted on here: `amsam_ray.models.detector_tuning.tune_detector` makes the tuned file,
    and a configuration that names that file loads it.

    Args:
        config: which weights; ``none`` gives None.
        device: where to run.
        state_dir: folder for ultralytics' settings (`import_ultralytics`).

    Raises:
        InputError: the file is missing, is a .pt that is neither known nor trusted, has another SHA-256 than stated,
            or is no detector; or a class of the filter is unknown.
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


def check_detector(config: DetectorConfig, where: str = "detector") -> list[Problem]:
    """What would stop the detector's file from being loaded, seen without loading it."""
    if config.weights == "none":
        return []
    path = detector_path(config)
    if not path.is_file():
        hint = "; `amsam-ray weights fetch yolov8n.pt` gets it" if path.name in WEIGHTS else ""
        return [Problem(f"{where}.weights", f"no file {path}{hint or '; give the path of a detector'}")]
    if path.suffix not in (".pt", ".safetensors"):
        return [Problem(f"{where}.weights", f"{path.name} is neither .pt nor .safetensors; export it as one")]
    sha256 = file_sha256(path)
    if config.sha256 is not None and sha256 != config.sha256:
        what = f"{path} has SHA-256 {sha256} and not the one stated; do not load it, or mend the statement"
        return [Problem(f"{where}.sha256", what)]
    known = config.sha256 is not None or sha256 in OFFICIAL_SHA256.values()
    if path.suffix == ".pt" and not known and not config.trust:
        what = (
            f"{path} is a pickle of unknown origin (SHA-256 {sha256}), and loading one can run code; "
            f"state sha256: {sha256} or trust: true if you know where it comes from"
        )
        return [Problem(f"{where}.weights", what)]
    return []


def detector_path(config: DetectorConfig) -> Path:
    """The file that holds the weights: shipped, fetched or the user's own."""
    if config.weights == "nano":
        return NANO_DETECTOR
    path = Path(config.weights).expanduser()
    if not path.exists() and path.name == config.weights and config.weights in WEIGHTS:
        return weights_dir() / WEIGHTS[config.weights].file
    return path


def build_network(network: str | dict[str, Any], names: Sequence[str]) -> Any:
    """A detection network of ultralytics with random weights, eval mode; the random state is left as it was.

    Args:
        network: an ultralytics model file name as ``yolov8n.yaml``, or the dict that such a file holds.
        names: of its classes.
    """
    import_ultralytics()
    with process_unchanged(), torch.random.fork_rng(devices=[]):
        from ultralytics.nn.tasks import DetectionModel

        model: Any = DetectionModel(network, ch=3, nc=len(names), verbose=False)
    model.names = dict(enumerate(names))
    model.task = "detect"
    return model.eval()


def save_network(model: Any, path: Path, image_size: int) -> None:
    """Write a detector as safetensors, fp16, with what is needed to build it again in the metadata.

    Args:
        model: an ultralytics detection network.
        path: file to write.
        image_size: side in pixels of the letterboxed input that it was trained for.
    """
    from safetensors.torch import save_file

    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    description = {
        "network": {key: value for key, value in model.yaml.items() if key != "yaml_file"},
        "names": [model.names[number] for number in sorted(model.names)],
        "image_size": image_size,
    }
    save_file(state, path, metadata={"detector": json.dumps(description, sort_keys=True)})


def _load_safetensors(path: Path) -> tuple[Any, int]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        given = json.loads(metadata.get("detector", "{}"))
        model = build_network(given.get("network", "yolov8n.yaml"), given.get("names", ["object"]))
        model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(Problem(str(path), f"is not a detector of amsam-ray ({error})")) from None
    return model, int(given.get("image_size", NANO_IMAGE_SIZE))


def _load_pickle(path: Path, trust: bool) -> tuple[Any, int]:
    """Load an ultralytics checkpoint; without ``trust`` through torch's weights_only unpickler alone."""
    with process_unchanged():
        from ultralytics.nn.tasks import torch_safe_load

        try:
            checkpoint, _ = torch_safe_load(str(path), safe_only=not trust)
            model = (checkpoint.get("ema") or checkpoint["model"]).float().eval()
        except (TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
            raise InputError(Problem(str(path), f"is not an ultralytics detector ({error})")) from None
    if getattr(model, "task", "detect") != "detect" or not hasattr(model, "names"):
        raise InputError(Problem(str(path), f"is a model for {model.task}, not a detector"))
    return model, int((checkpoint.get("train_args") or {}).get("imgsz") or 640)


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
    """The class filter as numbers; None keeps all."""
    if config.classes is None:
        return None
    numbers = {name: number for number, name in names.items()}
    unknown = [c for c in config.classes if c not in numbers and c not in names]
    if unknown:
        known = ", ".join(list(numbers)[:12]) + (", ..." if len(numbers) > 12 else "")
        what = f"{', '.join(map(str, unknown))}: not among the detector's classes ({known})"
        raise InputError(Problem("detector.classes", what))
    return sorted({c if isinstance(c, int) else numbers[c] for c in config.classes})
