"""AM-SAM on MobileSAM at 1024 px, from training to masks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from amsam_ray.cli.main import cli
from amsam_ray.config.networks import BackboneConfig, DetectorConfig
from amsam_ray.data.dataset import open_dataset
from amsam_ray.inference.export import export_adapter
from amsam_ray.models.backbone import build_sam
from amsam_ray.records.io import read_records, write_trial
from amsam_ray.storage.local import LocalStorage
from amsam_ray.training.trial import train_trial
from tests.models.mobile import random_mobile_sam
from tests.models.tiny_detector import tiny_detector
from tests.records.synthetic import Folder, record
from tests.training.toys import small_trial


def test_am_sam_trains_records_predicts_and_exports_at_1024_px(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AMSAM_DEVICE", "cpu")
    weights, detector = random_mobile_sam(tmp_path), tiny_detector(tmp_path)
    config = small_trial(
        BackboneConfig(arch="mobile_sam", checkpoint=str(weights)),
        "am_sam",
        role="final",
        shots=2,
        params={"hypergradient": "first_order", "lr": 1e-3},
        train={"epochs": 1},
        options={"train": 2, "test": 1},
        detector=DetectorConfig(weights=str(detector), confidence=0.0),
    )
    result = train_trial(config, cache_dir=tmp_path / "cache", work_dir=tmp_path / "work", device="cpu")
    assert result.status == "completed" and result.epochs_run == 1
    assert all(math.isfinite(entry["loss"]) for entry in result.curve)
    assert result.test is not None and result.adapter is not None

    write_trial(Folder(tmp_path / "results"), record(config, 0, 0, result=result), result)
    records, problems = read_records(LocalStorage(tmp_path / "results"))
    assert not problems and [(r.backbone, r.test) for r in records] == [("mobile_sam", result.test)]

    dataset = open_dataset(config.dataset, split="final")
    image = dataset.image(dataset.test[0])
    Image.fromarray(image).save(tmp_path / "photo.png")
    given = ["--adapter", str(result.adapter), "--backbone", str(weights), "--detector", str(detector)]
    command = ["predict", str(tmp_path / "photo.png"), *given, "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    mask, truth = np.asarray(Image.open(tmp_path / "out" / "masks" / "photo.png")) == 255, dataset.mask(dataset.test[0])
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) == pytest.approx(result.test["dice"])

    made = export_adapter(result.adapter.read_bytes(), tmp_path / "model", decoder="torchscript", backbone_file=weights)
    assert set(made) == {"sam.pth", "decoder.pt", "model.json"}
    exported = torch.load(tmp_path / "model" / "sam.pth", weights_only=True)
    build_sam("mobile_sam", 1024).load_state_dict(exported)
    before = torch.load(weights, weights_only=True)
    assert not torch.equal(exported["mask_decoder.iou_token.weight"], before["mask_decoder.iou_token.weight"])
