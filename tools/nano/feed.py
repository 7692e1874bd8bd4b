"""Worker processes that draw scenes continuously, and the replay buffer that they fill.

Drawing a scene costs a processor core about 20 ms; a training step on a GPU uses thousands a second. So scenes are
kept on the training device and used several times, each time under another augmentation, while new ones replace old
ones as fast as the workers deliver.
"""

from __future__ import annotations

import multiprocessing as mp
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import torch

from tools.nano.drawing import CHUNK, draw_scenes, layout, slot_bytes, views_of


@dataclass(frozen=True)
class Batch:
    """Scenes on the training device.

    Attributes:
        image: B x S x S x 3 uint8. parts: B x S x S uint8. members: B x MAX_MASKS x MAX_PARTS bool.
        kinds: B x MAX_MASKS uint8. aspect: B float32.
    """

    image: torch.Tensor
    parts: torch.Tensor
    members: torch.Tensor
    kinds: torch.Tensor
    aspect: torch.Tensor


class SceneFeed:
    """A replay buffer of `capacity` scenes, filled by `workers` processes.

    Args:
        size: side of the scenes in pixels.
        seed: worker w draws from the stream (seed, w).
        device: where the buffer lies; capacity x size x size x 4 bytes are taken.

    Use as a context manager: leaving it ends the workers.
    """

    def __init__(
        self, *, workers: int, capacity: int, size: int, seed: int, device: torch.device, textures: int = 160
    ) -> None:
        self.size, self.capacity = size, capacity
        self.count, self.total, self.first = 0, 0, 0
        context = mp.get_context("spawn")
        slots = 4 * workers
        self._memory = SharedMemory(create=True, size=slots * slot_bytes(size))
        self._free, self._full, self._stop = context.Queue(), context.Queue(), context.Event()
        for slot in range(slots):
            self._free.put(slot)
        self._workers = [
            context.Process(
                target=draw_scenes,
                args=(self._memory.name, size, seed, w, textures, self._free, self._full, self._stop),
                daemon=True,
            )
            for w in range(workers)
        ]
        for worker in self._workers:
            worker.start()
        self._store = {
            name: torch.zeros((capacity, *shape[1:]), dtype=torch.from_numpy(np.empty(0, kind)).dtype, device=device)
            for name, (shape, kind) in layout(size).items()
        }

    def __enter__(self) -> SceneFeed:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for _ in self._workers:
            self._free.put(None)
        for worker in self._workers:
            worker.join(timeout=5)
            if worker.is_alive():
                worker.terminate()
        self._memory.close()
        self._memory.unlink()

    def take(self, at_least: int = 0) -> int:
        """Move finished scenes into the buffer; wait until it holds `at_least` scenes."""
        moved = 0
        while self.count < at_least or not self._full.empty():
            slot = self._full.get()
            start = self.total % self.capacity
            start = min(start, self.capacity - CHUNK)
            for name, view in views_of(self._memory, slot, self.size).items():
                self._store[name][start : start + CHUNK].copy_(torch.from_numpy(view))
            self._free.put(slot)
            self.total += CHUNK
            self.count = min(self.total, self.capacity)
            moved += CHUNK
        self.first = self.first or self.total
        return moved

    def sample(self, batch: int) -> Batch:
        """Return a uniform sample, with replacement, of the scenes in the buffer."""
        device = self._store["image"].device
        chosen = torch.randint(self.count, (batch,), device=device)
        return Batch(**{name: store[chosen] for name, store in self._store.items()})
