from __future__ import annotations

from pathlib import Path

import pytest

from amsam_ray.config.datasets import DatasetConfig, SelectionConfig
from amsam_ray.data.dataset import Dataset, open_dataset
from amsam_ray.data.few_shot import draw_shots
from amsam_ray.data.images import ImageError
from amsam_ray.data.splits import hashed_order, natural_key, split_pool
from amsam_ray.errors import InputError
from tests.data import layouts

D2 = SelectionConfig()


def _procedural(train: int = 20) -> Dataset:
    config = DatasetConfig(name="procedural", options={"family": "lesion", "train": train, "test": 2, "size": 32})
    return open_dataset(config, split="search")


def test_shots_are_halved_and_nested() -> None:
    dataset = _procedural()
    four, eight = draw_shots(dataset, 4, 0, D2), draw_shots(dataset, 8, 0, D2)
    assert (len(eight.d1), len(eight.d2), eight.holdout) == (4, 4, ())
    assert set(eight.d1).isdisjoint(eight.d2)
    assert four.names == eight.names[:4]


def test_the_seed_chooses_the_shots_and_their_order() -> None:
    dataset = _procedural()
    draws = {draw_shots(dataset, 4, seed, D2).names for seed in range(10)}
    assert len(draws) == 10
    assert draw_shots(dataset, 4, 3, D2) == draw_shots(_procedural(), 4, 3, D2)


def test_the_order_of_the_draw_is_pinned() -> None:
    """A change of this order would invalidate the hashes of all published draws."""
    names = [f"image{number}" for number in range(6)]
    assert hashed_order(names, "shots-0") == ["image1", "image4", "image3", "image5", "image0", "image2"]


def test_every_image_is_drawn_about_equally_often() -> None:
    names = [f"{number}" for number in range(10)]
    counts = dict.fromkeys(names, 0)
    for seed in range(1000):
        for name in hashed_order(names, f"shots-{seed}")[:2]:
            counts[name] += 1
    assert all(150 < count < 250 for count in counts.values())  # 200 expected, standard deviation 12.6


def test_the_holdout_is_apart_and_the_same_for_every_k() -> None:
    dataset = _procedural()
    selection = SelectionConfig(mode="holdout", images=5)
    four, eight = draw_shots(dataset, 4, 0, selection), draw_shots(dataset, 8, 0, selection)
    assert four.holdout == eight.holdout
    assert set(eight.holdout).isdisjoint(eight.d1 + eight.d2)
    assert len(eight.holdout) == 5


@pytest.mark.parametrize(("shots", "what"), [(3, "cannot be halved"), (0, "cannot be halved"), (22, "use fewer")])
def test_impossible_draws_are_refused(shots: int, what: str) -> None:
    with pytest.raises(InputError, match=what):
        draw_shots(_procedural(), shots, 0, D2)


def test_shots_and_holdout_together_must_fit() -> None:
    with pytest.raises(InputError, match="4 shots and 18 held-out images"):
        draw_shots(_procedural(), 4, 0, SelectionConfig(mode="holdout", images=18))


def test_the_hash_follows_the_content_of_images_and_masks(tmp_path: Path) -> None:
    layouts.folder(tmp_path)
    config = DatasetConfig(name="folder", root=str(tmp_path), options={"test": 1})
    before = draw_shots(open_dataset(config, split="search"), 4, 0, D2)
    assert before == draw_shots(open_dataset(config, split="search"), 4, 0, D2)
    layouts.put_mask(tmp_path / f"masks/{before.d2[0]}.png", ~layouts.photograph(0)[1])
    after = draw_shots(open_dataset(config, split="search"), 4, 0, D2)
    assert after.names == before.names
    assert after.sha256 != before.sha256


def test_only_what_is_drawn_must_be_readable(tmp_path: Path) -> None:
    layouts.folder(tmp_path)
    config = DatasetConfig(name="folder", root=str(tmp_path), options={"test": 1})
    dataset = open_dataset(config, split="search")
    drawn = draw_shots(dataset, 2, 0, D2).names
    spare = next(name for name in dataset.train if name not in drawn)
    (tmp_path / f"images/{spare}.jpg").write_bytes(b"broken")
    again = open_dataset(config, split="search")
    for name in draw_shots(again, 2, 0, D2).names:
        again.image(name)
    with pytest.raises(ImageError, match=f"{spare}.jpg"):
        again.image(spare)


def test_natural_order_counts() -> None:
    names = ["10", "9", "a2", "a10", "1", "02"]
    assert sorted(names, key=natural_key) == ["1", "02", "9", "10", "a2", "a10"]


def test_splits_by_number_share_and_names() -> None:
    names = [str(number) for number in range(10)]
    assert split_pool(names, 3)[1] == ("7", "8", "9")
    train, test, _ = split_pool(names, 0.3)
    assert len(test) == 3
    assert sorted(train + test) == names
    assert split_pool(names, ["4.png", "5", "x"])[1:] == (("4", "5"), ["x"])
