"""Whole trials on small procedural images: results, reuse of prepared inputs, refusals."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from amsam_ray.config.datasets import AugmentConfig, SelectionConfig
from amsam_ray.config.methods import METHODS
from amsam_ray.errors import AmsamError, InputError
from amsam_ray.inference.predict import load_predictor
from amsam_ray.training.setup import cached_dataset
from amsam_ray.training.trial import train_trial
from tests.training.toys import random_nano, small_trial


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return random_nano(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_scored_on_the_shots_only(backbone, cache, tmp_path, method):
    config = small_trial(backbone, method)
    result = train_trial(config, cache_dir=cache, work_dir=tmp_path)
    assert result.status == "completed" and result.reason is None
    assert {"dice", "dice_low_res"} <= set(result.val) and all(map(math.isfinite, result.val.values()))
    assert result.test is None and result.test_images == [] and result.adapter is None and result.overlays == []
    assert len(result.shots_sha256) == 64 and len(result.backbone_fingerprint) == 64
    assert result.detector_fingerprint is None and result.prompt_coverage is None
    assert result.peak_memory_bytes > 0 and {"load", "prepare", "select"} <= set(result.timings)
    assert list(tmp_path.iterdir()) == []
    if METHODS[method].trainable:
        assert result.epochs_run == 2 and result.best_epoch in (1, 2) and result.trained_params > 1000
        best = result.curve[result.best_epoch - 1]
        assert best["val_dice"] == pytest.approx(result.val["dice"]) == max(e["val_dice"] for e in result.curve)
    else:
        assert result.epochs_run == 0 and result.curve == [] and result.trained_params == 0


@pytest.mark.parametrize("method", ["sam", "am_sam"])
def test_a_final_scores_the_test_split_and_writes_adapter_file_and_overlays(backbone, cache, tmp_path, method):
    config = small_trial(backbone, method, role="final")
    result = train_trial(config, cache_dir=cache, work_dir=tmp_path)
    assert result.test is not None and set(result.test) == set(result.val)
    assert [image["name"] for image in result.test_images] == list(cached_dataset(config, cache).test)
    assert result.test["dice"] == pytest.approx(sum(i["dice"] for i in result.test_images) / 5)
    assert [overlay.rank for overlay in result.overlays] == ["best", "median", "worst"]
    assert result.overlays[0].score >= result.overlays[1].score >= result.overlays[2].score
    assert all(Image.open(overlay.path).size == (64, 64) for overlay in result.overlays)
    json.dumps(result.as_dict())
    if method == "sam":
        assert result.adapter is None
        return
    assert result.adapter is not None
    dataset = cached_dataset(config, cache)
    predictor = load_predictor(result.adapter, backbone=Path(backbone.checkpoint))
    first = result.test_images[0]
    ((mask, probability, box),) = predictor([dataset.image(first["name"])])
    truth = dataset.mask(first["name"])
    assert mask.shape == probability.shape == truth.shape and box is not None
    assert box.tolist() == [0, 0, 64, 64]  # without a detector, the fallback prompts with the whole image
    total = int(mask.sum()) + int(truth.sum())
    assert 2 * int((mask & truth).sum()) / total == pytest.approx(first["dice"])


def test_a_search_trial_has_no_test_images(backbone, cache):
    search, final = (cached_dataset(small_trial(backbone, role=role), cache) for role in ("search", "final"))
    assert search.test == () and len(final.test) == 5
    with pytest.raises(KeyError):
        search.image(final.test[0])


def test_the_same_trial_gives_the_same_numbers_and_prepares_nothing_again(backbone, cache, tmp_path):
    config = small_trial(backbone, "am_mca_sam")
    first = train_trial(config, cache_dir=cache, work_dir=tmp_path)
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    again = train_trial(config, cache_dir=cache, work_dir=tmp_path)
    assert first.curve == again.curve and first.val == again.val
    assert files == {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    other = train_trial(config.model_copy(update={"seed": 1}), cache_dir=cache, work_dir=tmp_path)
    assert other.curve != first.curve


def test_the_random_state_of_the_process_is_neither_used_nor_changed(backbone, cache, tmp_path):
    config = small_trial(backbone, "mca_sam")
    torch.manual_seed(1)
    first = train_trial(config, cache_dir=cache, work_dir=tmp_path)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert train_trial(config, cache_dir=cache, work_dir=tmp_path).curve == first.curve
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_held_out_images_select_and_do_not_train(backbone, cache, tmp_path):
    def curves(**changes):
        config = small_trial(backbone, "blo_sam", metric="mae", maximise=False, **changes)
        return train_trial(config, cache_dir=cache, work_dir=tmp_path).curve

    d2 = curves()
    held = curves(selection=SelectionConfig(mode="holdout", images=3))
    assert [e["loss"] for e in d2] == [e["loss"] for e in held]
    assert [e["val_mae"] for e in d2] != [e["val_mae"] for e in held]


def test_views_of_the_shots_are_additional_training_pictures(backbone, cache, tmp_path):
    plain = train_trial(small_trial(backbone, "blo_sam"), cache_dir=cache, work_dir=tmp_path)
    config = small_trial(backbone, "blo_sam", train={"augment": AugmentConfig(views=2)})
    more = train_trial(config, cache_dir=cache, work_dir=tmp_path)
    assert plain.curve[0]["loss"] != more.curve[0]["loss"]
    # six pictures of D1 instead of two per epoch: the rate after the first epoch is the schedule's, of 12 steps
    assert more.curve[0]["lr"] == pytest.approx(5e-3 * (1 - 5 / 12) ** 0.9)


def test_a_report_prunes(backbone, cache, tmp_path):
    heard = []

    def report(epoch, best):
        heard.append((epoch, best))
        return True

    result = train_trial(
        small_trial(backbone, "blo_sam", train={"epochs": 4}),
        cache_dir=cache,
        work_dir=tmp_path,
        rungs=(2,),
        report=report,
    )
    assert result.status == "pruned" and result.epochs_run == 2 and result.val
    assert heard == [(2, max(entry["val_dice"] for entry in result.curve))]


def test_divergence_is_a_result(backbone, cache, tmp_path):
    config = small_trial(backbone, "blo_sam", params={"lr": 1e30}, train={"batch_size": 2}, role="final")
    result = train_trial(config, cache_dir=cache, work_dir=tmp_path)
    assert result.status == "failed" and result.reason is not None
    assert result.reason == f"diverged at epoch {result.epochs_run + 1}"
    assert result.test is None and result.adapter is None and result.val == {}


def test_lower_is_better_where_the_metric_says_so(backbone, cache, tmp_path):
    config = small_trial(backbone, "blo_sam", metric="mae", maximise=False, train={"epochs": 3})
    result = train_trial(config, cache_dir=cache, work_dir=tmp_path)
    assert result.val["mae"] == pytest.approx(min(entry["val_mae"] for entry in result.curve))


def test_bf16_trains_close_to_fp32(backbone, cache, tmp_path):
    losses = [
        train_trial(
            small_trial(backbone, "am_sam", train={"precision": precision}), cache_dir=cache, work_dir=tmp_path
        ).curve[0]["loss"]
        for precision in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_impossible_configurations_are_refused_by_name(backbone, cache, tmp_path):
    for config, match in [
        (small_trial(backbone, shots=14), "14"),
        (small_trial(backbone, options={"family": "unicorn"}), "unicorn"),
        (small_trial(backbone, params={"rank": 4096}), "rank"),
        (small_trial(backbone.model_copy(update={"sha256": "0" * 64})), "SHA-256"),
    ]:
        with pytest.raises((InputError, AmsamError), match=match):
            train_trial(config, cache_dir=cache, work_dir=tmp_path)
