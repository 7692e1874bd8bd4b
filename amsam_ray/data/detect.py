"""Find the photographs and the masks of a folder by the names of its files, by the rules in `docs/data.md`.

No pixel is read. Exactly one reading is used; if several are possible, or none is, the result is a refusal that states
the options to write.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from amsam_ray.config.classes import class_name
from amsam_ray.data import other_formats
from amsam_ray.data.findings import Finding, note
from amsam_ray.data.folder_names import Form, forms, place
from amsam_ray.data.manual_folders import manual_readings
from amsam_ray.data.pairing import PatternPair, fold, is_image, walk
from amsam_ray.data.patterns import MASK_SUFFIXES, SUFFIXES, PathPattern, as_text, pattern_fault, quoted
from amsam_ray.data.schema import unsafe_path
from amsam_ray.data.tree import Tree
from amsam_ray.errors import counted

MAX_SEARCHED = 100_000
"""Most files and folders below a root that are looked at to find photographs and masks."""
_GIVEN = ("images", "masks", "test_images", "test_masks")
_MOST_GROUPS = 24  # kinds of names on either side; more are no naming scheme
_SHOWN = 6
_JPEG = (".jpg", ".jpeg")

Options = dict[str, Any]
_Key = tuple[str | None, tuple[str, ...], str]  # split, other folders, shared part of the stem


@dataclass(frozen=True)
class Refusal:
    """Why a folder cannot be read, and what to write instead.

    Attributes:
        code: of the finding, a key of `amsam_ray.data.findings.FAULTS`.
        what: for people; states the options of every possible reading, or another remedy.
        where: the file or option concerned; empty for the root.
        readings: the options of every possible reading.
        script: a Python script that converts the masks, if there is one.
    """

    code: str
    what: str
    where: str = ""
    readings: tuple[Options, ...] = ()
    script: str = ""


@dataclass(frozen=True)
class Folders:
    """Where the photographs and masks are.

    Attributes:
        options: ``images`` and ``masks``, and ``test_images`` and ``test_masks`` if the folders state the split.
        findings: what the reading leaves out.
    """

    options: Options
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class _Reading:
    """One way to pair files: how their names are written, and the mask of every photograph."""

    image_form: Form
    mask_form: Form
    pairs: Mapping[str, str]
    image_suffix: str = ""
    mask_suffix: str = ""


def find_folders(tree: Tree, options: Mapping[str, Any]) -> Folders | Refusal:
    """Return where the photographs and masks below a root are.

    Args:
        tree: the data root.
        options: of the dataset; those of ``images``, ``masks``, ``test_images`` and ``test_masks`` that are not None
            are kept.
    """
    given = {name: options[name] for name in _GIVEN if options.get(name) is not None}
    if refusal := _inconsistent(given, options):
        return refusal
    if "images" in given and "masks" in given:
        return Folders(given)
    if pattern := next((name for name, text in given.items() if PathPattern(text).holes), None):
        other = "masks" if pattern == "images" else "images"
        return Refusal("layout", f"is needed beside a pattern of {pattern}; give both", f"options.{other}")
    plain = {"images": "images", "masks": "masks", **given}
    if _names_agree(tree, plain["images"], plain["masks"]):
        return Folders(plain)
    findings: list[Finding] = []
    files = list(walk(tree, ".", findings, MAX_SEARCHED))
    if beyond := next((finding for finding in findings if finding.code == "too-many"), None):
        return Refusal("too-many", beyond.what)
    pictures = [path for path in files if PurePosixPath(path).suffix.lower() in MASK_SUFFIXES]
    readings = _readings(pictures, given)
    manual = [] if given else manual_readings(pictures)
    if manual and (readings or len(manual) > 1 or options.get("test") is not None):
        return _several_masks(readings, [(one.options, len(one.pairs)) for one in manual])
    if manual:
        return Folders(manual[0].options, [*findings, *_left_out(pictures, manual[0].options, manual[0].pairs)])
    missing = any(tree.kind(PathPattern.of(folder).folder) == "missing" for folder in given.values())
    if not readings and missing:
        return Folders(plain)  # the scan names the folders
    if not readings:
        return _nothing_found(tree, files, pictures, plain)
    chosen = [(reading, as_options(reading, options)) for reading in readings]
    usable = [(reading, found) for reading, found in chosen if found is not None]
    if len(readings) == len(usable) == 1:
        reading, found = usable[0]
        return Folders(found, [*findings, *_left_out(pictures, found, reading.pairs)])
    if not usable:
        what = "holds masks under several naming schemes; rename them alike, or give the options images and masks"
        return Refusal("ambiguous", what)
    return _several([found for _, found in usable], [len(reading.pairs) for reading, _ in usable])


def _several(readings: Sequence[Options], counts: Sequence[int]) -> Refusal:
    lines = [f"{as_text(one)} ({counted(n, 'pair')})" for one, n in zip(readings, counts, strict=True)][:_SHOWN]
    return Refusal(
        "ambiguous", f"can be read in several ways; write one of: {'; or '.join(lines)}", "", tuple(readings)
    )


def _several_masks(readings: Sequence[_Reading], manual: Sequence[tuple[Options, int]]) -> Refusal:
    """Refuse folders named ``manual`` beside others: these often hold the camera's field of view."""
    stated = ((as_options(reading, {}), len(reading.pairs)) for reading in readings)
    usable = [*manual, *((found, count) for found, count in stated if found is not None)]
    return _several([found for found, _ in usable], [count for _, count in usable])


