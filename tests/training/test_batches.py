"""Batches of pictures."""

import pytest

from amsam_ray.errors import InputError
from amsam_ray.training import batches
from amsam_ray.training.batches import Stream, generator, joint_batch_size


@pytest.mark.parametrize(("pictures", "size"), [(4, 1), (4, 2), (5, 2), (3, 3), (7, 4)])
def test_batches_are_full_and_without_repeats(pictures, size):
    stream = Stream(range(10, 10 + pictures), size, generator(0, 1))
    drawn = [stream.next() for _ in range(3 * pictures)]
    assert all(len(set(batch)) == size for batch in drawn)
    flat = [picture for batch in drawn for picture in batch]
    counts = [flat.count(picture) for picture in range(10, 10 + pictures)]
    assert max(counts) - min(counts) <= 1


def test_every_epoch_sees_every_picture_when_the_batch_divides_them():
    stream = Stream(range(6), 2, generator(0, 1))
    for _ in range(4):
        assert sorted(p for _ in range(stream.steps) for p in stream.next()) == list(range(6))


def test_orders_depend_on_seed_and_purpose_only():
    def first(seed, purpose):
        stream = Stream(range(30), 30, generator(seed, purpose))
        return stream.next()

    assert first(0, 1) == first(0, 1)
    assert first(0, 1) != first(1, 1)
    assert first(0, 1) != first(0, 2)


def test_every_pass_has_a_new_order():
    stream = Stream(range(30), 30, generator(0, 1))
    assert stream.next() != stream.next()


def test_batch_size_is_at_most_the_number_of_pictures_and_at_least_two_with_the_sample_loss():
    assert joint_batch_size(8, 4) == 4
    assert joint_batch_size(1, 4) == 1
    assert joint_batch_size(1, 4, least=2) == 2
    assert joint_batch_size(1, 1, least=2) == 1


def test_a_batch_that_workers_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(batches.parallel, "world_size", lambda: 2)
    with pytest.raises(InputError, match=r"train.batch_size: a joint batch of 1 of 4 .* multiple of 2"):
        joint_batch_size(1, 4)
