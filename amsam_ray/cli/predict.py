"""``amsam-ray predict``: masks for images from a trained model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from amsam_ray.cli.lookup import STORAGE, find_class_trials, naming, read_adapter
from amsam_ray.config.datasets import path_fault
from amsam_ray.data.patterns import SUFFIXES
from amsam_ray.errors import AmsamError, InputError, Problem, counted

if TYPE_CHECKING:
    import numpy as np

    from amsam_ray.inference.label_maps import LabelPrediction
    from amsam_ray.inference.predict import Prediction

_OVERLAY_SIDE = 1024

BACKBONE = click.option(
    "--backbone",
    type=click.Path(path_type=Path),
    help="SAM checkpoint that the adapter was trained on [default: the shipped or fetched one].",
)


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--adapter",
    required=True,
    metavar="URI",
    help="A file, s3://bucket/key, a trial or cell, or DATASET.kSHOTS[.METHOD] of a dataset with classes.",
)
@STORAGE
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the results.")
@click.option("--overlays/--no-overlays", default=True, help="Also write images with the masks' outlines.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images in memory at a time.")
@click.option("--device", help="A torch device [default: a GPU if there is one].")
@BACKBONE
@click.option(
    "--detector",
    type=click.Path(path_type=Path),
    help="Detector to use [default: the one inside the adapter file, the shipped or a fetched one].",
)
@click.option("--trust-detector", is_flag=True, help="Load a --detector that is a .pt of unknown origin; can run code.")
def predict(
    images: tuple[Path, ...],
    adapter: str,
    storage: str,
    out: Path,
    overlays: bool,
    batch: int,
    device: str | None,
    backbone: Path | None,
    detector: Path | None,
    trust_detector: bool,
) -> None:
    """Segment IMAGES, which are files or folders.

    Writes OUT/masks/NAME.png (255 on the object, at the image's size) and OUT/overlays/NAME.png. With the models of all
    classes of a dataset it writes OUT/labels/NAME.png (one label map), OUT/labels.json (the value of each class) and
    OUT/masks/CLASS/NAME.png. Unreadable files are listed and skipped; the exit status is then 1. Files that the adapter
    file names are not opened: for other networks than the shipped and published ones, give --backbone and --detector.
    """
    paths = find_images(images)
    trials = find_class_trials(adapter, storage)
    contents = {name: read_adapter(trial, storage) for name, trial in (trials or {"": adapter}).items()}
    from amsam_ray.inference.label_maps import load_label_predictor
    from amsam_ray.inference.predict import load_predictor

    networks: dict[str, Any] = {"backbone": backbone, "detector": detector, "trust_detector": trust_detector}
    predictor: Callable[[list[np.ndarray]], Sequence[Prediction | LabelPrediction]]
    with naming(adapter):
        if trials:
            predictor = labels = load_label_predictor(contents, device, **networks)
            _write_values(out, labels.values)
            click.echo(f"models: {', '.join(trials.values())}")
        else:
            predictor = load_predictor(contents[""], device, **networks)
    failed = 0
    with click.progressbar(length=len(paths), label="predict", file=sys.stderr) as progress:
        rest = iter(paths)
        while chunk := list(islice(rest, batch)):
            read = [(path, pixels) for path in chunk if (pixels := _read(path)) is not None]
            failed += len(chunk) - len(read)
            found: Sequence[Prediction | LabelPrediction] = predictor([pixels for _, pixels in read])
            for (path, pixels), prediction in zip(read, found, strict=True):
                _write(out, path, pixels, prediction, overlays)
            progress.update(len(chunk))
    written = ("label map", "labels") if trials else ("mask", "masks")
    click.echo(f"{counted(len(paths) - failed, written[0])} in {out / written[1]}")
    if failed:
        raise AmsamError(f"{failed} of {counted(len(paths), 'file')} could not be read; see the warnings above.")


def find_images(given: Sequence[Path]) -> list[Path]:
    """Return the images among the files and in the folders ``given``, in order and without repetition.

    Raises:
        InputError: a path does not exist, a folder holds no image, or two images have the same stem.
    """
    problems: list[Problem] = []
    found: dict[Path, None] = {}
    for path in given:
        if fault := path_fault(str(path)):
            problems.append(Problem(str(path)[:200], fault))
        elif path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                problems.append(Problem(str(path), f"holds no image; supported are {', '.join(sorted(SUFFIXES))}"))
            found |= dict.fromkeys(inside)
        elif path.is_file():
            found[path] = None
        else:
            problems.append(Problem(str(path), "does not exist; give image files or folders"))
    names: dict[str, Path] = {}
    for path in found:
        other = names.setdefault(path.stem, path)
        if other is not path:
            problems.append(
                Problem(str(path), f"has the same stem as {other} and would write the same mask; rename one")
            )
    if problems:
        raise InputError(problems)
    return list(found)


def _read(path: Path) -> np.ndarray | None:
    from amsam_ray.data.images import ImageError, decode_image

    try:
        return decode_image(path.read_bytes(), str(path)).pixels
    except (ImageError, OSError) as error:
        click.echo(f"warning: {error}", err=True)
        return None


def _write_values(out: Path, values: Mapping[str, int]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"background": 0, **values}, indent=2)
    (out / "labels.json").write_text(text + "\n", encoding="utf-8")


def _write(out: Path, path: Path, pixels: np.ndarray, prediction: Prediction | LabelPrediction, overlays: bool) -> None:
    from amsam_ray.inference.label_maps import LabelPrediction
    from amsam_ray.inference.overlays import label_overlay, overlay, save_labels, save_png

    if isinstance(prediction, LabelPrediction):
        save_labels(out / "labels" / f"{path.stem}.png", prediction.labels)
        for name, one in prediction.classes.items():
            save_png(out / "masks" / name / f"{path.stem}.png", one.mask.astype("uint8") * 255)
        if overlays:
            picture = label_overlay(pixels, prediction.labels, side=_OVERLAY_SIDE)
            save_png(out / "overlays" / f"{path.stem}.png", picture)
        return
    save_png(out / "masks" / f"{path.stem}.png", prediction.mask.astype("uint8") * 255)
    if overlays:
        picture = overlay(pixels, None, prediction.mask, prediction.box, side=_OVERLAY_SIDE)
        save_png(out / "overlays" / f"{path.stem}.png", picture)
