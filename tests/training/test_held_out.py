"""What judges a configuration never trains it: judged shots of a fold, and test images."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from amsam_ray.config.datasets import AugmentConfig, SelectionConfig
from amsam_ray.config.methods import METHODS
from amsam_ray.config.networks import DetectorConfig
from amsam_ray.data import dataset as dataset_module
from amsam_ray.data.few_shot import draw_shots
from amsam_ray.inference.inputs import PreparedSet
from amsam_ray.models import detector_tuning
from amsam_ray.training import loop, pretrained, setup, test_scoring
from amsam_ray.training.crossfit import Fold, make_folds
from amsam_ray.training.lru_cache import LruCache
from amsam_ray.training.setup import TrialSetup, cached_dataset
from amsam_ray.training.trial import train_trial
from tests.models.tiny_detector import tiny_detector
from tests.training.toys import random_nano, small_trial

FOLDS = 2
# The networks on pixels share the path of a method without boxes, and take seconds per step.
HELD = [method for method in METHODS if method not in ("deeplabv3", "swin_unet")]
TRAINABLE = [method for method in HELD if METHODS[method].trainable]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return random_nano(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A tiny detector with random weights, tuned for one epoch."""
    path = tiny_detector(tmp_path_factory.mktemp("detector"))
    return DetectorConfig(weights=str(path), confidence=0.0, finetune_epochs=1)


def _config(backbone, method, detector=None, epochs=2, **changes):
    """A cross-fitted trial that uses everything its method has: views, fused prompts, drawn boxes."""
    params = {"hypergradient": "first_order", "detector": "on", "prompt": "fused", "box_training": "mix"}
    params = {key: value for key, value in params.items() if key in METHODS[method].keys}
    if detector is not None:
        changes["detector"] = detector
    return small_trial(
        backbone,
        method,
        params=params,
        selection=SelectionConfig(mode="crossfit", folds=FOLDS),
        train={"epochs": epochs, "augment": AugmentConfig(views=1)},
        **changes,
    )


