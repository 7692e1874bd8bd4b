"""Find the images of a dataset with classes, and where their classes are: label maps, folders or a COCO file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from amsam_ray.config.classes import ALL, MAX_CLASSES, class_name
from amsam_ray.data.class_masks import ClassFolders, ClassMasks, CocoMasks, LabelMaps
from amsam_ray.data.coco import CocoFile, CocoImage, load_coco
from amsam_ray.data.findings import Finding, fault, note
from amsam_ray.data.images import VOID, ImageError
from amsam_ray.data.layout import Scan, choose_layout, divide_pool, no_layout, scan, take_published_split
from amsam_ray.data.pairing import Pair, PatternPair, pair_files, report_unclaimed_masks
from amsam_ray.data.patterns import SUFFIXES, PathPattern
from amsam_ray.data.schema import DatasetDefinition, unsafe_path
from amsam_ray.data.tree import LocalTree
from amsam_ray.errors import InputError

FATAL = frozenset({"layout", "classes", "annotations", "unknown-test", "test-list", "split"})
"""Codes of the faults that prevent the use of a dataset with classes; without other files the rest can be used."""
_THREADS = 8  # decoding releases the GIL


@dataclass(frozen=True)
class ClassScan:
    """The images of a dataset with classes.

    Attributes:
        scan: images by split and what was found; ``Pair.mask`` names the file that the masks come from.
        masks: where the classes are.
        classes: name of each class -> value, folder or category, with ``classes: all`` resolved; one class ``object``
            for a COCO file of one category without ``classes``.
    """

    scan: Scan
    masks: ClassMasks
    classes: Mapping[str, int | str]

    def names(self, split: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
        """Return the images of a split that hold any of the classes ``wanted``, sorted.

        Raises:
            ImageError: the masks of an image are unreadable: which images hold a class is then unknown.
        """
        classes, ordered = frozenset(wanted), sorted(split)
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(self.masks.present, ordered)
            return tuple(name for name, present in zip(ordered, found, strict=True) if present & classes)


def scan_classes(tree: LocalTree, definition: DatasetDefinition, options: Mapping[str, Any]) -> ClassScan:
    """Pair and split the images of a dataset with classes.

    Args:
        tree: the data root.
        definition: what to look for.
        options: validated, with defaults filled in; `amsam_ray.config.classes.has_classes` is true of them.
    """
    if options.get("annotations") is not None:
        return _scan_coco(tree, definition, options)
    classes = options["classes"]
    if classes == ALL and (folders := _class_folders(tree, definition, options)):
        result = Scan()
        classes = _named(folders, "folder", result)
        return _scan_folders(tree, definition, options, classes, result)
    if classes != ALL and all(isinstance(value, str) for value in classes.values()):
        return _scan_folders(tree, definition, options, classes, Scan())
    return _scan_label_maps(tree, definition, options)


def _scan_label_maps(tree: LocalTree, definition: DatasetDefinition, options: Mapping[str, Any]) -> ClassScan:
    found, classes, ignore = scan(tree, definition, options), options["classes"], options.get("ignore") or ()
    files = {name: pair.mask for name, pair in {**found.train, **found.test}.items()}
    if classes == ALL:
        maps = LabelMaps(tree.root, definition.mask, files, {}, ignore)
        values: set[int] = set()
        for name in files:
            try:
                values |= maps.values(name)
            except ImageError as error:
                found.findings.append(fault("mask-unreadable", error.where, error.what))
        if len(values) > MAX_CLASSES:
            what = f"hold {len(values):,} values, more than {MAX_CLASSES} classes; name the classes: {{NAME: VALUE}}"
            found.findings.append(fault("classes", "options.classes", f"the label maps {what}"))
            values = set()
        if VOID in values and len(values) > 1:
            what = f"includes class_{VOID}; if it is the border of no class, as in VOC's maps, add ignore: [{VOID}]"
            found.findings.append(note("mask-void", "options.classes", what))
        classes = {f"class_{value}": value for value in sorted(values)}
    return ClassScan(found, LabelMaps(tree.root, definition.mask, files, classes, ignore), classes)


def _class_folders(tree: LocalTree, definition: DatasetDefinition, options: Mapping[str, Any]) -> list[str]:
    """Return the folders of classes in the folder of masks: those with images, if no image is beside them."""
    folders = choose_layout(tree, definition, _stated(definition, options)) or {}
    names: dict[str, None] = {}
    for pair in folders.values():
        entries = tree.folder(pair.masks.folder)
        if any(entry.kind == "file" and _is_image(entry.name) for entry in entries):
            return []
        names |= dict.fromkeys(entry.name for entry in entries if entry.kind == "folder")
    return [
        name
        for name in names
        if any(
            _is_image(entry.name) for pair in folders.values() for entry in tree.folder(f"{pair.masks.folder}/{name}")
        )
    ]


def _stated(definition: DatasetDefinition, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the plain folders where none is stated: folders of classes are not searched for."""
    plain = {"images": "images", "masks": "masks"} if definition.detect else {}
    return {**options, **{name: folder for name, folder in plain.items() if options.get(name) is None}}


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _named(given: Iterable[str], kind: str, result: Scan) -> dict[str, str]:
    """Return a name of a class for each folder or category; two that would share one are a fault."""
    classes: dict[str, str] = {}
    for text in given:
        other = classes.setdefault(class_name(text), text)
        if other != text:
            what = f"the {kind} names {other!r} and {text!r} would both be class {class_name(text)}"
            what += "; name the classes: {NAME: " + kind.upper() + "}"
            result.findings.append(fault("classes", "options.classes", what))
    return classes


