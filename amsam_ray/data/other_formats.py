"""Recognise annotations that are not read, and say how to turn them into masks. Imports no slow package.

Files are recognised by words at their start and end; nothing is parsed, and nothing of them is run. The scripts are for
the user, who runs them or not; they need Pillow and NumPy, which this package installs.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from amsam_ray.data.folder_names import place
from amsam_ray.data.patterns import SUFFIXES, as_text
from amsam_ray.data.tree import LocalTree, Tree

_ENDS_BYTES = 1 << 16
_TRIED = 4  # files of each suffix that hold something
_LINES, _WORDS = 8, 100  # looked at in a text file
_RUN = "run the script that `amsam-ray data detect FOLDER > masks.py` saves, which writes the masks"
_VOLUMES = {
    ".nii": "NIfTI volumes",
    ".gz": "compressed volumes",
    ".dcm": "DICOM images",
    ".mha": "volumes",
    ".mat": "MATLAB arrays",
    ".npz": "archives of arrays",
}

_LABELME = """\
import json
from pathlib import Path
from PIL import Image, ImageDraw

for file in sorted(Path({root!r}).rglob("*.json")):
    data = json.loads(file.read_text(encoding="utf-8"))
    mask = Image.new("L", (data["imageWidth"], data["imageHeight"]))
    for shape in data["shapes"]:
        points = [tuple(point) for point in shape["points"]]
        if shape.get("shape_type", "polygon") == "polygon":
            ImageDraw.Draw(mask).polygon(points, fill=255)
        elif shape["shape_type"] == "rectangle":
            (x0, y0), (x1, y1) = points
            ImageDraw.Draw(mask).rectangle([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], fill=255)
        else:
            raise SystemExit(f"{{file}}: draw the {{shape['shape_type']}} as a polygon")
    mask.save(file.with_name(file.stem + "_mask.png"))
"""

_YOLO = """\
from pathlib import Path
from PIL import Image, ImageDraw

root = Path({root!r})
def key(path):
    return path.relative_to(root).with_suffix("").as_posix().replace("images", "labels")
photos = {{key(p): p for p in root.rglob("*") if p.suffix.lower() in {suffixes}}}
for file in sorted(root.rglob("*.txt")):
    if key(file) in photos:
        width, height = Image.open(photos[key(file)]).size
        mask = Image.new("L", (width, height))
        for line in file.read_text().splitlines():
            x = list(map(float, line.split()[1:]))
            points = [(u * width, v * height) for u, v in zip(x[::2], x[1::2])]
            ImageDraw.Draw(mask).polygon(points, fill=255)  # or fill=1 + int(line.split()[0]) for label maps
        mask.save(file.with_name(file.stem + "_mask.png"))
"""

_RLE = """\
import csv
from pathlib import Path
import numpy as np
from PIL import Image

root = Path({root!r})
csv.field_size_limit(10**9)
photos = {{p.stem: p for p in root.rglob("*") if p.suffix.lower() in {suffixes}}}
runs = {{}}
for row in csv.DictReader((root / {table!r}).open(newline="")):
    runs.setdefault(Path(row[{name!r}]).stem, []).append(row[{code!r}] or "")
(root / "masks").mkdir(exist_ok=True)
for stem in sorted(runs.keys() & photos.keys()):
    width, height = Image.open(photos[stem]).size
    flat = np.zeros(width * height, np.uint8)
    for numbers in (list(map(int, text.split())) for text in runs[stem]):
        for start, length in zip(numbers[::2], numbers[1::2]):
            flat[start - 1 : start - 1 + length] = 255  # Kaggle counts from 1, down the columns
    Image.fromarray(flat.reshape(width, height).T.copy()).save(root / "masks" / f"{{stem}}.png")
"""

_UNITE = """\
from pathlib import Path
import numpy as np
from PIL import Image

for folder in sorted(Path({root!r}).rglob({masks!r})):
    (photo,) = (folder.parent / {images!r}).iterdir()
    united = np.max([np.asarray(Image.open(file).convert("L")) for file in sorted(folder.iterdir())], axis=0)
    (folder.parent / "mask").mkdir(exist_ok=True)
    Image.fromarray(united).save(folder.parent / "mask" / (photo.stem + ".png"))
