"""How good the shipped nano SAM and nano detector are, beside a filled box and OpenCV's GrabCut.

    python -m tests.benchmarks.nano [--photos DIR] [--json]

DIR holds `images/` and `masks/` with equal stems, such as photographs of people with their silhouettes. Every image
has one prompt, made from its whole mask: the tight box with each edge moved by normal noise of 5 % of the side, or one
point, the most interior one. The logit threshold is chosen on procedural families only, which the nano SAM was not
trained on; no photograph has a part in training or in any choice.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from segment_anything import SamPredictor

from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.data.procedural import FAMILIES, render
from amsam_ray.models.backbone import load_backbone
from amsam_ray.models.detector import load_detector
from tools.nano.scenes import render_scene, texture_bank

JITTER = 0.05
"""Standard deviation of a box edge's noise, in widths or heights of the box."""

SCENES, PER_FAMILY = 100, 20
SCENE_SEED, CHOICE_SEED, FAMILY_SEED = 990_001, 990_002, 990_003
THRESHOLDS = tuple(float(t) for t in np.arange(-2.0, 1.01, 0.25))


@dataclass(frozen=True)
class Sample:
    """One image with its prompts.

    Attributes:
        image: HWC uint8 RGB. mask: HW bool.
        box: jittered, XYXY in pixels. truth: tight box. point: (X, Y), the most interior pixel.
    """

    image: np.ndarray
    mask: np.ndarray
    box: np.ndarray
    truth: np.ndarray
    point: np.ndarray


