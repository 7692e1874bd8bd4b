"""Inputs of a model: the pictures of a split, prepared once and stacked in memory.

Legend: N pictures, S the side of the encoder's input, G = S / 16, h = 4G the side of the decoder's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from amsam_ray.config.methods import protocol_of
from amsam_ray.device import autocast
from amsam_ray.inference.feature_cache import FeatureCache, NoCache, entry_key
from amsam_ray.inference.shared_entries import EntryForm
from amsam_ray.models.backbone import Backbone
from amsam_ray.models.parts.high_pass import high_pass
from amsam_ray.models.preprocess import box_to_input, resized_shape, to_input, to_inputs
from amsam_ray.models.trained_model import PIXELS, FrozenEncoder, ModelInputs, Support, TrainedModel

if TYPE_CHECKING:
    from amsam_ray.models.detector import Detector

CANDIDATES = 8
"""Candidate boxes kept per picture and detector."""
CANDIDATE_CONFIDENCE = 0.01
"""Detections below this confidence are no candidates."""


@dataclass(frozen=True)
class Picture:
    """One labelled image, or a view of one.

    Attributes:
        name: as in messages and records.
        key: identifies the pixels.
        image: reads HxWx3 uint8, RGB.
        mask: reads HxW bool.
        view: reads an augmented view of the image (HxWx3 uint8), for the sample-level contrast.
        view_key: identifies the pixels of that view.
    """

    name: str
    key: str
    image: Callable[[], np.ndarray]
    mask: Callable[[], np.ndarray]
    view: Callable[[], np.ndarray]
    view_key: str


@dataclass(frozen=True)
class Needs:
    """The inputs that a model needs; models with equal needs share their prepared pictures.

    Attributes:
        point: where the frozen part of the model ends, see ``FrozenEncoder.encode``.
        boxes: whether boxes are used.
        pixels: whether the encoder's input itself is needed, for the high-pass component.
        views: whether features of an augmented view are needed.
        precision: "fp32" or "bf16", of the frozen encoder and of the stored features.
        fallback: the prompt of a picture without a detection, ``full_image`` or ``none``.
        candidates: whether all candidate boxes are used, see ``PreparedSet.candidates``.
        true_boxes: whether the boxes of the true masks are used, in training only.
        target_side: side of the masks for the loss, in pixels; 0: that of the model's logits.
    """

    point: str
    boxes: bool
    pixels: bool
    views: bool
    precision: str
    fallback: str
    candidates: bool = False
    true_boxes: bool = False
    target_side: int = 0

    @classmethod
    def of(cls, model: TrainedModel, *, training: bool, precision: str, fallback: str) -> Needs:
        """Return the needs of ``model``; views and true boxes are needed only in training."""
        return cls(
            point=model.cache_point,
            boxes=model.uses_boxes,
            pixels=model.needs_highpass,
            views=training and model.needs_views,
            precision=precision,
            fallback=fallback,
            candidates=model.uses_boxes and model.params.prompt == "fused",
            true_boxes=training and model.uses_boxes and model.params.box_training == "mix",
            target_side=_target_side(model) if training else 0,
        )


@dataclass(frozen=True)
class PreparedSet:
    """N prepared pictures, tensors on the training device, masks at the original size on the CPU.

    Attributes:
        names: N names.
        features: N x ..., see ``ModelInputs``, float32, or bfloat16 if prepared so.
        boxes: N x 4 float32, XYXY in pixels of the encoder's input.
        has_box: N bool on the CPU, whether the box prompts the decoder (the detector's or that of the fallback).
        detected: N bool, whether the detector found a box.
        target: N x h x h bool, the mask at the decoder's resolution, or at that of ``Needs.target_side``.
        valid: as ``target``, False on SAM's padding.
        truths: N masks, HxW bool at the original size.
        pixels: N x 3 x S x S float32, the encoder's input, if needed.
        highpass: N x 3 x S x S float32, its high-frequency component, see ``for_model``.
        view_features: as ``features``, of an augmented view of each picture, if needed.
        candidates: N x M x 4 float32, the detectors' candidate boxes as ``boxes``, most confident first, if needed.
        confidences: N x M float32 in [0, 1], the candidates' confidences; 0 where there are fewer than M.
        true_boxes: N x 4 float32, as ``boxes``, around the object pixels of the true mask, if needed.
        has_object: N bool on the CPU, whether the true mask has any object pixel, if needed.
        support: the labelled images that a few-shot model compares these with; None: those that it remembers.
    """

    names: tuple[str, ...]
    features: Tensor
    boxes: Tensor
    has_box: Tensor
    detected: Tensor
    target: Tensor
    valid: Tensor
    truths: tuple[np.ndarray, ...]
    pixels: Tensor | None = None
    highpass: Tensor | None = None
    view_features: Tensor | None = None
    candidates: Tensor | None = None
    confidences: Tensor | None = None
    true_boxes: Tensor | None = None
    has_object: Tensor | None = None
    support: Support | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def nbytes(self) -> int:
        """Total size of tensors and masks in bytes."""
        tensors = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return sum(tensor.nbytes for tensor in tensors) + sum(truth.nbytes for truth in self.truths)

    def for_model(self, model: TrainedModel) -> PreparedSet:
        """Return the same pictures with the high-pass component for the ``freq_ratio`` of ``model``.

        The ratio is a searched parameter, so the component is computed per trial and not stored.
        """
        if self.pixels is None:
            return self
        return replace(self, highpass=high_pass(self.pixels, model.params.freq_ratio))

    def with_support(self, index: Sequence[int]) -> PreparedSet:
        """Return the same pictures, to be compared with those at ``index`` by a few-shot model."""
        return replace(self, support=self.batch(index).as_support())

    def detected_box(self, place: int, image_size: int) -> np.ndarray | None:
        """Return the detector's box on one picture, XYXY in pixels of the original; None where it found nothing."""
        return self._to_original(self.boxes[place], place, image_size) if bool(self.detected[place]) else None

    def prompt_box(self, place: int, image_size: int) -> np.ndarray | None:
        """Return the box that prompts the decoder on one picture, XYXY in pixels of the original.

        It is the detector's box or that of the fallback; with candidates, the most confident one. None where the
        picture is decoded without a box.

        Args:
            place: position of the picture.
            image_size: S, the side of the encoder's input in pixels.
        """
        if self.candidates is None or self.confidences is None:
            return self._to_original(self.boxes[place], place, image_size) if bool(self.has_box[place]) else None
        if not bool(self.confidences[place].any()):
            return None
        best = int(self.confidences[place].argmax())
        return self._to_original(self.candidates[place, best], place, image_size)

    def _to_original(self, box_4: Tensor, place: int, image_size: int) -> np.ndarray:
        rows, columns = self.truths[place].shape
        height, width = resized_shape((rows, columns), image_size)
        box: np.ndarray = box_4.cpu().numpy() * np.array([columns / width, rows / height] * 2)
        return box

    def batch(self, index: Sequence[int]) -> Batch:
        """Return the pictures at ``index`` as a batch."""
        at, flags = torch.as_tensor(list(index), device=self.features.device), self.has_box.tolist()
        return Batch(
            ModelInputs(
                features=self.features[at].float(),
                boxes=self.boxes[at],
                has_box=tuple(flags[place] for place in index),
                highpass=None if self.highpass is None else self.highpass[at],
                view_features=None if self.view_features is None else self.view_features[at].float(),
            ),
            self.target[at],
            self.valid[at],
        )


@dataclass(frozen=True)
class Batch:
    """B pictures: model inputs, targets and valid pixels, both bool as in ``PreparedSet``.

    Attributes:
        support: a further picture for each, which it is compared with in an episode of a few-shot model.
    """

    inputs: ModelInputs
    target: Tensor
    valid: Tensor
    support: Batch | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of the model's forward pass."""
        if self.support is None:
            return (self.inputs,)
        return self.inputs, self.support.as_support(), self.as_support()

    def as_support(self) -> Support:
        """Return the same pictures as support."""
        return Support(self.inputs.features, self.target, self.valid)

    def with_support(self, support: Batch) -> Batch:
        """Return the same batch, each picture with the one of ``support`` at its place."""
        return replace(self, support=support)

    def without_views(self) -> Batch:
        """Return the same batch without views, for a forward pass without contrastive losses."""
        return replace(self, inputs=replace(self.inputs, view_features=None))


@dataclass(frozen=True)
class Preparer:
    """Prepares pictures with the frozen networks and a cache of their outputs.

    Attributes:
        encoder: the frozen part of the model, on its device.
        detector: the frozen detector; None if no boxes are needed.
        cache: this node's cache.
        pool: the detectors whose candidate boxes are fused; by default ``detector`` alone.
    """

    encoder: FrozenEncoder
    detector: Detector | None
    cache: FeatureCache | NoCache
    pool: tuple[Detector, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """Identity of the frozen networks and the size of the input, which prepared pictures depend on."""
        detectors = (self.detector, *self.pool)
        fingerprints = tuple(detector and detector.fingerprint for detector in detectors)
        return self.encoder.fingerprint, self.encoder.image_size, *fingerprints

    def prepare(self, pictures: Sequence[Picture], needs: Needs) -> PreparedSet:
        """Return the pictures with all inputs in ``needs``, from the cache or computed."""
        size, device = self.encoder.image_size, self.encoder.device
        truths = tuple(picture.mask() for picture in pictures)
        boxes, has_box, detected = self._boxes(pictures, truths, needs)
        masks = [low_res_target(truth, needs.target_side or self.encoder.output_side) for truth in truths]
        features = self._features([p.key for p in pictures], [p.image for p in pictures], needs)
        candidates = confidences = true_boxes = has_object = None
        if needs.candidates:
            candidates, confidences = (t.to(device) for t in self._candidates(pictures, truths))
        if needs.true_boxes:
            true_boxes, has_object = self._true_boxes(truths)
            true_boxes = true_boxes.to(device)
        views = pixels = None
        if needs.views:
            views = self._features([p.view_key for p in pictures], [p.view for p in pictures], needs).to(device)
        if needs.pixels:
            pixels = torch.stack([to_input(picture.image(), size) for picture in pictures]).to(device)
        return PreparedSet(
            names=tuple(picture.name for picture in pictures),
            features=features.to(device),
            boxes=boxes.to(device),
            has_box=has_box,
            detected=detected,
            target=torch.stack([torch.from_numpy(target) for target, _ in masks]).to(device),
            valid=torch.stack([torch.from_numpy(valid) for _, valid in masks]).to(device),
            truths=truths,
            pixels=pixels,
            view_features=views,
            candidates=candidates,
            confidences=confidences,
            true_boxes=true_boxes,
            has_object=has_object,
        )

    def _candidates(self, pictures: Sequence[Picture], truths: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return the candidate boxes of all detectors of the pool, N x M x 4, and their confidences, N x M."""
        pool = self.pool or ((self.detector,) if self.detector else ())
        width = CANDIDATES * len(pool)
        boxes, confidences = torch.zeros(len(pictures), width, 4), torch.zeros(len(pictures), width)
        for place, detector in enumerate(pool):

            def compute(positions: list[int], detector: Detector = detector) -> Iterator[dict[str, Tensor]]:
                images = [pictures[position].image() for position in positions]
                for found in detector.candidates(images, confidence=CANDIDATE_CONFIDENCE, limit=CANDIDATES):
                    rows = torch.zeros(CANDIDATES, 5, dtype=torch.float64)
                    for row, detection in enumerate(found):
                        rows[row] = torch.tensor([*detection.box, detection.confidence], dtype=torch.float64)
                    yield {"rows": rows}

            keys = [
                entry_key(
                    "candidates",
                    detector=detector.fingerprint,
                    image=picture.key,
                    confidence=CANDIDATE_CONFIDENCE,
                    limit=CANDIDATES,
                )
                for picture in pictures
            ]
            form = EntryForm.of("candidates", detector.fingerprint, rows=(torch.float64, (CANDIDATES, 5)))
            for position, entry in enumerate(self.cache.get(keys, compute, batch=16, form=form)):
                for row in range(CANDIDATES):
                    column = place * CANDIDATES + row
                    confidences[position, column] = entry["rows"][row, 4]
                    boxes[position, column] = self._to_input(entry["rows"][row, :4].numpy(), truths[position].shape)
        return boxes, confidences

    def _true_boxes(self, truths: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        boxes, present = torch.zeros(len(truths), 4), torch.zeros(len(truths), dtype=torch.bool)
        for position, truth in enumerate(truths):
            rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
            present[position] = len(rows) > 0
            if len(rows):
                box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
                boxes[position] = self._to_input(box, truth.shape)
        return boxes, present

    def _features(self, keys: Sequence[str], read: Sequence[Callable[[], np.ndarray]], needs: Needs) -> Tensor:
        encoder = self.encoder
        if needs.point == PIXELS:  # resizing an image again is faster than reading it
            return torch.stack([to_input(image(), encoder.image_size) for image in read])
        dtype = torch.bfloat16 if needs.precision == "bf16" else torch.float32

        def compute(positions: list[int]) -> Iterator[dict[str, Tensor]]:
            images = to_inputs((read[position]() for position in positions), encoder.image_size)
            with autocast(encoder.device, needs.precision):
                encoded = encoder.encode(images.to(encoder.device), needs.point)
            return ({"features": one} for one in encoded.to("cpu", dtype))

        entries = self.cache.get(
            [
                entry_key(
                    "features",
                    backbone=encoder.fingerprint,
                    image=key,
                    size=encoder.image_size,
                    point=needs.point,
                    precision=needs.precision,
                )
                for key in keys
            ],
            compute,
            batch=encoder_batch(encoder),
            form=_features_form(encoder, needs.point, dtype) if isinstance(encoder, Backbone) else None,
        )
        return torch.stack([entry["features"] for entry in entries])

    def _boxes(
        self, pictures: Sequence[Picture], truths: Sequence[np.ndarray], needs: Needs
    ) -> tuple[Tensor, Tensor, Tensor]:
        shapes = [truth.shape for truth in truths]
        boxes = torch.zeros(len(pictures), 4)
        detected = torch.zeros(len(pictures), dtype=torch.bool)
        if not needs.boxes:
            return boxes, detected, detected
        if self.detector is not None:
            for position, entry in enumerate(self._detections(pictures, self.detector)):
                detected[position] = bool(entry["found"])
                boxes[position] = self._to_input(entry["box"].numpy(), shapes[position])
        has_box = detected.clone()
        if needs.fallback == "full_image":
            for position in torch.nonzero(~detected).flatten().tolist():
                height, width = shapes[position]
                boxes[position] = self._to_input(np.array([0, 0, width, height]), (height, width))
            has_box[:] = True
        return boxes, has_box, detected

    def _detections(self, pictures: Sequence[Picture], detector: Detector) -> list[dict[str, Tensor]]:
        def compute(positions: list[int]) -> Iterator[dict[str, Tensor]]:
            for found in detector.detect([pictures[position].image() for position in positions]):
                box = np.zeros(4) if found is None else np.asarray(found.box)
                yield {"found": torch.tensor(found is not None), "box": torch.tensor(box, dtype=torch.float64)}

        keys = [entry_key("box", detector=detector.fingerprint, image=picture.key) for picture in pictures]
        form = EntryForm.of("box", detector.fingerprint, found=(torch.bool, ()), box=(torch.float64, (4,)))
        return self.cache.get(keys, compute, batch=16, form=form)

    def _to_input(self, box: np.ndarray, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(box_to_input(box, (shape[0], shape[1]), self.encoder.image_size))


def _features_form(backbone: Backbone, point: str, dtype: torch.dtype) -> EntryForm:
    grid = backbone.grid
    embedding = (backbone.sam.prompt_encoder.embed_dim, grid, grid)
    shape = embedding if point == "embedding" else (grid, grid, backbone.width)
    return EntryForm.of("features", f"{backbone.fingerprint}/{grid}/{point}/{dtype}", features=(dtype, shape))


def _target_side(model: TrainedModel) -> int:
    side = protocol_of(model.method, model.params).loss_side
    if side == "input":
        return model.image_size
    return 0 if side == "decoder" else side


def encoder_batch(encoder: FrozenEncoder) -> int:
    """Return the number of images per pass of the encoder: at 256 px 128 on a GPU and 8 on a CPU; fewer if larger."""
    per_image = (encoder.image_size / 256) ** 2
    room = 128 if encoder.device.type == "cuda" else 8
    return max(1, int(room / per_image))


def low_res_target(mask: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask at the decoder's resolution, placed as SAM places the image.

    A cell belongs to the object if at least half of its area does. Averaging before the threshold keeps thin parts
    of large photographs, which sampling would lose.

    Args:
        mask: HxW bool.
        side: h, the side of the square.

    Returns:
        target and valid, both h x h bool; valid is False on the padding at the right and the bottom.
    """
    height, width = resized_shape((mask.shape[0], mask.shape[1]), side)
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    target = np.zeros((side, side), dtype=bool)
    valid = np.zeros((side, side), dtype=bool)
    target[:height, :width] = small >= 0.5
    valid[:height, :width] = True
    return target, valid
