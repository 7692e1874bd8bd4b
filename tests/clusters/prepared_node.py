"""A trial on one machine of a cluster: ``python -m tests.clusters.prepared_node STORAGE``.

It trains one epoch on nano's embeddings of ``--shots`` images and prints one JSON object: images that the encoder got,
the seconds of preparation, a hash of everything that the trial's result says but times, and the log of prepared inputs.
The cache is that of the machine's user.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from amsam_ray.config.networks import BackboneConfig
from amsam_ray.hashing import sha256_hex
from amsam_ray.inference import feature_cache
from amsam_ray.inference.node_cache import NodeCacheSettings, use_settings
from amsam_ray.paths import cache_dir
from amsam_ray.training import setup
from amsam_ray.training.pretrained import cached_backbone
from amsam_ray.training.trial import train_trial
from tests.training.toys import small_trial


class _Kept(logging.Handler):
    """A handler that keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("storage", help="URI of the results")
    parser.add_argument("--shots", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=640)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the machines share the cores of this one
    use_settings(NodeCacheSettings("sweep-0", options.storage))
    log = _Kept()
    feature_cache.logger.addHandler(log)
    feature_cache.logger.setLevel(logging.INFO)
    config = small_trial(
        BackboneConfig(image_size=options.image_size),
        "blo_sam",
        shots=options.shots,
        options={"train": options.shots, "size": 128},
        train={"epochs": 1, "batch_size": 4},
    )
    images: list[int] = []
    encoder = cached_backbone(config.backbone, setup.pick_device("cpu")).sam.image_encoder
    encoder.patch_embed.register_forward_pre_hook(lambda module, given: images.append(len(given[0])))
    with tempfile.TemporaryDirectory() as folder:
        result = train_trial(config, cache_dir=cache_dir(), work_dir=Path(folder), device="cpu")
    told = {**asdict(result), "timings": None, "peak_memory_bytes": None, "adapter": None}
    print(
        json.dumps(
            {
                "encoder_images": sum(images),
                "prepare_s": round(result.timings["prepare"], 2),
                "result": sha256_hex(json.dumps(told, sort_keys=True, default=str))[:16],
                "log": log.messages,
            }
        )
    )


if __name__ == "__main__":
    main()
