"""Camera and compression effects: exposure, colour cast, blur, noise, JPEG."""

from __future__ import annotations

import cv2
import numpy as np


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Turn a painted image (float32, about [0, 255]) into a stored one (uint8, same size)."""
    image = image * rng.normal(1.0, 0.12) * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    image = np.clip(image + rng.normal(0, 8), 0, 255)
    gamma = float(np.exp(rng.normal(0, 0.18)))
    table = ((np.arange(256) / 255.0) ** gamma * 255).astype(np.uint8)
    stored = cv2.LUT(image.astype(np.uint8), table)
    if rng.random() < 0.35:
        stored = cv2.GaussianBlur(stored, (0, 0), float(rng.uniform(0.3, 1.3)))
    if rng.random() < 0.25:  # sharpened, as small pictures on the web are
        soft = cv2.GaussianBlur(stored, (0, 0), 1.0)
        stored = cv2.addWeighted(stored, 1.7, soft, -0.7, 0)
    if rng.random() < 0.5:
        sigma = float(rng.uniform(1, 12))
        noise: np.ndarray = np.empty(stored.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(2**31)))
        cv2.randn(noise, np.zeros(3), np.full(3, sigma))
        stored = cv2.add(stored, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.05:
        grey = cv2.cvtColor(stored, cv2.COLOR_RGB2GRAY)
        stored = cv2.merge((grey, grey, grey))
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 96))]
        stored = np.asarray(cv2.imdecode(cv2.imencode(".jpg", stored, quality)[1], cv2.IMREAD_COLOR))
    return stored
