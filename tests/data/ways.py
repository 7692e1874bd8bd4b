"""Twenty-two ways in which people hand over photographs with masks, in miniature.

``python -m tests.data.ways`` prints what `amsam-ray data detect` makes of each.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from amsam_ray.errors import InputError

COUNT = 8
SIDE = 32
_STEP = 30  # between the grey levels of the photographs, which say whose mask is whose


def truth(index: int) -> np.ndarray:
    """The mask of a photograph, HW bool; every index has its own."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4 + index : 16 + index, 6 : 18 + index] = True
    return mask


def index_of(photograph: np.ndarray) -> int:
    """The index of a decoded photograph."""
    return round(float(photograph.mean()) / _STEP)


def photo(path: Path, index: int) -> None:
    """Write a photograph of one grey level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE, 3), index * _STEP, np.uint8)).save(path)


def values(path: Path, pixels: np.ndarray, palette: list[int] | None = None) -> None:
    """Write the pixels of a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    image.save(path)


def mask(path: Path, index: int) -> None:
    """Write a mask of 0 and 255."""
    values(path, truth(index).astype(np.uint8) * 255)


def _pairs(images: str, masks: str, numbers: range = range(COUNT)) -> Callable[[Path], None]:
    """Write photographs and masks under two patterns of ``{i}``."""

    def build(root: Path) -> None:
        for i in numbers:
            photo(root / images.format(i=i), i)
            mask(root / masks.format(i=i), i)

    return build


def _both(*builds: Callable[[Path], None]) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for one in builds:
            one(root)

    return build


def _photos(pattern: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for i in range(COUNT):
            photo(root / pattern.format(i=i), i)

    return build


def _roboflow(root: Path) -> None:
    """Roboflow's semantic masks: both kinds in one folder for each split, values 0 and 1."""
    for split, numbers in (("train", range(5)), ("valid", range(5, 6)), ("test", range(6, 8))):
        for i in numbers:
            photo(root / f"{split}/a{i}_jpg.rf.0c{i}.jpg", i)
            values(root / f"{split}/a{i}_jpg.rf.0c{i}_mask.png", truth(i).astype(np.uint8))
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, leaf\n")


def _voc(root: Path) -> None:
    """VOC: palette masks, instances beside classes, lists of names."""
    for i in range(COUNT):
        photo(root / f"JPEGImages/{i}.jpg", i)
        for folder in ("SegmentationClass", "SegmentationObject"):
            values(root / folder / f"{i}.png", truth(i).astype(np.uint8), [0, 0, 0, 64, 0, 0])
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("0\n")


def _nnunet(root: Path) -> None:
    for i in range(COUNT):
        split = "Tr" if i < 6 else "Ts"
        photo(root / f"images{split}/case_{i}_0000.png", i)
        values(root / f"labels{split}/case_{i}.png", truth(i).astype(np.uint8))
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tumour": 1}, "file_ending": ".png"}))


def _carvana(root: Path) -> None:
    for i in range(COUNT):
        photo(root / f"train/car{i}.jpg", i)
        (root / "train_masks").mkdir(exist_ok=True)
        Image.fromarray(truth(i).astype(np.uint8) * 255).save(root / f"train_masks/car{i}_mask.gif")
    photo(root / "test/other.jpg", 0)


def _arrays(root: Path) -> None:
    for i in range(COUNT):
        photo(root / f"images/{i}.png", i)
        (root / "masks").mkdir(exist_ok=True)
        np.save(root / f"masks/{i}.npy", truth(i))


def _classes(root: Path) -> None:
    """Two classes: the object's upper rows are 1, its lower ones 2."""
    for i in range(COUNT):
        photo(root / f"images/{i}.png", i)
        values(root / f"masks/{i}.png", _halves(i, 1, 2).astype(np.uint8))


def _halves(index: int, upper: int, lower: int) -> np.ndarray:
    rows = np.arange(SIDE)[:, None] < 9 + index
    return np.where(truth(index), np.where(rows, upper, lower), 0)


def _instances(root: Path) -> None:
    """Cell-tracking style: ids of instances in 16 bits."""
    for i in range(COUNT):
        photo(root / f"images/{i}.tif", i)
        values(root / f"masks/{i}.tif", _halves(i, 3, 5).astype(np.uint16))


def _trimaps(root: Path) -> None:
    """Oxford-IIIT Pet: 1 inside, 2 outside, 3 at the border."""
    for i in range(COUNT):
        photo(root / f"images/{i}.jpg", i)
        values(root / f"annotations/trimaps/{i}.png", np.where(truth(i), 1, 2).astype(np.uint8))


def _colours(root: Path) -> None:
    """A colour for each class, one of them dark."""
    for i in range(COUNT):
        photo(root / f"images/{i}.png", i)
        halves = _halves(i, 1, 2)
        table = np.array([[0, 0, 0], [128, 0, 0], [0, 64, 0]], np.uint8)
        values(root / f"labels/{i}.png", table[halves])


def _class_folders(root: Path) -> None:
    for i in range(COUNT):
        photo(root / f"images/{i}.png", i)
        for number, name in ((1, "polyp"), (2, "Tool A")):
            values(root / f"masks/{name}/{i}.png", (_halves(i, 1, 2) == number).astype(np.uint8) * 255)


def _box(index: int) -> tuple[int, int, int, int]:
    """The first and last column and row of the object: x0, y0, x1, y1."""
    return 6, 4 + index, 17 + index, 15 + index


def _corners(index: int) -> list[list[int]]:
    x0, y0, x1, y1 = _box(index)
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def _coco(root: Path) -> None:
    """Roboflow's COCO export: the file beside the photographs."""
    images, annotations = [], []
    for i in range(COUNT):
        photo(root / f"train/{i}.jpg", i)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": SIDE, "height": SIDE})
        flat = [float(v) for corner in _corners(i) for v in corner]
        annotations.append({"id": i, "image_id": i, "category_id": 1, "segmentation": [flat], "iscrowd": 0})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "leaf"}]}
    (root / "train/_annotations.coco.json").write_text(json.dumps(data))


