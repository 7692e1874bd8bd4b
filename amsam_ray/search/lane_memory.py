"""An estimate of what a lane holds in memory, from the space file alone. Imports no torch.

The constants are fitted to ``python -m tests.benchmarks.lane_memory``; docs/cluster.md states how far they are off.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from amsam_ray.config.classes import class_datasets
from amsam_ray.config.methods import METHODS
from amsam_ray.config.networks import BackboneConfig
from amsam_ray.config.params import PARAMS
from amsam_ray.config.space import MethodEntry, SpaceFile
from amsam_ray.config.space_checks import live_space

_MIB = 2**20
_FLOAT = 4  # bytes
_PATCH = 16  # pixels a side of an encoder's token
_EMBEDDING = 256  # channels of an image's embedding

_LANE = 550 * _MIB  # the lane's own process, its mailbox and Ray Train's barrier: 213, 127 and 191 MiB
_WORKER = 1000 * _MIB  # a worker's libraries
_CUDA = 2048 * _MIB  # CUDA's libraries and context, in the host's memory
_WEIGHTS = {"nano": 4e6, "mobile_sam": 10e6, "vit_b": 94e6, "vit_l": 312e6, "vit_h": 641e6}  # parameters
_HEADS = {"nano": 3, "mobile_sam": 0, "vit_b": 12, "vit_l": 16, "vit_h": 16}
_GLOBAL = {"nano": 6, "mobile_sam": 0, "vit_b": 4, "vit_l": 4, "vit_h": 4}  # blocks whose attention is global
_TOKENS = 30  # copies of a block's tokens that the backward pass needs
_SCORES = 1.1  # copies of a global block's attention scores that it needs
_DECODING = 40  # copies of an image's embedding that a step of the decoder takes
_ENCODING = 40  # copies of an image's tokens that the frozen encoder takes
_PIXEL = 9000  # bytes that a step of a network that is not SAM takes per pixel of its input
_KEPT = 1024 * _MIB  # of prepared inputs of other cells, see ``amsam_ray.training.setup``
_TEST_IMAGES = 100  # whose inputs are kept, see ``amsam_ray.training.test_scoring``


@dataclass(frozen=True)
class LaneMemory:
    """What a lane holds in memory, in bytes.

    Attributes:
        lane: its own process and its mailbox, without workers.
        on_cpu: each worker that computes on CPUs.
        on_gpu: each worker that computes on a GPU, whose own memory holds the inputs and is not counted.
    """

    lane: int
    on_cpu: int
    on_gpu: int

    def of_worker(self, workers: int, *, on_gpu: bool) -> int:
        """Return the memory of one of ``workers`` workers, with its share of the lane's own processes, in bytes."""
        return (self.on_gpu if on_gpu else self.on_cpu) + self.lane // workers


def lane_memory(space: SpaceFile) -> LaneMemory:
    """Return the estimate for the cells of a space that need most."""
    weights = int(_FLOAT * _WEIGHTS[space.backbone.arch])
    step = max(_step(space, entry) for entry in space.methods)
    # While weights are read from a file there are two copies of them, and no inputs yet.
    on_cpu = _WORKER + weights + max(weights, _inputs(space) + step)
    return LaneMemory(_LANE, on_cpu, on_gpu=_WORKER + 2 * weights + _CUDA)


def _inputs(space: SpaceFile) -> int:
    """Return the size of the prepared inputs that a worker keeps: of the largest cell, and of others up to a limit."""
    sets, tests = [], []
    for entry, shots in product(space.methods, space.shots):
        picture = _picture(space, entry)
        views = max(int(_largest(space, entry, "views")), space.train.augment.views)
        sets.append(picture * (shots * (1 + views) + space.selection.images))
        tests.append(picture * _TEST_IMAGES)
    datasets = sum(len(class_datasets(dataset)) for dataset in space.datasets)
    return max(max(sets), min(_KEPT, datasets * sum(sets))) + min(_KEPT // 2, datasets * max(tests))


def _picture(space: SpaceFile, entry: MethodEntry) -> int:
    """Return the bytes of one picture's prepared inputs."""
    if METHODS[entry.name].start is not None:
        return int(3 * _FLOAT * _largest(space, entry, "image_size") ** 2)
    tokens = (space.backbone.size // _PATCH) ** 2
    width = 2 * space.backbone.encoder_width if METHODS[entry.name].changes_encoder else 0
    return (2 if space.train.precision == "bf16" else _FLOAT) * tokens * max(width, _EMBEDDING)


def _step(space: SpaceFile, entry: MethodEntry) -> int:
    """Return what one step, or encoding one picture, takes besides weights and inputs, in bytes."""
    batch = space.train.batch_size
    if METHODS[entry.name].start is not None:
        # Batch normalisation needs two images.
        return int(_PIXEL * max(2, batch) * _largest(space, entry, "image_size") ** 2)
    backbone = space.backbone
    tokens = (backbone.size // _PATCH) ** 2
    encoding = _FLOAT * _ENCODING * tokens * max(backbone.encoder_width, _EMBEDDING)
    training = _FLOAT * _DECODING * tokens * _EMBEDDING
    if METHODS[entry.name].changes_encoder:
        training += _encoder(backbone, tokens, whole=space.train.checkpointing == "off")
    return max(encoding, training * batch)


def _encoder(backbone: BackboneConfig, tokens: int, *, whole: bool) -> int:
    """Return what the backward pass through the blocks of an encoder needs per image, in bytes."""
    scores = _FLOAT * _SCORES * _HEADS[backbone.arch] * tokens**2
    block = _FLOAT * _TOKENS * tokens * backbone.encoder_width
    blocks = backbone.depth if whole else 2  # with checkpointing one block at a time, and the tokens between them
    return int(blocks * block + (_GLOBAL[backbone.arch] if whole else 1) * scores)


def _largest(space: SpaceFile, entry: MethodEntry, key: str) -> float:
    """Return the largest value that a numeric key may take for an entry."""
    if key in entry.params:
        return float(entry.params[key])
    if (searched := live_space(space, entry).get(key)) is not None:
        return max(float(value) for value in searched.values)
    return float(METHODS[entry.name].defaults.get(key, PARAMS[key].default))