def _inconsistent(given: Mapping[str, str], options: Mapping[str, Any]) -> Refusal | None:
    """Return what is wrong with the options by themselves."""
    if ("test_images" in given) != ("test_masks" in given):
        lacking = "test_masks" if "test_images" in given else "test_images"
        return Refusal("layout", "is needed beside the other one; give both", f"options.{lacking}")
    if "test_images" in given and not ("images" in given and "masks" in given):
        return Refusal("layout", "are needed beside test_images and test_masks; give them", "options.images and masks")
    if "test_images" in given and options.get("test") is not None:
        return Refusal("split", "contradicts test_images, which states the test split; remove one", "options.test")
    for images, masks in (("images", "masks"), ("test_images", "test_masks")):
        if images in given and masks in given:
            first, second = PathPattern.of(given[images]), PathPattern.of(given[masks])
            if first.holes != second.holes:
                what = f"must hold the same placeholders as options.{images}; {first.text} and {second.text} do not"
                return Refusal("layout", f"{what}: write {{path}} and {{stem}} in both", f"options.{masks}")
    return None


def _names_agree(tree: Tree, images: str, masks: str) -> bool:
    """Return whether two folders hold files of equal names: the plain layout, which goes before all others."""
    if images == masks or PathPattern.of(images).recursive or PathPattern.of(masks).recursive:
        return False
    kinds = tree.kind(PathPattern.of(images).folder), tree.kind(PathPattern.of(masks).folder)
    if "missing" in kinds or "file" in kinds:
        return False
    if set(kinds) != {"folder"}:
        return True  # a link that leads astray; the scan names it
    stems = [
        {fold(file.stem) for file in _files(tree, folder) if file.suffix.lower() in suffixes}
        for folder, suffixes in ((images, SUFFIXES), (masks, MASK_SUFFIXES))
    ]
    return bool(stems[0] & stems[1])


def _files(tree: Tree, folder: str) -> Iterator[PurePosixPath]:
    return (PurePosixPath(entry.name) for entry in tree.folder(folder) if entry.kind == "file")


def _readings(pictures: Sequence[str], given: Mapping[str, str]) -> list[_Reading]:
    """Return the possible readings by the first rule that gives one."""
    if given:
        return _distinct(_beside_given(pictures, given))
    for found in (
        _by_words(pictures, strict=True),
        _by_suffix(pictures),
        _by_words(pictures, strict=False),
        _beside_masks(pictures),
    ):
        if readings := _distinct(found):
            return readings
    return []