def _cvat(root: Path) -> None:
    _photos("images/{i}.png")(root)
    polygons = "".join(
        f'<image id="{i}" name="{i}.png" width="32" height="32"><polygon label="leaf" points="'
        + ";".join(f"{x},{y}" for x, y in _corners(i))
        + '"/></image>'
        for i in range(COUNT)
    )
    (root / "annotations.xml").write_text(
        f'<?xml version="1.0"?><annotations><version>1.1</version>{polygons}</annotations>'
    )


def _labelme(root: Path) -> None:
    for i in range(COUNT):
        photo(root / f"{i}.jpg", i)
        shape = {"label": "leaf", "points": _corners(i), "shape_type": "polygon", "flags": {}}
        data: dict[str, object] = {
            "version": "5.4",
            "flags": {},
            "shapes": [shape],
            "imagePath": f"{i}.jpg",
            "imageData": None,
        }
        (root / f"{i}.json").write_text(json.dumps({**data, "imageHeight": SIDE, "imageWidth": SIDE}))


def _yolo(root: Path) -> None:
    for i in range(COUNT):
        photo(root / f"images/{i}.jpg", i)
        (root / "labels").mkdir(exist_ok=True)
        points = " ".join(f"{v / SIDE:.6f}" for corner in _corners(i) for v in corner)
        (root / f"labels/{i}.txt").write_text(f"0 {points}\n")
    (root / "data.yaml").write_text("names: [leaf]\n")


def _yolo_backgrounds(root: Path) -> None:
    """YOLO with empty label files, as those of photographs without an object are."""
    _yolo(root)
    for i in range(5):
        (root / f"labels/-{i}.txt").write_text("")


def _run_lengths(root: Path) -> None:
    """Kaggle's competitions: runs down the columns, counted from 1."""
    _photos("train/{i}.jpg")(root)
    with (root / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ImageId", "EncodedPixels"])
        for i in range(COUNT):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], truth(i).T.reshape(-1).astype(int), [0]])))
            runs = [f"{start + 1} {stop - start}" for start, stop in zip(edges[::2], edges[1::2], strict=True)]
            table.writerow([f"{i}.jpg", " ".join(runs)])


