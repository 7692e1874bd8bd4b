"""The file of a detector: where it is, and what can be said about it without loading it. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from amsam_ray.config.networks import DetectorConfig
from amsam_ray.errors import Problem
from amsam_ray.hashing import file_sha256
from amsam_ray.models.weights import WEIGHTS
from amsam_ray.paths import weights_dir

NANO_DETECTOR = Path(__file__).parent / "assets" / "nano_detector.safetensors"

OFFICIAL_SHA256 = {
    "yolov8n.pt": WEIGHTS["yolov8n.pt"].sha256,
    "yolov8s.pt": "1f47a78bf100391c2a140b7ac73a1caae18c32779be7d310658112f7ac9aa78a",
    "yolov8m.pt": "5d4a90cdc7a21786cc59cd19778e9eafff836df9e2da32524737c7ee6efe4fe5",
    "yolov8l.pt": "64c9115303f6a25575f82200d1b22ec409fa6bd7d08d0313884fc20d919478cd",
    "yolov8x.pt": "3df4ada6b4dad6d657868f2fdf7faecfb34dcfccf3a25c4b82079064718524c8",
}
"""SHA-256 of the publisher's release files, which load without ``trust``."""


def check_detector(config: DetectorConfig, where: str = "detector") -> list[Problem]:
    """Return the problems of the detector's file that are visible without loading it.

    Args:
        config: names the file.
        where: the key that the problems are reported under.
    """
    if config.weights == "none":
        return []
    path = detector_path(config)
    if not path.is_file():
        fetch = (
            f"Run `amsam-ray weights fetch {path.name}`." if path.name in WEIGHTS else "Give the path of a detector."
        )
        return [Problem(f"{where}.weights", f"there is no file {path}. {fetch}")]
    if path.suffix not in (".pt", ".safetensors"):
        return [Problem(f"{where}.weights", f"{path.name} is neither .pt nor .safetensors. Export it as one of them.")]
    sha256 = file_sha256(path)
    if config.sha256 is not None and sha256 != config.sha256:
        what = f"{path} has SHA-256 {sha256}, not the configured one. Use the right file, or correct the hash."
        return [Problem(f"{where}.sha256", what)]
    known = config.sha256 is not None or sha256 in OFFICIAL_SHA256.values()
    if path.suffix == ".pt" and not known and not config.trust:
        what = (
            f"{path} is a pickle of unknown origin (SHA-256 {sha256}), and loading a pickle can run code. "
            f"If you trust its source, set sha256: {sha256} or trust: true."
        )
        return [Problem(f"{where}.weights", what)]
    return []


def detector_path(config: DetectorConfig) -> Path:
    """Return the path of the weights: the shipped file, a fetched one or the user's own."""
    if config.weights == "nano":
        return NANO_DETECTOR
    path = Path(config.weights).expanduser()
    if not path.exists() and path.name == config.weights and config.weights in WEIGHTS:
        return weights_dir() / WEIGHTS[config.weights].file
    return path