def _distinct(readings: Iterable[_Reading]) -> list[_Reading]:
    """Drop readings whose photographs another one reads too, with further ones, and equal readings."""
    ordered = sorted(readings, key=lambda r: (-len(r.pairs), r.image_form, r.mask_form, sorted(r.pairs.items())[:1]))
    kept: list[_Reading] = []
    for reading in ordered:
        images = reading.pairs.keys()
        if not any(images < other.pairs.keys() or reading.pairs == other.pairs for other in kept):
            kept.append(reading)
    return kept


def _by_words(pictures: Iterable[str], *, strict: bool) -> Iterator[_Reading]:
    """Pair by the words in the names of folders and files."""
    images: dict[tuple[str, Form], dict[_Key, str]] = defaultdict(dict)
    masks: dict[tuple[str, Form], dict[_Key, str]] = defaultdict(dict)
    class_maps = any(place(str(PurePosixPath(p).parent), strict).folder == "segmentation class" for p in pictures)
    for path in pictures:
        file = PurePosixPath(path)
        here, stem = place(str(file.parent), strict), file.stem
        if class_maps and here.folder == "segmentation object":
            continue  # VOC's instances of the same objects
        if here.role == "mask":
            masks[here.folder, Form()].setdefault((here.split, here.rest, fold(stem)), path)
        elif is_image(path):
            for form, core in ((Form(), stem), *forms(stem, "image")):
                if core or here.rest:
                    images[here.folder, form].setdefault((here.split, here.rest, fold(core)), path)
        for form, core in forms(stem, "mask"):
            if core or here.rest:
                masks[here.folder, form].setdefault((here.split, here.rest, fold(core)), path)
    for (_, image_form), by_image in _largest(images):
        for (_, mask_form), by_mask in _largest(masks):
            found = ((path, by_mask.get(key) or by_mask.get((None, *key[1:]))) for key, path in by_image.items())
            pairs = {image: mask for image, mask in found if mask is not None and mask != image}
            if pairs:
                yield _Reading(image_form, mask_form, pairs)


def _largest(groups: Mapping[tuple[str, Form], dict[_Key, str]]) -> list[tuple[tuple[str, Form], dict[_Key, str]]]:
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))[:_MOST_GROUPS]


def _by_suffix(pictures: Iterable[str]) -> Iterator[_Reading]:
    """Pair files of one folder and one stem: a JPEG photograph and a mask in another format, or any and an array."""
    suffixes: dict[tuple[str, str], list[PurePosixPath]] = defaultdict(list)
    for path in pictures:
        file = PurePosixPath(path)
        suffixes[str(file.parent), fold(file.stem)].append(file)
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for files in suffixes.values():
        for image in files:
            for mask in files:
                first, second = image.suffix.lower(), mask.suffix.lower()
                lossless = first in _JPEG and second not in _JPEG
                if first in SUFFIXES and second != first and (lossless or (second == ".npy" and first not in _JPEG)):
                    groups[first, second].setdefault(str(image), str(mask))
    for (first, second), pairs in sorted(groups.items()):
        yield _Reading(Form(), Form(), pairs, first, second)


def _beside_masks(pictures: Iterable[str]) -> Iterator[_Reading]:
    """Pair a folder that is named as one of masks with a folder beside it of any name."""
    by_folder = _by_folder(pictures)
    for masks in by_folder:
        if place(masks, strict=False).role != "mask":
            continue
        for images in by_folder:
            beside = PurePosixPath(images).parent == PurePosixPath(masks).parent and images != masks
            if beside and place(images, strict=False).role is None:
                yield from _folder_pair(by_folder[images], by_folder[masks])


def _beside_given(pictures: Iterable[str], given: Mapping[str, str]) -> Iterator[_Reading]:
    """Pair the one folder that an option states with any other."""
    by_folder = _by_folder(pictures)
    for images in by_folder:
        for masks in by_folder:
            fits = given.get("images", images) == images and given.get("masks", masks) == masks and images != masks
            other = masks if "images" in given else images
            if fits and place(other, strict=False).role != ("image" if other == masks else "mask"):
                yield from _folder_pair(by_folder[images], by_folder[masks])