def _objects(root: Path) -> None:
    """Kaggle's Data Science Bowl 2018: a folder for each photograph, a mask for each nucleus."""
    for i in range(COUNT):
        photo(root / f"n{i}/images/n{i}.png", i)
        for number in (1, 2):
            values(root / f"n{i}/masks/h{number}.png", (_halves(i, 1, 2) == number).astype(np.uint8) * 255)


@dataclass(frozen=True)
class Way:
    """One way to hand over labelled photographs.

    Attributes:
        title: who does it so.
        build: writes it below a folder.
        train, test: number of labelled images, 0 if it is refused.
        told: words of the refusal.
        again: options that read it after all, as the refusal states them.
        script: whether the refusal comes with a script that writes masks.
    """

    title: str
    build: Callable[[Path], None]
    train: int = 0
    test: int = 0
    told: tuple[str, ...] = ()
    again: dict[str, object] | None = None
    script: bool = False


WAYS = {
    "plain": Way("images/ and masks/, equal names", _pairs("images/{i}.jpg", "masks/{i}.png"), 6, 2),
    "suffix": Way("masks named x_mask.png (Kaggle)", _pairs("images/{i}.jpg", "masks/{i}_mask.png"), 6, 2),
    "isic": Way(
        "ISIC: Training_Input, GroundTruth, x_segmentation.png",
        _pairs("ISIC_Training_Input/I_{i}.jpg", "ISIC_Training_GroundTruth/I_{i}_segmentation.png"),
        6,
        2,
    ),
    "labels": Way("labels/ in place of masks/", _pairs("images/{i}.jpg", "labels/{i}.png"), 6, 2),
    "capitals": Way("Images/ and GT/, capitals", _pairs("Images/{i}.JPG", "GT/{i}.PNG"), 6, 2),
    "prefix": Way("img_1.jpg and mask_1.png", _pairs("imgs/img_{i}.jpg", "annotations/mask_{i}.png"), 6, 2),
    "mixed": Way("both kinds in one folder, x_sat.jpg and x-mask.png", _pairs("{i}_sat.jpg", "{i}-mask.png"), 6, 2),
    "formats": Way("both kinds in one folder, x.jpg and x.png", _pairs("data/{i}.jpg", "data/{i}.png"), 6, 2),
    "cases": Way("a folder for each case: image.png, mask.png", _pairs("p{i}/image.png", "p{i}/mask.png"), 6, 2),
    "mri": Way(
        "LGG MRI: case/x_1.tif, case/x_1_mask.tif",
        _pairs("kaggle_3m/T{i}/T{i}_1.tif", "kaggle_3m/T{i}/T{i}_1_mask.tif"),
        6,
        2,
    ),
    "splits": Way(
        "train/ and test/ with images/ and masks/ beneath",
        _both(
            _pairs("train/images/{i}.png", "train/masks/{i}.png", range(5)),
            _pairs("val/images/{i}.png", "val/masks/{i}.png", range(5, 6)),
            _pairs("test/images/{i}.png", "test/masks/{i}.png", range(6, 8)),
        ),
        5,
        2,
    ),
    "roboflow": Way("Roboflow's semantic masks: train/x.jpg, train/x_mask.png, values 0 and 1", _roboflow, 5, 2),
    "voc": Way("VOC and CVAT: JPEGImages, SegmentationClass, palettes", _voc, 6, 2),
    "nnunet": Way("nnU-Net: imagesTr/x_0000.png, labelsTr/x.png, values 0 and 1", _nnunet, 6, 2),
    "carvana": Way("Carvana: train/, train_masks/x_mask.gif", _carvana, 6, 2),
    "arrays": Way("masks as .npy", _arrays, 6, 2),
    "classes": Way(
        "label maps of 0, 1, 2",
        _classes,
        told=("holds the values 0, 1, 2", "classes: {class_1: 1, class_2: 2}", "object: nonzero"),
        again={"images": "images", "masks": "masks", "object": "nonzero"},
    ),
    "instances": Way(
        "instance ids in 16 bits",
        _instances,
        told=("holds the values 0, 3, 5", "object: nonzero"),
        again={"images": "images", "masks": "masks", "object": "nonzero"},
    ),
    "coco": Way(
        "COCO JSON (Roboflow)",
        _coco,
        told=("train/_annotations.coco.json: is a COCO file", 'images: train, annotations: "train/_ann'),
    ),
    "cvat": Way("CVAT XML", _cvat, told=("annotations.xml: is a CVAT file", "Segmentation mask 1.1")),
    "labelme": Way("labelme JSON", _labelme, told=("0.json: is a labelme file",), script=True),
    "yolo": Way("YOLO polygons", _yolo, told=("labels/0.txt: is a YOLO file of polygons",), script=True),
}
"""The ways by name."""

