"""Prediction of masks with a trained adapter file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amsam_ray.config.methods import uses_sam
from amsam_ray.config.metrics import THRESHOLD
from amsam_ray.device import pick_device
from amsam_ray.inference.adapter_file import AdapterInfo, load_adapter, read_adapter_info, read_tuned_detector
from amsam_ray.inference.feature_cache import NoCache
from amsam_ray.inference.frozen_networks import find_backbone, find_detectors
from amsam_ray.inference.inputs import Needs, Picture, Preparer
from amsam_ray.inference.masks import foreground_logits, probability
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.trained_model import TrainedModel

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

    def __init__(self, model: TrainedModel, info: AdapterInfo, preparer: Preparer):
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
        prob = probability(logits, shape, self.model.image_size)
        box = pictures.prompt_box(0, self.model.image_size)
        return Prediction(prob > THRESHOLD, prob, box)


def load_predictor(
    adapter: Path | bytes,
    device: str | None = None,
    *,
    backbone: Backbone | Path | None = None,
    detector: Path | None = None,
    trust_detector: bool = False,
    cache: NoCache | None = None,
    loaded: Sequence[Backbone] = (),
) -> Predictor:
    """Load an adapter file with the frozen networks that it needs. Files that the adapter names are not opened.

    Args:
        adapter: an adapter file written by a final, or its content.
        device: a torch device; None as ``amsam_ray.device.pick_device``.
        backbone: the frozen SAM, loaded or as a checkpoint file; None finds the shipped or fetched one with the
            adapter's fingerprint. Not used by a network that was trained without SAM.
        detector: the detector's file; None takes the one inside the adapter file, the shipped or a fetched one.
        trust_detector: load ``detector`` even if it is a .pt of unknown origin, which can run code.
        cache: keeps what several predictors need of one image; None: nothing is kept.
        loaded: backbones that may be shared; one with the adapter's fingerprint and size is taken.

    Raises:
        InputError: it is not an adapter file, or the file of its backbone or detector does not exist.
        AmsamError: the backbone or the detector is not the one it was trained with.

    Example:
        >>> predictor = load_predictor(Path("adapter.safetensors"))  # doctest: +SKIP
        >>> mask, probability, box = predictor([image])[0]  # doctest: +SKIP
    """
    info, where = read_adapter_info(adapter), pick_device(device)
    sam: Backbone | None = None
    if uses_sam(info.config.method, info.config.params):
        if isinstance(backbone, Backbone):
            sam = backbone
        else:
            sam = _shared_backbone(info, loaded) or find_backbone(info, where, backbone)
    model = load_adapter(adapter, sam, where)
    pool: tuple[Detector, ...] = ()
    if model.uses_boxes:
        tuned, fused = read_tuned_detector(adapter), model.params.prompt == "fused"
        pool = find_detectors(info, tuned, where, detector, trust=trust_detector, fused=fused)
    return Predictor(model, info, Preparer(model.frozen, pool[-1] if pool else None, cache or NoCache(), pool))


def _shared_backbone(info: AdapterInfo, loaded: Sequence[Backbone]) -> Backbone | None:
    """Return the loaded backbone that the adapter was trained on; None if there is none."""
    wanted = (info.backbone, info.config.backbone.arch, info.config.backbone.size)
    return next((b for b in loaded if (b.fingerprint, b.arch, b.image_size) == wanted), None)
