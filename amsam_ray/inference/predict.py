"""Prediction of masks with a trained adapter file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from amsam_ray.config.metrics import THRESHOLD
from amsam_ray.device import pick_device
from amsam_ray.inference.adapter_file import AdapterInfo, load_adapter, read_adapter_info, read_tuned_detector
from amsam_ray.inference.feature_cache import NoCache
from amsam_ray.inference.inputs import Needs, Picture, Preparer
from amsam_ray.inference.masks import foreground_logits, probability
from amsam_ray.models.adapted import AdaptedSam
from amsam_ray.models.backbone import Backbone, load_backbone

if TYPE_CHECKING:
    from amsam_ray.models.detector import Detector


class Prediction(NamedTuple):
    """The mask of one image, its probabilities, and the box that prompted the decoder.

    Attributes:
        mask: HxW bool at the image's size.
        probability: HxW float32 in [0, 1], of the foreground.
        box: XYXY in pixels of the image: the detector's box, or with ``prompt: fused`` its most confident candidate,
            or the whole image with ``fallback: full_image``. None if the image was decoded without a box.
    """

    mask: np.ndarray
    probability: np.ndarray
    box: np.ndarray | None


class Predictor:
    """A function from images to masks; ``load_predictor`` makes one.

    Args:
        model: with its trained tensors, in evaluation mode.
        info: metadata of the adapter file.
        preparer: the frozen networks, without a cache.
    """

    def __init__(self, model: AdaptedSam, info: AdapterInfo, preparer: Preparer):
        self.model, self.info, self._preparer = model, info, preparer

    def __call__(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Segment images, one at a time.

        Args:
            images: HxWx3 uint8 RGB, of any sizes.
        """
        return [self._predict(image) for image in images]

    def _predict(self, image: np.ndarray) -> Prediction:
        config = self.info.config
        needs = Needs.of(
            self.model, training=False, precision=config.train.precision, fallback=config.detector.fallback
        )
        nothing = np.zeros(image.shape[:2], dtype=bool)
        picture = Picture("image", "", lambda: image, lambda: nothing, lambda: image, "")
        pictures = self._preparer.prepare([picture], needs).for_model(self.model)
        ((_, logits),) = foreground_logits(self.model, pictures, [0], precision=needs.precision)
        shape = (image.shape[0], image.shape[1])
        prob = probability(logits, shape, self.model.backbone.image_size)
        box = pictures.prompt_box(0, self.model.backbone.image_size)
        return Prediction(prob > THRESHOLD, prob, box)


def load_predictor(adapter: Path | bytes, device: str | None = None, *, backbone: Backbone | None = None) -> Predictor:
    """Load an adapter file and the frozen networks that it was trained on.

    Args:
        adapter: an adapter file written by a final, or its content.
        device: a torch device; None as ``amsam_ray.device.pick_device``.
        backbone: the frozen SAM if it is already loaded; None loads the one of the adapter file's configuration.

    Raises:
        InputError: it is no adapter file, or the backbone's or detector's file is missing.
        AmsamError: the backbone is not the one that it was trained on.

    Example:
        >>> predictor = load_predictor(Path("adapter.safetensors"))  # doctest: +SKIP
        >>> mask, probability, box = predictor([image])[0]  # doctest: +SKIP
    """
    info, where = read_adapter_info(adapter), pick_device(device)
    if backbone is None:
        backbone = load_backbone(info.config.backbone, where)
    model = load_adapter(adapter, backbone)
    pool = (
        _detectors(info, read_tuned_detector(adapter), where, fused=model.params.prompt == "fused")
        if model.uses_boxes
        else ()
    )
    return Predictor(model, info, Preparer(backbone, pool[-1] if pool else None, NoCache(), pool))


def _detectors(info: AdapterInfo, tuned: bytes | None, device: torch.device, *, fused: bool) -> tuple[Detector, ...]:
    """Return the detectors whose boxes are used; the last one gives the single box.

    As in a trial, ``fused`` pools the candidates of the untuned and the tuned detector.
    """
    from amsam_ray.models.detector import load_detector  # imports ultralytics, which takes seconds

    config, found = info.config.detector, []
    if tuned is None or fused:
        found.append(load_detector(config, device))
    if tuned is not None:
        with tempfile.TemporaryDirectory(prefix="amsam-detector-") as folder:
            path = Path(folder) / "detector.safetensors"
            path.write_bytes(tuned)
            found.append(load_detector(config.model_copy(update={"weights": str(path), "sha256": None}), device))
    return tuple(detector for detector in found if detector is not None)
