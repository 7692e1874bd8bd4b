"""Episodes: which picture supports which, in training and where shots are judged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from amsam_ray.config.datasets import AugmentConfig, SelectionConfig
from amsam_ray.inference import masks
from amsam_ray.inference.inputs import PreparedSet
from amsam_ray.training.episodes import draw_support
from amsam_ray.training.trial import train_trial
from tests.training.toys import Roles, random_nano, small_trial, toy_trainer


def test_the_support_is_another_shot_and_every_other_picture_occurs():
    shots = {4: 0, 5: 0, 6: 1, 7: 1}  # two views of pictures 0 and 1
    pictures = [0, 1, 4, 5, 6, 7]
    draws = torch.Generator().manual_seed(0)
    found = {query: set(draw_support([query] * 60, pictures, shots, draws)) for query in pictures}
    assert found == {query: {1, 6, 7} if query in (0, 4, 5) else {0, 4, 5} for query in pictures}
    with pytest.raises(ValueError, match="pictures of two shots"):
        draw_support([0], [0, 4], shots, draws)


@pytest.mark.parametrize("method", ["hsnet", "ssp"])
def test_training_pairs_each_query_with_a_picture_of_another_shot(method, monkeypatch):
    trainer = toy_trainer(method, batch_size=2, roles=Roles([0, 1, 2], [], {2: 0}))
    seen, batch = [], PreparedSet.batch

    def noted(self, index):
        seen.append(list(index))
        return batch(self, index)

    monkeypatch.setattr(PreparedSet, "batch", noted)
    trainer.epoch()
    steps = zip(seen[::2], seen[1::2], strict=True)
    pairs = {pair for query, support in steps for pair in zip(query, support, strict=True)}
    assert pairs <= {(0, 1), (1, 0), (1, 2), (2, 1)} and len(pairs) > 1


def _supports(monkeypatch: pytest.MonkeyPatch, folder: Path, **changes) -> tuple[list[tuple[set[str], set[str]]], list]:
    """Return per scored set the names of judged and of support pictures of one trial, and its test supports."""
    judged, kept = [], []
    logits, keep = masks.foreground_logits, masks.keep_support
    prepared: dict[int, tuple[list[str], object]] = {}  # with the support, so that no other object gets its id
    with_support = PreparedSet.with_support

    def noted(self, index):
        found = with_support(self, index)
        prepared[id(found.support)] = [self.names[place] for place in index], found.support
        return found

    def scored(model, pictures, index, **given):
        if pictures.support is not None:
            judged.append(({pictures.names[place] for place in index}, set(prepared[id(pictures.support)][0])))
        return logits(model, pictures, index, **given)

    def remembered(model, pictures, precision):
        kept.append(prepared[id(pictures.support)][0])
        keep(model, pictures, precision)

    monkeypatch.setattr(PreparedSet, "with_support", noted)
    for module in ("evaluate", "crossfit_trial"):
        monkeypatch.setattr(f"amsam_ray.training.{module}.foreground_logits", scored)
    monkeypatch.setattr("amsam_ray.training.trial.keep_support", remembered)
    train = {"epochs": 1, "augment": AugmentConfig(views=1)}
    config = small_trial(random_nano(folder), "ssp", train=train, **changes)
    result = train_trial(config, cache_dir=folder / "cache", work_dir=folder)
    assert result.status == "completed"
    return judged, kept


@pytest.mark.parametrize(
    ("mode", "support"), [("d2", 2), ("holdout", 4), ("crossfit", 3)], ids=["d2", "holdout", "crossfit"]
)
def test_no_judged_image_is_its_own_support(mode, support, monkeypatch, tmp_path):
    selection = {"d2": {}, "holdout": {"images": 2}, "crossfit": {"folds": 4}}[mode]
    judged, _ = _supports(monkeypatch, tmp_path, selection=SelectionConfig(mode=mode, **selection))
    assert judged
    for images, compared in judged:
        assert not images & compared and len(compared) == support
        assert not any("#" in name for name in compared)  # views train, and are no support of a prediction


def test_the_test_split_is_compared_with_all_shots(monkeypatch, tmp_path):
    judged, kept = _supports(monkeypatch, tmp_path, role="final")
    ((*names,),) = kept
    assert len(names) == 4 and set(names) == judged[0][0] | judged[0][1]
