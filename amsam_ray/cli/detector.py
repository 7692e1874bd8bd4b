"""``amsam-ray detector``: tune a detector to a domain unknown to the shipped one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from amsam_ray.cli.data import MIRROR, OPTION, ROOT, dataset_config
from amsam_ray.paths import mirrors_dir


@click.group()
def detector() -> None:
    """Tune a detector on a dataset's shots."""


@detector.command("train")
@click.argument("name")
@ROOT
@OPTION
@MIRROR
@click.option("--shots", type=click.IntRange(2), required=True, help="K, number of labelled images to tune on; even.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the shots and the training."
)
@click.option("--epochs", type=click.IntRange(1), default=60, show_default=True)
@click.option("--weights", default="nano", show_default=True, help="Initial detector.")
@click.option("--trust", is_flag=True, help="Start from a .pt of unknown origin, which can run code.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write (.safetensors).")
def train(
    name: str,
    root: str | None,
    pairs: tuple[str, ...],
    mirror: Path | None,
    shots: int,
    seed: int,
    epochs: int,
    weights: str,
    trust: bool,
    out: Path | None,
) -> None:
    """Tune a detector on the boxes of the shots of (NAME, K, seed), the images that trials train on.

    Use the file as `detector.weights` in a space file. With `detector.finetune_epochs`, a sweep tunes a detector for
    each cell itself.
    """
    from amsam_ray.config.datasets import SelectionConfig
    from amsam_ray.config.networks import DetectorConfig
    from amsam_ray.data.dataset import open_dataset
    from amsam_ray.data.few_shot import draw_shots
    from amsam_ray.device import pick_device
    from amsam_ray.errors import InputError, Problem
    from amsam_ray.models.detector_tuning import TuningShot, tune_detector

    config = dataset_config(name, root, pairs)
    out = out or Path(f"detector-{config.label}-k{shots}-s{seed}.safetensors")
    if out.suffix != ".safetensors":
        raise InputError(Problem(f"--out {out}", "has another suffix; use a name that ends in .safetensors"))
    dataset = open_dataset(config, split="search", mirror_dir=mirror or mirrors_dir())
    manifest = draw_shots(dataset, shots, seed, SelectionConfig())
    examples = [
        TuningShot(dataset.image(n), dataset.mask(n), f"{dataset.content_key(n)} {dataset.mask_key(n)}")
        for n in manifest.names
    ]
    start = DetectorConfig(weights=weights, trust=trust, finetune_epochs=epochs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        tuned = tune_detector(start, examples, seed=seed, cache_dir=Path(folder), device=pick_device())
        Path(tuned.weights).replace(out)
    click.echo(f"{out}: {weights} tuned for {epochs} epochs on {', '.join(manifest.names)}")
    click.echo(f"use it with   detector: {{weights: {out}}}")