def sample(image: np.ndarray, mask: np.ndarray, seed: int) -> Sample:
    """Make the prompts of an image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    truth = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
    width, height = truth[2:] - truth[:2]
    noise = np.random.default_rng(seed).normal(0, JITTER, 4) * [width, height, width, height]
    box = np.clip(truth + noise, 0, [mask.shape[1], mask.shape[0]] * 2)
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return Sample(image, mask, box, truth, np.array([[column, row]], float))


def scenes(count: int = SCENES, seed: int = SCENE_SEED, textures: int = 80) -> Iterator[Sample]:
    """Held-out pretraining scenes at their own aspect, with the salient object's mask."""
    rng = np.random.default_rng(seed)
    bank = texture_bank(rng, textures)
    for index in range(count):
        scene = render_scene(rng, bank, 288)
        size = (round(288 * min(1.0, scene.aspect)), round(288 * min(1.0, 1 / scene.aspect)))
        mask = cv2.resize(scene.mask(0).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        yield sample(cv2.resize(scene.image, size, interpolation=cv2.INTER_AREA), mask, index)


def family(name: str, count: int = PER_FAMILY, seed: int = FAMILY_SEED) -> Iterator[Sample]:
    """Images of one family."""
    for index in range(count):
        yield sample(*render(name, seed, index), index)


def photographs(folder: Path) -> Iterator[Sample]:
    """Photographs of `images/` with the masks of `masks/`, resized (nearest) to them."""
    for index, path in enumerate(sorted((folder / "images").iterdir())):
        image = np.asarray(Image.open(path).convert("RGB"))
        (found,) = (folder / "masks").glob(f"{path.stem}.*")
        mask = Image.open(found).convert("L").resize(image.shape[1::-1], Image.Resampling.NEAREST)
        yield sample(image, np.asarray(mask) > 127, index)


def dice(found: np.ndarray, true: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|)."""
    return float(2 * (found & true).sum() / max(found.sum() + true.sum(), 1))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two XYXY boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = float(np.prod(np.clip(high - low, 0, None)))
    return both / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


def filled(given: Sample) -> np.ndarray:
    """The jittered box as a mask."""
    mask = np.zeros(given.mask.shape, bool)
    left, top, right, bottom = np.round(given.box).astype(int)
    mask[top:bottom, left:right] = True
    return mask


def grabcut(given: Sample) -> np.ndarray:
    """GrabCut (Rother et al. 2004) started from the jittered box, five rounds."""
    inside = filled(given)
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    if inside.all():  # nothing is known to be background: GrabCut has no say
        return inside
    cv2.setRNGSeed(0)
    ground, thing = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(given.image[..., ::-1])
    cv2.grabCut(bgr, labels, (0, 0, 1, 1), ground, thing, 5, cv2.GC_INIT_WITH_MASK)  # the rectangle is not used
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


class Nano:
    """The shipped nano SAM behind segment-anything's predictor; remembers the time spent encoding."""

    def __init__(self) -> None:
        self.predictor = SamPredictor(load_backbone(BackboneConfig()).sam)
        self.encoded, self.seconds = 0, 0.0

    def see(self, image: np.ndarray) -> None:
        """Encode an image."""
        start = time.perf_counter()
        self.predictor.set_image(image)
        self.seconds += time.perf_counter() - start
        self.encoded += 1

    def box(self, box: np.ndarray | None) -> np.ndarray:
        """Logits (HW) of the single-mask output for a box, or for no prompt at all."""
        return np.asarray(self.predictor.predict(box=box, multimask_output=False, return_logits=True)[0][0])

    def point(self, point: np.ndarray) -> np.ndarray:
        """Logits (HW) of the mask of three that the model thinks best for a point."""
        logits, quality, _ = self.predictor.predict(point, np.ones(1), multimask_output=True, return_logits=True)
        return np.asarray(logits[quality.argmax()])


def choose_threshold(nano: Nano) -> float:
    """The logit threshold with the best mean Dice on procedural families, seeds apart from those scored."""
    scores = []
    for name in FAMILIES:
        for given in family(name, PER_FAMILY, CHOICE_SEED):
            nano.see(given.image)
            logits = nano.box(given.box)
            scores.append([dice(logits > t, given.mask) for t in THRESHOLDS])
    return THRESHOLDS[int(np.mean(scores, axis=0).argmax())]


def evaluate(nano: Nano, detector: Any, given: list[Sample], threshold: float) -> dict[str, float]:
    """Mean Dice of every way to segment, and what the detector finds."""
    scores: dict[str, list[float]] = {}

    def score(name: str, found: np.ndarray, true: np.ndarray) -> None:
        scores.setdefault(name, []).append(dice(found, true))

    methods: dict[str, Callable[[Sample], np.ndarray]] = {"filled_box": filled, "grabcut": grabcut}
    overlaps = []
    for one in given:
        nano.see(one.image)
        logits = nano.box(one.box)
        score("nano_box", logits > threshold, one.mask)
        score("nano_box_at_0", logits > 0, one.mask)
        score("nano_point", nano.point(one.point) > threshold, one.mask)
        score("nano_no_prompt", nano.box(None) > threshold, one.mask)
        for name, method in methods.items():
            score(name, method(one), one.mask)
        (found,) = detector.detect([one.image])
        overlaps.append(0.0 if found is None else iou(np.asarray(found.box), one.truth))
        if found is not None:
            score("nano_detected_box", nano.box(np.asarray(found.box)) > threshold, one.mask)
    report = {name: float(np.mean(values)) for name, values in scores.items()}
    report["nano_box_median"] = float(np.median(scores["nano_box"]))
    report["detector_recall"] = float(np.mean(np.asarray(overlaps) >= 0.5))
    report["detector_mean_iou"] = float(np.mean(overlaps))
    return {**report, "images": len(given)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="folder with images/ and masks/")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(1)
    nano = Nano()
    detector = load_detector(DetectorConfig(weights="nano"), torch.device("cpu"))
    threshold = choose_threshold(nano)
    sets = {"scenes": list(scenes()), **{name: list(family(name)) for name in FAMILIES}}
    if args.photos:
        sets["photos"] = list(photographs(args.photos))
    report: dict[str, Any] = {
        "threshold": threshold,
        "jitter": JITTER,
        **{name: evaluate(nano, detector, given, threshold) for name, given in sets.items()},
        "encoder_ms": 1000 * nano.seconds / nano.encoded,
    }
    if args.json:
        print(json.dumps(report))
        return
    columns = list(report["scenes"])
    print(f"logit threshold {threshold:+.2f} (chosen on families); encoder {report['encoder_ms']:.0f} ms an image")
    print("set".ljust(12), *(name.rjust(18) for name in columns))
    for name in sets:
        print(name.ljust(12), *(f"{report[name].get(column, float('nan')):18.3f}" for column in columns))


if __name__ == "__main__":
    main()
