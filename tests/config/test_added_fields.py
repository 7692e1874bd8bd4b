"""Fields that were added later leave the fingerprints of earlier trials and space files unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amsam_ray.config.datasets import AugmentConfig, DatasetConfig, SelectionConfig
from amsam_ray.config.networks import DetectorConfig
from amsam_ray.config.params import MethodParams
from amsam_ray.config.space_file import load_space, space_hash
from amsam_ray.config.trial import TrainConfig, TrialConfig

PLAIN = TrialConfig(
    dataset=DatasetConfig(name="procedural", options={"family": "lesion"}),
    shots=4,
    method="am_sam",
    label="am_sam",
    params=MethodParams(),
)
DETAILED = TrialConfig(
    dataset=DatasetConfig(name="procedural", options={"family": "polyp", "size": 64}),
    shots=8,
    shot_seed=3,
    selection=SelectionConfig(mode="holdout", images=5),
    method="mca_sam",
    label="mca",
    params=MethodParams(adaptors="mc", levels=1, rank=8, lr=1e-3, calibration="batch"),
    detector=DetectorConfig(weights="none", finetune_epochs=6),
    train=TrainConfig(epochs=7, batch_size=2, augment=AugmentConfig(views=2)),
    seed=5,
    role="final",
    metric="mae",
    maximise=False,
)
SPACE = """\
name: small
datasets:
  - {name: procedural, options: {family: lesion}}
shots: [4]
methods: [sam, {name: am_sam, params: {rank: 8}}]
search:
  trials: 3
  space:
    alpha: {uniform: [0.5, 1.0]}
"""


@pytest.mark.parametrize(
    ("config", "fingerprint"),
    [
        (PLAIN, "3e77a43fb61c4330b2265dfb1f5d35287f439f47301bc40ecae2e3ec8e57ab73"),
        (DETAILED, "38430c1c55efedf0d552c618ca1f70d1233303b58b888c99d91b694693ea2726"),
    ],
    ids=["plain", "detailed"],
)
def test_fingerprints_of_trials_are_those_of_before_the_added_fields(config: TrialConfig, fingerprint: str) -> None:
    assert config.fingerprint() == fingerprint


def test_the_hash_of_a_space_file_is_that_of_before_the_added_fields(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    assert space_hash(load_space(file)) == "ead7946ec50a469d9fb8553b515ecb34c8e3f832a31cf20df17d8adca94b0459"


@pytest.mark.parametrize(
    "changes",
    [
        {"stop_epoch": 3},
        {"selection": SelectionConfig(mode="crossfit")},
        {"selection": SelectionConfig(mode="crossfit", folds=3)},
        {"train": TrainConfig(checkpointing="on")},
        {"params": MethodParams(steps=7)},
        {"params": MethodParams(views=2)},
        {"params": MethodParams(prompt="fused")},
        {"params": MethodParams(box_training="mix")},
        {"params": MethodParams(ahead="sgd")},
        {"params": MethodParams(reach=1e-3)},
        {"params": MethodParams(protocol="published")},
        {"params": MethodParams(features="sam")},
        {"params": MethodParams(image_size=64)},
        {"params": MethodParams(prototypes=2)},
    ],
)
def test_added_fields_count_once_set_and_are_read_back(changes: dict[str, object]) -> None:
    config = PLAIN.model_copy(update=changes)
    assert config.fingerprint() != PLAIN.fingerprint()
    assert TrialConfig.model_validate_json(config.canonical()) == config
    assert json.loads(config.canonical()) == config.model_dump(mode="json", by_alias=True)
