"""A worker process that draws scenes into shared memory; free of torch, so that it starts quickly."""

from __future__ import annotations

from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np

from tools.nano.scenes import MAX_MASKS, MAX_PARTS, render_scene, texture_bank

CHUNK = 16
"""Number of scenes handed over at a time."""


def layout(size: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shape and type of each array of a slot, which holds one chunk of scenes."""
    return {
        "image": ((CHUNK, size, size, 3), np.uint8),
        "parts": ((CHUNK, size, size), np.uint8),
        "members": ((CHUNK, MAX_MASKS, MAX_PARTS), np.bool_),
        "kinds": ((CHUNK, MAX_MASKS), np.uint8),
        "aspect": ((CHUNK,), np.float32),
    }


def views_of(memory: SharedMemory, slot: int, size: int) -> dict[str, np.ndarray]:
    """Return the arrays of one slot of the shared memory."""
    offset, views = slot * slot_bytes(size), {}
    for name, (shape, kind) in layout(size).items():
        views[name] = np.ndarray(shape, kind, buffer=memory.buf, offset=offset)
        offset += -(-views[name].nbytes // 64) * 64
    return views


def slot_bytes(size: int) -> int:
    """Return the size of one slot in bytes; every array starts at a multiple of 64."""
    arrays = layout(size).values()
    return sum(-(-int(np.prod(shape)) * np.dtype(kind).itemsize // 64) * 64 for shape, kind in arrays)


def draw_scenes(name: str, size: int, seed: int, worker: int, textures: int, free: Any, full: Any, stop: Event) -> None:
    import cv2

    cv2.setNumThreads(1)
    memory = SharedMemory(name)
    round_ = 0
    while not stop.is_set():
        # A new bank every 4,000 scenes: textures must not be learnt by heart.
        rng = np.random.default_rng((seed, worker, round_))
        bank = texture_bank(rng, textures)
        round_ += 1
        for _ in range(4000 // CHUNK):
            slot = free.get()
            if slot is None or stop.is_set():
                return
            views = views_of(memory, slot, size)
            for i in range(CHUNK):
                scene = render_scene(rng, bank, size)
                for key, view in views.items():
                    view[i] = getattr(scene, key)
            full.put(slot)
