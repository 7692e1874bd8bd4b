"""One label map from a model for each class of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amsam_ray.config.classes import class_problems, class_values, has_classes
from amsam_ray.config.metrics import THRESHOLD
from amsam_ray.errors import InputError, Problem
from amsam_ray.inference.adapter_file import AdapterFileError, AdapterInfo
from amsam_ray.inference.feature_cache import ImageCache
from amsam_ray.inference.predict import Prediction, Predictor, load_predictor
from amsam_ray.models.backbone import Backbone


class LabelPrediction(NamedTuple):
    """The classes of one image.

    Attributes:
        labels: HxW uint16 at the image's size: the value of the most probable class, 0 on the background.
        classes: the binary prediction of each class, by name; these may overlap.
    """

    labels: np.ndarray
    classes: dict[str, Prediction]


class LabelPredictor:
    """A function from images to label maps; ``load_label_predictor`` makes one.

    Args:
        predictors: a predictor for each class, by name.
        values: value of each class in the label map, 1 to 65,535.
        cache: what the predictors share of an image.
    """

    def __init__(self, predictors: Mapping[str, Predictor], values: Mapping[str, int], cache: ImageCache):
        self.predictors, self.values, self._cache = dict(predictors), dict(values), cache

    def __call__(self, images: Sequence[np.ndarray]) -> list[LabelPrediction]:
        """Segment images, one at a time.

        Args:
            images: HxWx3 uint8 RGB, of any sizes.
        """
        return [self._predict(image) for image in images]

    def _predict(self, image: np.ndarray) -> LabelPrediction:
        self._cache.forget()
        found = {name: predictor([image])[0] for name, predictor in self.predictors.items()}
        probabilities = {name: prediction.probability for name, prediction in found.items()}
        return LabelPrediction(label_map(probabilities, self.values), found)


def label_map(probabilities: Mapping[str, np.ndarray], values: Mapping[str, int]) -> np.ndarray:
    """Return the label map of independent foreground probabilities.

    A pixel belongs to the class of the highest probability, to the first of these in the order of the names if several
    have it, and to the background where no probability exceeds one half.

    Args:
        probabilities: HxW float in [0, 1] for each class; at least one.
        values: value of each class.

    Returns:
        HxW uint16, 0 on the background.
    """
    names = sorted(probabilities)
    stacked_CHW = np.stack([probabilities[name] for name in names])
    best_HW = np.array([values[name] for name in names], dtype=np.uint16)[stacked_CHW.argmax(axis=0)]
    labels: np.ndarray = np.where(stacked_CHW.max(axis=0) > THRESHOLD, best_HW, 0).astype(np.uint16)
    return labels


def load_label_predictor(
    adapters: Mapping[str, Path | bytes],
    device: str | None = None,
    *,
    backbone: Path | None = None,
    detector: Path | None = None,
    trust_detector: bool = False,
) -> LabelPredictor:
    """Load a model for each class of a dataset. The frozen image embedding is computed once for all that share it.

    Args:
        adapters: adapter file of each class, or its content, by name of the class.
        device, backbone, detector, trust_detector: as in ``amsam_ray.inference.predict.load_predictor``.

    Raises:
        InputError: as ``load_predictor``; or a class has no adapter, or an adapter is not that of its class.
        AmsamError: as ``load_predictor``.

    Example:
        >>> predictor = load_label_predictor({"polyp": polyp_file, "tool": tool_file})  # doctest: +SKIP
        >>> labels, classes = predictor([image])[0]  # doctest: +SKIP
    """
    cache = ImageCache()
    predictors: dict[str, Predictor] = {}
    loaded: list[Backbone] = []
    for name, adapter in adapters.items():
        # The networks are large: an adapter takes the backbone of an earlier one with the same weights.
        predictors[name] = predictor = load_predictor(
            adapter,
            device,
            backbone=backbone,
            detector=detector,
            trust_detector=trust_detector,
            cache=cache,
            loaded=loaded,
        )
        if isinstance(predictor.model.frozen, Backbone):
            loaded.append(predictor.model.frozen)
    return LabelPredictor(predictors, _values({name: p.info for name, p in predictors.items()}), cache)


def _values(infos: Mapping[str, AdapterInfo]) -> dict[str, int]:
    """Return the value of each class, checked: an adapter file may come from anyone."""
    problems: list[Problem] = []
    values: dict[str, int] = {}
    for name, info in infos.items():
        options = info.config.dataset.options
        classes = options.get("classes")
        if not has_classes(options) or class_problems(options) or not isinstance(classes, Mapping):
            raise AdapterFileError(Problem(name, "its adapter is not that of a class; use one of a sweep with classes"))
        values = values or class_values(classes)
        if options.get("class") != name or class_values(classes) != values:
            what = f"its adapter is that of class {options.get('class')} of {', '.join(sorted(classes))}"
            problems.append(Problem(name, f"{what}; use adapters of one dataset, each for its class"))
    missing = [name for name in values if name not in infos]
    if missing and not problems:
        what = f"has no trained model of {', '.join(missing)}; let the sweep of these classes finish"
        problems.append(Problem(" ".join(infos), what))
    if problems:
        raise InputError(problems)
    return values