def _scan_folders(
    tree: LocalTree,
    definition: DatasetDefinition,
    options: Mapping[str, Any],
    classes: Mapping[str, str],
    result: Scan,
) -> ClassScan:
    """Pair every photograph with its masks in the folders of the classes; a mask in one of them is enough."""
    folders = choose_layout(tree, definition, _stated(definition, options))
    if folders is None:
        result.findings.append(no_layout(tree, definition, options))
        return ClassScan(result, ClassFolders(tree.root, definition.mask_rule(options), {}), classes)
    files: dict[str, dict[str, str]] = defaultdict(dict)  # path of the photograph -> class -> path of the mask
    found = {
        split: _pair_classes(tree, definition, pair, classes, files, result.findings) for split, pair in folders.items()
    }
    if "pool" in found:
        divide_pool(tree, definition, options, found["pool"], result)
    else:
        take_published_split(found, result)
    masks = {name: files[pair.image] for name, pair in {**result.train, **result.test}.items()}
    return ClassScan(result, ClassFolders(tree.root, definition.mask_rule(options), masks), classes)


def _pair_classes(
    tree: LocalTree,
    definition: DatasetDefinition,
    folders: PatternPair,
    classes: Mapping[str, str],
    files: dict[str, dict[str, str]],
    findings: list[Finding],
) -> dict[str, Pair]:
    """Return the photographs of one split that have a mask of any class, and add their masks to ``files``."""
    pairs: dict[str, Pair] = {}
    seen: list[Finding] = []
    for one, folder in classes.items():
        path = f"{folders.masks.folder}/{folder}"
        if (unsafe := unsafe_path(folder)) or tree.kind(path) != "folder":
            what = unsafe or f"names the folder {path}, which does not exist; correct the name or remove the class"
            findings.append(fault("classes", f"options.classes.{one}", what))
            continue
        of_class = PatternPair(folders.images, PathPattern.of(path, definition.mask.name))
        claimed, photographs = set[str](), set[str]()
        for name, pair in pair_files(tree, of_class, definition.images, claimed, photographs, seen).items():
            files[pair.image][one] = pair.mask
            pairs.setdefault(name, pair)
        report_unclaimed_masks(tree, of_class.masks, definition.images, claimed, photographs, seen)
    paired = {pair.image for pair in pairs.values()}
    unmasked = {finding.where for finding in seen if finding.code == "no-mask"} - paired
    text = f"left out: no mask in any class folder of {folders.masks.folder}; add one or remove the photograph"
    findings += dict.fromkeys(finding for finding in seen if finding.code != "no-mask")
    findings += [fault("no-mask", image, text) for image in sorted(unmasked)]
    return pairs