def _by_folder(pictures: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for path in pictures:
        groups[str(PurePosixPath(path).parent)].append(path)
    return dict(list(groups.items())[: _MOST_GROUPS**2])


def _folder_pair(images: Iterable[str], masks: Iterable[str]) -> Iterator[_Reading]:
    """Pair two folders by equal stems, or by a word in the stems of the masks."""
    by_stem = {fold(PurePosixPath(path).stem): path for path in images if is_image(path)}
    found: dict[Form, dict[str, str]] = defaultdict(dict)
    for path in masks:
        stem = PurePosixPath(path).stem
        for form, core in ((Form(), stem), *forms(stem, "mask")):
            if core and (image := by_stem.get(fold(core))):
                found[form].setdefault(image, path)
    for form, pairs in sorted(found.items())[:_MOST_GROUPS]:
        yield _Reading(Form(), form, pairs)


def as_options(reading: _Reading, options: Mapping[str, Any]) -> Options | None:
    """Return the options that state a reading, None if patterns cannot.

    Folders named train and test, or train and val, are the published split; then ``val`` is used only without ``test``.
    Any other set of such folders is one pool.
    """
    by_split: dict[str | None, dict[str, str]] = defaultdict(dict)
    for image, mask in reading.pairs.items():
        by_split[place(str(PurePosixPath(image).parent), strict=False).split][image] = mask
    test = "test" if "test" in by_split else "val"
    if None not in by_split and {"train", test} <= by_split.keys() and options.get("test") is None:
        train, held_out = _patterns(reading, by_split["train"]), _patterns(reading, by_split[test])
        if train is None or held_out is None:
            return None
        return {**train, **{f"test_{name}": text for name, text in held_out.items()}}
    return _patterns(reading, reading.pairs)


def _patterns(reading: _Reading, pairs: Mapping[str, str]) -> Options | None:
    """Return the patterns of the photographs and masks of some pairs, None if there are none."""
    plain = reading.image_form.plain and reading.mask_form.plain and not reading.image_suffix
    images = _pattern(pairs.keys(), reading.image_form, reading.image_suffix, plain)
    masks = _pattern(pairs.values(), reading.mask_form, reading.mask_suffix, plain)
    if any(unsafe_path(text) or pattern_fault(text) for text in (images, masks)):
        return None
    first, second = PathPattern.of(images), PathPattern.of(masks)
    if first.holes != second.holes or not first.holes:
        return None
    for image, mask in pairs.items():
        key = first.key(image)
        if key is None or fold(second.fill(key)) != fold(str(PurePosixPath(mask).with_suffix(""))):
            return None
    return {"images": images, "masks": masks}


def _pattern(paths: Iterable[str], form: Form, suffix: str, plain: bool) -> str:
    """Return the pattern of some paths: the folders that all share at the start and at the end, then the name."""
    paths = list(paths)
    folders = [PurePosixPath(path).parent.parts for path in paths]
    shortest = min(len(parts) for parts in folders)
    lead = next((n for n in range(shortest) if len({parts[n] for parts in folders}) > 1), shortest)
    trail = 0
    while trail < shortest - lead and len({parts[-1 - trail] for parts in folders}) == 1:
        trail += 1
    first = folders[0]
    middle = [] if all(len(parts) == lead for parts in folders) else ["{path}"]
    whole = all(PurePosixPath(path).stem == form.start for path in paths) and form.start
    name = form.start if whole else f"{form.start}{{stem}}{form.end}"
    around = [*first[:lead], *middle, *(first[len(first) - trail :] if middle else ())]
    if plain and not middle:
        return "/".join(around) or "."
    return "/".join([*around, name]) + suffix


def _left_out(pictures: Iterable[str], options: Options, paired: Mapping[str, str]) -> list[Finding]:
    """Report the images that a reading does not use, by folder."""
    pairs = [PatternPair(PathPattern.of(options["images"]), PathPattern.of(options["masks"]))]
    if "test_images" in options:
        pairs.append(PatternPair(PathPattern.of(options["test_images"]), PathPattern.of(options["test_masks"])))
    patterns = [pattern for pair in pairs for pattern in (pair.images, pair.masks)]
    unused = [path for path in pictures if all(pattern.key(path) is None for pattern in patterns)]
    labelled = Counter(str(PurePosixPath(path).parent) for path in unused if path in paired)
    found = []
    for folder, count in sorted(Counter(str(PurePosixPath(path).parent) for path in unused).items()):
        why = "with masks; move them to the train or test folder to use them" if labelled[folder] else "by this reading"
        found.append(note("not-used", folder, f"{counted(count, 'image')} not used {why}"))
    return found


def _nothing_found(
    tree: Tree, files: Sequence[str], pictures: Sequence[str], plain: Mapping[str, str]
) -> Folders | Refusal:
    """Say why no photograph has a mask: another format, masks in a folder for each class, or unknown names."""
    if other := other_formats.recognise(tree, files):
        return Refusal(
            "annotations", other.what, other.where, (dict(other.options),) if other.options else (), other.script
        )
    if classes := _by_class(pictures):
        return classes
    if unknown := _unknown_folders(pictures):
        return unknown
    if single := other_formats.one_file_per_object(pictures, tree):
        return Refusal("annotations", single.what, single.where, (), single.script)
    kinds = [tree.kind(PathPattern.of(plain[name]).folder) for name in ("images", "masks")]
    if kinds[0] == "folder" and kinds[1] != "missing":
        return Folders(dict(plain))  # the scan says what is wrong with each file
    suffixes = Counter(PurePosixPath(path).suffix.lower() or "no suffix" for path in files)
    held = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(_SHOWN)) or "no file"
    what = (
        f"holds no photographs with masks of fitting names (found {held}); put photographs into images/ and masks "
        'of the same names into masks/, or write options: {images: FOLDER, masks: "FOLDER/{stem}_mask"}'
    )
    return Refusal("layout", what)