@dataclass
class _Watch:
    """What a trial reads.

    Attributes:
        steps: per training, the names of the pictures in its steps; views have the name of their shot.
        weights: per training, the final weights of both levels.
        opened: names of all images and masks that were read from the dataset.
        tuned: per tuned detector, the content keys of its shots.
    """

    steps: list[set[str]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    tuned: list[set[str]] = field(default_factory=list)


@pytest.fixture
def watch(monkeypatch):
    seen = _Watch()
    epoch, batch, run = loop.Trainer.epoch, PreparedSet.batch, loop.run
    draw, tune = dataset_module._Procedural._draw, detector_tuning.tune_detector
    in_step = []

    def watched_epoch(self):
        in_step.append(True)
        try:
            return epoch(self)
        finally:
            in_step.clear()

    def watched_batch(self, index):
        if in_step:
            seen.steps[-1].update(self.names[place].partition("#")[0] for place in index)
        return batch(self, index)

    def watched_run(trainer, *args, **kwargs):
        seen.steps.append(set())
        result = run(trainer, *args, **kwargs)
        seen.weights.append(torch.cat([trainer.weights, trainer.prompt]))
        return result

    def watched_draw(self, name):
        seen.opened.add(name)
        return draw(self, name)

    def watched_tune(config, shots, **kwargs):
        seen.tuned.append({shot.key for shot in shots})
        return tune(config, shots, **kwargs)

    monkeypatch.setattr(loop.Trainer, "epoch", watched_epoch)
    monkeypatch.setattr(PreparedSet, "batch", watched_batch)
    monkeypatch.setattr(loop, "run", watched_run)
    monkeypatch.setattr(dataset_module._Procedural, "_draw", watched_draw)
    monkeypatch.setattr(detector_tuning, "tune_detector", watched_tune)
    return seen


@pytest.fixture
def forget(monkeypatch):
    """Return a function that empties the caches of this process."""

    def clear():
        caches = [(setup, "_DATASETS"), (setup, "_SPLITS"), (setup, "_PREPARED"), (pretrained, "_DETECTORS")]
        for module, name in [*caches, (test_scoring, "_PIECES")]:
            monkeypatch.setattr(module, name, LruCache(capacity=2**30))

    return clear


@pytest.mark.parametrize("method", HELD)
def test_the_steps_of_a_fold_read_its_training_shots_and_no_others(backbone, cache, tmp_path, watch, method):
    config = _config(backbone, method)
    train_trial(config, cache_dir=cache, work_dir=tmp_path)
    dataset = cached_dataset(config, cache)
    split = draw_shots(dataset, config.shots, config.shot_seed, config.selection)
    if not METHODS[method].trainable:
        assert watch.steps == []
        return
    assert watch.steps == [{split.names[shot] for shot in fold.trained} for fold in make_folds(split, FOLDS)]


def _garbage(pictures: PreparedSet, shots, names) -> PreparedSet:
    """Replace everything that was prepared from some shots, views included."""
    bad = [place for place, name in enumerate(pictures.names) if name.partition("#")[0] in {names[s] for s in shots}]
    draws = torch.Generator().manual_seed(0)
    changes: dict[str, Any] = {}
    for item in fields(pictures):
        value = getattr(pictures, item.name)
        if isinstance(value, Tensor):
            value = value.clone()
            noise = torch.rand(value[bad].shape, generator=draws)
            value[bad] = noise > 0.5 if value.dtype == torch.bool else noise - value[bad]
            changes[item.name] = value
    truths = tuple(~truth if place in bad else truth for place, truth in enumerate(pictures.truths))
    return replace(pictures, truths=truths, **changes)


@pytest.mark.parametrize("method", TRAINABLE)
def test_garbage_in_the_judged_shots_changes_no_weight(backbone, cache, tmp_path, watch, monkeypatch, method):
    """Garbage in the training shots does, which shows that this test can fail."""
    config = _config(backbone, method, epochs=1)
    train_trial(config, cache_dir=cache, work_dir=tmp_path)
    prepare = TrialSetup.prepare
    for part in ("judged", "trained"):
        folds: list[Fold] = []

        def spoiled(self, preparer, part=part, folds=folds):
            fold = make_folds(self.split, FOLDS)[len(folds)]
            folds.append(fold)
            return _garbage(prepare(self, preparer), getattr(fold, part), self.split.names)

        monkeypatch.setattr(TrialSetup, "prepare", spoiled)
        train_trial(config, cache_dir=cache, work_dir=tmp_path)
        assert len(folds) == FOLDS
    clean, judged, trained = watch.weights[:FOLDS], watch.weights[FOLDS : 2 * FOLDS], watch.weights[2 * FOLDS :]
    assert len(trained) == FOLDS
    for fold in range(FOLDS):
        assert torch.equal(judged[fold], clean[fold])
        assert not torch.equal(trained[fold], clean[fold])


def test_garbage_on_disk_in_a_judged_shot_changes_neither_weights_nor_detector(
    backbone, tmp_path, watch, monkeypatch, forget, detector
):
    """Spoil the judged shots of the first fold in the dataset itself; compare that fold."""
    config = _config(backbone, "am_sam", detector)
    forget()
    train_trial(config, cache_dir=tmp_path / "clean", work_dir=tmp_path)
    split = draw_shots(cached_dataset(config, tmp_path), config.shots, config.shot_seed, config.selection)
    judged = {split.names[shot] for shot in make_folds(split, FOLDS)[0].judged}
    draw = dataset_module._Procedural._draw

    def spoiled(self, name):
        image, mask = draw(self, name)
        return (255 - image, np.roll(~mask, 7, axis=0)) if name in judged else (image, mask)

    monkeypatch.setattr(dataset_module._Procedural, "_draw", spoiled)
    forget()
    train_trial(config, cache_dir=tmp_path / "spoiled", work_dir=tmp_path)
    assert len(watch.weights) == len(watch.tuned) == 2 * FOLDS
    assert torch.equal(watch.weights[0], watch.weights[FOLDS]) and watch.tuned[0] == watch.tuned[FOLDS]
    assert not torch.equal(watch.weights[1], watch.weights[FOLDS + 1]) and watch.tuned[1] != watch.tuned[FOLDS + 1]


@pytest.mark.parametrize("method", [method for method, spec in METHODS.items() if "detector" in spec.keys])
def test_every_fold_tunes_its_detector_on_its_training_shots(
    backbone, cache, tmp_path, watch, monkeypatch, forget, detector, method
):
    forget()
    config = _config(backbone, method, detector)
    untuned = config.detector.model_copy(update={"finetune_epochs": 0})
    monkeypatch.setattr(detector_tuning, "tune_detector", _record_only(watch, untuned))
    train_trial(config, cache_dir=cache, work_dir=tmp_path)
    dataset = cached_dataset(config, cache)
    split = draw_shots(dataset, config.shots, config.shot_seed, config.selection)
    keys = [f"{dataset.content_key(name)}/{dataset.mask_key(name)}" for name in split.names]
    assert watch.tuned == [{keys[shot] for shot in fold.trained} for fold in make_folds(split, FOLDS)]


def _record_only(watch, chosen):
    def tune(config, shots, **kwargs):
        watch.tuned.append({shot.key for shot in shots})
        return chosen

    return tune


@pytest.mark.parametrize("method", ["sam", "am_sam"])
def test_a_search_trial_opens_its_shots_alone(backbone, tmp_path, watch, forget, method):
    forget()
    config = _config(backbone, method)
    train_trial(config, cache_dir=tmp_path / "cache", work_dir=tmp_path)
    dataset = cached_dataset(config, tmp_path / "cache")
    split = draw_shots(dataset, config.shots, config.shot_seed, config.selection)
    assert dataset.test == () and watch.opened == set(split.names)


@pytest.mark.parametrize("method", ["blo_sam", "mca_sam"])
def test_a_final_trains_on_all_shots_and_no_test_image(backbone, tmp_path, watch, forget, method):
    forget()
    config = _config(backbone, method, role="final")
    result = train_trial(config, cache_dir=tmp_path / "cache", work_dir=tmp_path)
    dataset = cached_dataset(config, tmp_path / "cache")
    split = draw_shots(dataset, config.shots, config.shot_seed, config.selection)
    assert watch.steps == [set(split.names)]
    assert set(dataset.test).isdisjoint(split.names) and watch.opened == {*split.names, *dataset.test}
    assert [image["name"] for image in result.test_images] == list(dataset.test)