def _scan_coco(tree: LocalTree, definition: DatasetDefinition, options: Mapping[str, Any]) -> ClassScan:
    result, where = Scan(), str(options["annotations"])
    if (kind := tree.kind(where)) != "file":
        reasons = {"missing": "does not exist", "folder": "is a folder", "outside": "leaves the data root"}
        text = f"{where} {reasons.get(kind, 'is a broken link')}; give the path of a COCO file below the root"
        result.findings.append(fault("annotations", "options.annotations", text))
        return ClassScan(result, CocoMasks(where, {}, {}), {})
    try:
        found = _load(tree.root / where, where, (tree.root / where).stat().st_mtime_ns)
    except InputError as error:
        result.findings += [fault("annotations", problem.where, problem.what) for problem in error.problems]
        return ClassScan(result, CocoMasks(where, {}, {}), {})
    classes = _coco_classes(found, options.get("classes"), where, result)
    ids = {name: number for number, name in found.categories.items()}
    categories = {one: ids[value] if isinstance(value, str) else value for one, value in classes.items()}
    images: dict[str, CocoImage] = {}
    pool: dict[str, Pair] = {}
    folder = str(options.get("images") or "")
    for image in found.images:
        name, path = PurePosixPath(image.file_name).stem, _photograph(tree, image.file_name, folder)
        if path is None:
            what = f"{where} names it, and it is not below the root; add it or remove it from the file"
            result.findings.append(fault("no-image", image.file_name, what))
        elif name in images:
            what = f"has the name {name}, as {images[name].file_name} has; rename one, in {where} too"
            result.findings.append(fault("same-name", image.file_name, what))
        else:
            images[name], pool[name] = image, Pair(name, path, where)
    divide_pool(tree, definition, options, pool, result)
    return ClassScan(result, CocoMasks(where, images, categories), classes)


@lru_cache(maxsize=4)
def _load(path: Path, where: str, changed: int) -> CocoFile:
    return load_coco(path, where)


def _photograph(tree: LocalTree, file_name: str, folder: str) -> str | None:
    """Return the path of an annotated photograph: in the folder of photographs, or else below the root itself."""
    candidates = (f"{folder or 'images'}/{file_name}", file_name)
    return next((path for path in candidates if tree.kind(path) == "file" and _is_image(path)), None)


def _coco_classes(found: CocoFile, given: Any, where: str, result: Scan) -> dict[str, int | str]:
    """Return the classes of a COCO file that ``given`` names, each with the id or the name of its category."""
    used = {category for image in found.images for category, _ in image.annotations}
    held = {number: name for number, name in found.categories.items() if number in used}
    shown = ", ".join(f"{name!r} ({number})" for number, name in list(held.items())[:MAX_CLASSES])
    if given == ALL:
        return dict(_named(held.values(), "category", result))
    if given is None and len(held) != 1:
        named = ", ".join(f"{class_name(name)}: {name!r}" for name in list(held.values())[:MAX_CLASSES])
        what = f"{where} holds {len(held)} categories with annotations; write classes: all, or classes: {{{named}}}"
        result.findings.append(fault("classes", "options.classes", what))
        return {}
    if given is None:
        return {"object": next(iter(held))}
    ids = {name: number for number, name in found.categories.items()}
    classes: dict[str, int | str] = {}
    owner: dict[int, str] = {}
    for one, value in given.items():
        number = ids.get(value) if isinstance(value, str) else value if value in found.categories else None
        if number is None:
            what = f"{value!r} is not a category of {where}; choose from {shown}"
            result.findings.append(fault("classes", f"options.classes.{one}", what))
        elif number in owner:
            what = f"is category {number}, as {owner[number]} is; give each class its own"
            result.findings.append(fault("classes", f"options.classes.{one}", what))
        else:
            classes[one], owner[number] = value, one
    return classes