"""


@dataclass(frozen=True)
class OtherFormat:
    """Annotations that are not read as they are.

    Attributes:
        what: what they are, and the remedy.
        where: one of the files.
        options: that read them, if any do.
        script: a Python script that writes masks, if there is one.
    """

    what: str
    where: str
    options: Mapping[str, Any] = field(default_factory=dict)
    script: str = ""


def recognise(tree: Tree, files: Sequence[str]) -> OtherFormat | None:
    """Return the annotations among ``files``, None if none are known.

    Args:
        tree: the data root.
        files: paths below the root.
    """
    by_suffix: dict[str, list[str]] = defaultdict(list)
    for path in files:
        by_suffix[PurePosixPath(path).suffix.lower()].append(path)
    for suffix, read in ((".json", _json), (".xml", _xml), (".csv", _csv), (".txt", _txt)):
        tried = 0
        for path in by_suffix[suffix]:
            try:
                text = tree.read_ends(path, _ENDS_BYTES).decode("utf-8", "replace")
            except OSError:
                continue
            if not text.strip():
                continue  # a photograph without objects
            tried += 1
            if tried > _TRIED:
                break
            if found := read(text, path, tree, files):
                return found
    for suffix, kind in _VOLUMES.items():
        if by_suffix[suffix]:
            what = f"holds {kind}, which are not read; write each slice or array to images/NAME.png and masks/NAME.png"
            return OtherFormat(what, by_suffix[suffix][0])
    return None


def _json(text: str, path: str, tree: Tree, files: Sequence[str]) -> OtherFormat | None:
    def holds(*keys: str) -> bool:
        return all(f'"{key}"' in text for key in keys)

    if holds("images") and (holds("annotations") or holds("categories")):
        options = {"images": _photo_folder(path, files), "annotations": path}
        what = f"is a COCO file; write {as_text({**options, 'classes': 'all'})} for a class of every category"
        return OtherFormat(what, path, options)
    if holds("shapes", "points"):
        return OtherFormat(
            f"is a labelme file, which is not read; {_RUN}", path, script=_LABELME.format(root=_root(tree))
        )
    if holds("shape_attributes") or holds("_via_img_metadata"):
        return _export("a VIA project", "in VIA choose Annotation > Export Annotations (COCO format)", path)
    if holds("original_width") or holds("from_name"):
        return _export("a Label Studio export", "export again as COCO, or as Brush labels to PNG", path)
    if holds("objects") and (holds("bitmap") or holds("exterior")):
        return _export("a Supervisely annotation", "export again as COCO, or with Export as masks", path)
    return None


def _xml(text: str, path: str, tree: Tree, files: Sequence[str]) -> OtherFormat | None:
    if "<annotations" in text and re.search("<(image|track|polygon|mask|meta)[ >]", text):
        how = "in CVAT choose Export task dataset and the format Segmentation mask 1.1, with images, or COCO 1.0"
        return _export("a CVAT file", how, path)
    if "<annotation" in text and "<bndbox" in text:
        return _boxes("a Pascal VOC file of boxes", path)
    return None


def _csv(text: str, path: str, tree: Tree, files: Sequence[str]) -> OtherFormat | None:
    head = [name.strip('"\ufeff \r') for name in text.split("\n", 1)[0].split(",")]
    codes = [name for name in head if re.fullmatch("encoded_?pixels|rle|segmentation", name, re.IGNORECASE)]
    if not codes or head[0] in codes:
        return None
    what = f"is a table of run lengths, which is not read; {_RUN}"
    script = _RLE.format(root=_root(tree), table=path, name=head[0], code=codes[0], suffixes=sorted(SUFFIXES))
    return OtherFormat(what, path, script=script)


def _txt(text: str, path: str, tree: Tree, files: Sequence[str]) -> OtherFormat | None:
    lines = [line.split() for line in text.splitlines()[:_LINES] if line.strip()]
    if not lines or not all(_is_yolo(line) for line in lines):
        return None
    if all(len(line) in (5, 6) for line in lines):
        return _boxes("a YOLO file of boxes", path)
    what = f"is a YOLO file of polygons, which is not read; {_RUN}"
    return OtherFormat(what, path, script=_YOLO.format(root=_root(tree), suffixes=sorted(SUFFIXES)))


def _is_yolo(words: Sequence[str]) -> bool:
    """Return whether a line is a number of a class and at least four shares of width and height."""
    shares = [word for word in words[1:_WORDS] if re.fullmatch(r"[0-9.e-]{1,30}", word)]
    if not re.fullmatch("[0-9]{1,6}", words[0]) or len(words) < 5 or len(shares) < len(words[1:_WORDS]):
        return False
    try:
        return all(-0.1 <= float(share) <= 1.1 for share in shares)
    except ValueError:
        return False


def _root(tree: Tree) -> str:
    """Return the root for a script, which may be run from another folder."""
    return str(tree.root) if isinstance(tree, LocalTree) else tree.uri


def _export(kind: str, how: str, path: str) -> OtherFormat:
    return OtherFormat(f"is {kind}, which is not read; {how}", path)


def _boxes(kind: str, path: str) -> OtherFormat:
    return OtherFormat(f"is {kind}, which outline no object; draw a mask for each photograph, white on black", path)


def _photo_folder(path: str, files: Sequence[str]) -> str:
    """Return the folder of the photographs that a file of annotations is about: its own, or that with the most."""
    counts = Counter(str(PurePosixPath(p).parent) for p in files if PurePosixPath(p).suffix.lower() in SUFFIXES)
    own = str(PurePosixPath(path).parent)
    if own in counts or not counts:
        return own
    return min(counts, key=lambda folder: (-counts[folder], folder))


def one_file_per_object(pictures: Sequence[str], tree: Tree) -> OtherFormat | None:
    """Recognise a photograph and a folder of masks, one per object, in each of several folders.

    Args:
        pictures: paths of all images below the root.
        tree: the data root, for the script.
    """
    folders: dict[tuple[str, ...], dict[str | None, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in pictures:
        here = place(str(PurePosixPath(path).parent), strict=False)
        folders[here.rest][here.role].append(path)
    cases = [group for group in folders.values() if len(group["image"]) == 1 and group["mask"]]
    if not cases or max(len(group["mask"]) for group in cases) < 2:
        return None
    what = f"is one of several masks of a photograph, one for each object, which are not united; {_RUN}"
    images, masks = (PurePosixPath(cases[0][role][0]).parent.name for role in ("image", "mask"))
    return OtherFormat(what, min(cases[0]["mask"]), script=_UNITE.format(root=_root(tree), images=images, masks=masks))