MORE_WAYS = {
    "colours": Way(
        "a colour for each class",
        _colours,
        told=("holds the values 0, 64, 128", "object: nonzero"),
        again={"images": "images", "masks": "labels", "object": "nonzero"},
    ),
    "trimaps": Way(
        "trimaps (Oxford-IIIT Pet)",
        _trimaps,
        told=("holds the values 1, 2", "masks: annotations/trimaps, classes: {class_1: 1}, ignore: [2]}"),
        again={"images": "images", "masks": "annotations/trimaps", "classes": {"pet": 1}, "ignore": [2]},
    ),
    "class-folders": Way(
        "a folder of masks for each class",
        _class_folders,
        told=('classes: {tool_a: "Tool A", polyp: polyp}', "masks: masks/polyp"),
    ),
    "yolo-backgrounds": Way(
        "YOLO polygons and empty label files",
        _yolo_backgrounds,
        told=("labels/0.txt: is a YOLO file of polygons",),
        script=True,
    ),
    "run-lengths": Way(
        "run lengths in train.csv (Kaggle)", _run_lengths, told=("a table of run lengths",), script=True
    ),
    "objects": Way("a mask for each object (Data Science Bowl)", _objects, told=("one for each object",), script=True),
    "two-masks": Way(
        "masks/ and labels/ of the same photographs",
        _both(_pairs("Images/{i}.jpg", "masks/{i}.png"), _pairs("Images/{i}.jpg", "labels/{i}.png")),
        told=(
            "options: {images: Images, masks: labels} (8 pairs)",
            "options: {images: Images, masks: masks} (8 pairs)",
        ),
        again={"images": "Images", "masks": "masks"},
    ),
    "unknown-names": Way(
        "two folders of unknown names",
        _pairs("left/{i}.png", "right/{i}.png"),
        told=("options: {images: left, masks: right}", "options: {images: right, masks: left}"),
        again={"images": "left", "masks": "right"},
    ),
    "one-known": Way("photos of any name beside masks/", _pairs("Leaves 2024/{i}.png", "masks/{i}.png"), 6, 2),
    "split-below": Way(
        "images/train and labels/train (Cityscapes)",
        _both(
            _pairs("images/train/{i}.png", "labels/train/{i}.png", range(5)),
            _pairs("images/val/{i}.png", "labels/val/{i}.png", range(5, 8)),
        ),
        5,
        3,
    ),
    "masks-below": Way("photographs above masks/", _pairs("{i}.jpg", "masks/{i}.png"), 6, 2),
    "deep": Way("images/kind/x.png, masks/kind/x.png", _pairs("images/k{i}/x.png", "masks/k{i}/x.png"), 6, 2),
}
"""Further ways, by name."""


def main() -> None:
    """Print a table of all ways."""
    from amsam_ray.data.understand import understand

    for name, way in {**WAYS, **MORE_WAYS}.items():
        with tempfile.TemporaryDirectory() as folder:
            way.build(Path(folder))
            try:
                found = understand(folder)
                options = ", ".join(f"{key}: {value}" for key, value in found.entry["options"].items())
                print(f"| {name} | {way.title} | {found.train} + {found.test}: {options} |")
            except InputError as error:
                print(f"| {name} | {way.title} | refused: {str(error).replace(folder, 'FOLDER')} |")


if __name__ == "__main__":
    main()
