"""Two nodes and one storage: the second trains on the first one's prepared inputs, with equal results."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from amsam_ray.config.trial import TrialConfig
from amsam_ray.inference import node_cache
from amsam_ray.inference.node_cache import NodeCacheSettings, use_settings
from amsam_ray.storage.open import open_storage
from amsam_ray.training import setup
from amsam_ray.training.pretrained import cached_backbone
from amsam_ray.training.result import TrialResult
from amsam_ray.training.trial import train_trial
from tests.s3.moto import S3Server
from tests.training.toys import random_nano, small_trial


@pytest.fixture(params=["folder", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "results")
    aws: S3Server = request.getfixturevalue("aws")
    return f"s3://{aws.bucket}/{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def own_settings() -> Iterator[None]:
    yield
    use_settings(NodeCacheSettings())


class Node:
    """A node: its own folder, and memory that begins empty."""

    def __init__(self, folder: Path, uri: str):
        self.folder, self.uri = folder, uri

    def train(self, config: TrialConfig) -> tuple[TrialResult, int]:
        """Return the result of a trial and the number of images that the encoder was given."""
        setup._PREPARED.clear()
        node_cache._shared.cache_clear()
        use_settings(NodeCacheSettings("sweep-0", self.uri))
        passes = []
        encoder = cached_backbone(config.backbone, setup.pick_device("cpu")).sam.image_encoder
        hook = encoder.patch_embed.register_forward_pre_hook(lambda module, given: passes.append(len(given[0])))
        try:
            result = train_trial(config, cache_dir=self.folder, work_dir=self.folder / "work", device="cpu")
        finally:
            hook.remove()
        return replace(result, timings={}, peak_memory_bytes=0), sum(passes)


@pytest.mark.parametrize("method", ["blo_sam", "samed"])
def test_the_second_node_computes_no_embedding_and_gets_equal_results(tmp_path: Path, uri: str, method: str) -> None:
    config = small_trial(random_nano(tmp_path), method)
    first, passes = Node(tmp_path / "a", uri).train(config)
    second, passes_again = Node(tmp_path / "b", uri).train(config)
    assert (passes, passes_again) == (4, 0)  # 4 shots
    assert second == first
    assert len([entry for entry in open_storage(uri).list("prepared/") if "features-" in entry.key]) == 4


def test_without_a_storage_each_node_computes(tmp_path: Path) -> None:
    config = small_trial(random_nano(tmp_path), "blo_sam")
    assert [Node(tmp_path / name, "").train(config)[1] for name in "aba"] == [4, 4, 0]


def test_an_unavailable_storage_changes_nothing_but_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = small_trial(random_nano(tmp_path), "blo_sam")
    (tmp_path / "file").write_text("not a folder")
    expected, _ = Node(tmp_path / "a", "").train(config)
    with caplog.at_level(logging.WARNING):
        found, passes = Node(tmp_path / "b", str(tmp_path / "file" / "results")).train(config)
    assert found == expected and passes == 4
    assert len([message for message in caplog.messages if "computed on this node" in message]) == 1
