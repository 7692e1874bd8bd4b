"""Every official layout, in miniature and by its published counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.data.dataset import Dataset, open_dataset
from amsam_ray.data.definition import check_options, definitions, get_definition
from amsam_ray.data.layout import Scan, scan
from amsam_ray.data.tree import LocalTree
from tests.data import layouts

MINIATURES: dict[str, tuple[Callable[[Path], object], int, int]] = {
    "isic2018": (layouts.isic2018, 4, 2),
    "cod10k": (layouts.cod10k, 3, 2),
    "camo": (layouts.camo, 3, 2),
    "istd": (layouts.istd, 3, 2),
    "folder": (layouts.folder, 4, 2),
}


def _scan(name: str, root: Path, **options: object) -> Scan:
    definition = get_definition(name)
    return scan(LocalTree(root), definition, check_options(definition, options)[0])


def _open(name: str, root: Path, **options: object) -> Dataset:
    return open_dataset(DatasetConfig(name=name, root=str(root), options=options), split="all")


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature_loads_with_its_splits(name: str, tmp_path: Path) -> None:
    build, train, test = MINIATURES[name]
    build(tmp_path)
    dataset = _open(name, tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (train, test)
    for one in dataset.train + dataset.test:
        image, mask = dataset.image(one), dataset.mask(one)
        assert image.shape == (layouts.SIDE, layouts.SIDE, 3)
        assert image.dtype == np.uint8
        assert mask.shape == (layouts.SIDE, layouts.SIDE)
        assert mask.dtype == bool
        assert mask.any()
    assert not [f for f in _scan(name, tmp_path).findings if f.severity == "fault"]


def _touch(root: Path, names: list[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _pool(images: str, masks: str, numbers: range) -> list[str]:
    return [text for n in numbers for text in (images.format(n), masks.format(n))]


def _published(name: str) -> list[str]:
    """Empty files under the names of the whole published dataset; a scan reads names only."""
    if name == "tiktok":
        return _pool("images/{}.png", "masks/{}.png", range(2615))
    if name == "vikram_human":
        return _pool("Training_Images/{}.jpg", "Ground_Truth/{}.png", range(290))
    train, truth = "ISIC2018_Task1-2_{}_Input/ISIC_{{}}.jpg", "ISIC2018_Task1_{}_GroundTruth/ISIC_{{}}_segmentation.png"
    return [
        *_pool(train.format("Training"), truth.format("Training"), range(2594)),
        *_pool(train.format("Test"), truth.format("Test"), range(3000, 4000)),
    ]


@pytest.mark.parametrize(("name", "test_size"), [("tiktok", 2000), ("vikram_human", 100), ("isic2018", 1000)])
def test_test_sizes_are_those_of_am_sam_table_5(name: str, test_size: int, tmp_path: Path) -> None:
    _touch(tmp_path, _published(name))
    found = _scan(name, tmp_path)
    expected = definitions()[name].expected
    assert expected is not None
    assert len(found.test) == expected.test == test_size
    assert len(found.train) == expected.train


def test_the_last_images_are_the_last_by_number(tmp_path: Path) -> None:
    _touch(tmp_path, _published("vikram_human"))
    assert set(_scan("vikram_human", tmp_path).test) == {str(number) for number in range(190, 290)}


def test_tiktok_is_found_in_kaggles_extra_folder(tmp_path: Path) -> None:
    layouts.tiktok(tmp_path)
    found = _scan("tiktok", tmp_path)
    # Five images are fewer than the 2,000 of the test split: all of them go there, and a finding says so.
    assert sorted(found.test) == ["1", "10", "100", "11", "2"]
    assert [f.code for f in found.findings if f.severity == "fault"] == ["split"]


def test_vikram_masks_of_another_size_are_resized(tmp_path: Path) -> None:
    layouts.vikram_human(tmp_path)
    definition = get_definition("vikram_human")
    own = definition.model_dump(mode="json") | {"name": "mini", "split": {"test": 2}, "expected": None}
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(own))
    dataset = _open(str(path), tmp_path)
    assert dataset.train == ("0", "2", "3", "9")
    assert dataset.test == ("10", "21")
    assert np.array_equal(dataset.mask("9"), layouts.photograph(9)[1])


def test_kvasirs_jpeg_masks_lose_their_noise(tmp_path: Path) -> None:
    masks = layouts.kvasir_seg(tmp_path)
    dataset = _open("kvasir_seg", tmp_path, test=2)
    assert dataset.test == ("cju003", "cju004")
    for name, mask in masks.items():
        wrong = np.count_nonzero(dataset.mask(name) != mask) / mask.size
        assert wrong < 0.02, f"{name}: {wrong:.1%} of the pixels"


def test_kvasir_accepts_the_publishers_list(tmp_path: Path) -> None:
    layouts.kvasir_seg(tmp_path)
    (tmp_path / "val.txt").write_text("cju001\ncju002  # comment\n\n")
    dataset = _open("kvasir_seg", tmp_path, test="val.txt")
    assert dataset.test == ("cju001", "cju002")
    assert dataset.train == ("cju000", "cju003", "cju004")


def test_cod10k_uses_camouflaged_images_only(tmp_path: Path) -> None:
    layouts.cod10k(tmp_path)
    assert all("-CAM-" in name for name in _scan("cod10k", tmp_path).train)


def test_cod10k_and_camo_share_sinets_train_folder(tmp_path: Path) -> None:
    layouts.cod10k_sinet(tmp_path)
    found = _scan("cod10k", tmp_path)
    assert (sorted(found.train), sorted(found.test)) == (["COD10K-CAM-1", "COD10K-CAM-2"], ["COD10K-CAM-4"])
    assert not found.findings


def test_istd_names_in_both_splits_stay_apart(tmp_path: Path) -> None:
    layouts.istd(tmp_path)
    dataset = _open("istd", tmp_path)
    assert dataset.train == ("1-2", "2-1", "train_1-1")
    assert dataset.test == ("91-1", "test_1-1")
    assert dataset.content_key("train_1-1") != dataset.content_key("test_1-1")


def test_names_pair_across_file_systems_but_never_twice(tmp_path: Path) -> None:
    _touch(tmp_path, ["images/A.JPG", "images/a.jpg", "images/B.jpg", "images/caf\u00e9.jpg", "images/z.jpg"])
    _touch(tmp_path, ["masks/a.png", "masks/b.PNG", "masks/cafe\u0301.png", "masks/z.png"])
    found = _scan("folder", tmp_path, test=1)
    assert {**found.train, **found.test}.keys() == {"a", "B", "caf\u00e9", "z"}
    told = sorted((finding.code, finding.where) for finding in found.findings)
    assert told == [("case", "images/B.jpg"), ("case", "images/caf\u00e9.jpg"), ("no-mask", "images/A.JPG")]


def test_search_trials_cannot_read_a_test_image(tmp_path: Path) -> None:
    layouts.isic2018(tmp_path)
    config = DatasetConfig(name="isic2018", root=str(tmp_path))
    hidden = open_dataset(config, split="all").test
    search = open_dataset(config, split="search")
    assert search.test == ()
    for name in hidden:
        for reach in (search.image, search.mask, search.content_key, search.mask_key):
            with pytest.raises(KeyError, match="no image"):
                reach(name)


def test_limit_test_keeps_the_first(tmp_path: Path) -> None:
    layouts.folder(tmp_path)
    config = DatasetConfig(name="folder", root=str(tmp_path), options={"test": 4}, limit_test=2)
    assert open_dataset(config, split="final").test == ("photo2", "photo3")


def test_procedural_images_need_no_root() -> None:
    config = DatasetConfig(name="procedural", options={"family": "shadow", "train": 3, "test": 2, "size": 48})
    dataset = open_dataset(config, split="all")
    assert dataset.train == ("shadow-000000", "shadow-000001", "shadow-000002")
    assert dataset.test == ("shadow-000003", "shadow-000004")
    assert dataset.image("shadow-000003").shape == (48, 48, 3)
    assert dataset.content_key("shadow-000000") != dataset.content_key("shadow-000001")