def _by_class(pictures: Sequence[str]) -> Folders | Refusal | None:
    """Recognise masks in a folder for each class: ``masks/polyp/a.png``. A single folder is no class."""
    images: dict[_Key, str] = {}
    for path in pictures:
        here = place(str(PurePosixPath(path).parent), strict=False)
        if here.role != "mask" and is_image(path):
            images.setdefault((here.split, here.rest, fold(PurePosixPath(path).stem)), path)
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path in pictures:
        here = place(str(PurePosixPath(path).parent), strict=False)
        if here.role == "mask" and here.rest:
            image = images.get((here.split, here.rest[:-1], fold(PurePosixPath(path).stem)))
            if image is not None:
                found[here.rest[-1]][image] = path
    single = {name: _patterns(_Reading(Form(), Form(), pairs), pairs) for name, pairs in sorted(found.items())}
    readings = [options for options in single.values() if options is not None]
    if not readings:
        return None
    if len(single) == 1:
        return Folders(readings[0])
    both = {"images": readings[0]["images"], "masks": str(PurePosixPath(readings[0]["masks"]).parent)}
    classes = ", ".join(f"{class_name(name)}: {quoted(name)}" for name in single)
    lines = [as_text(one) for one in readings[:_SHOWN]]
    what = (
        f"holds masks in a folder for each of {len(single)} classes; for all of "
        f"them write {as_text(both)[:-1]}, classes: {{{classes}}}}}; for one of them: {'; or '.join(lines)}"
    )
    return Refusal("ambiguous", what, "", tuple(readings))


def _unknown_folders(pictures: Sequence[str]) -> Refusal | None:
    """Recognise two folders of equal names, neither of which is named as that of the masks."""
    stems = {folder: {fold(PurePosixPath(p).stem) for p in paths} for folder, paths in _by_folder(pictures).items()}
    readings: list[Options] = []
    counts = []
    for images in stems:
        for masks in stems:
            beside = images != masks and PurePosixPath(images).parent == PurePosixPath(masks).parent
            splits = {place(folder, strict=False).split for folder in (images, masks)}
            named = place(masks, strict=False).role == "image"
            shared = len(stems[images] & stems[masks])
            if beside and shared and splits == {None} and not named:
                readings.append({"images": images, "masks": masks})
                counts.append(shared)
    return _several(readings, counts) if readings else None
