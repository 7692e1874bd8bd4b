"""``amsam-ray data detect``: say how a folder would be read, with a sample of its masks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from amsam_ray.data.contact_sheet import spread
from amsam_ray.data.definition import check_options, get_definition, open_tree
from amsam_ray.data.detect import Refusal, find_folders
from amsam_ray.data.images import (
    BETWEEN_TOLERANCE,
    VOID,
    ImageError,
    Mask,
    MaskValuesError,
    decode_mask,
    read_file,
    read_frame,
)
from amsam_ray.data.layout import scan
from amsam_ray.data.mask_values import listed
from amsam_ray.data.pairing import Pair
from amsam_ray.data.patterns import as_text
from amsam_ray.data.schema import MaskRule
from amsam_ray.data.tree import LocalTree
from amsam_ray.errors import InputError, Problem, counted, printable

_SAMPLE = 400
_SHOWN = 20


class Unreadable(InputError):
    """A folder that cannot be read as it is.

    Args:
        problems: as `InputError`.
        script: a Python script that converts the masks; empty if there is none.
    """

    def __init__(self, problems: Iterable[Problem] | Problem, script: str = ""):
        super().__init__(problems)
        self.script = script


@dataclass(frozen=True)
class Understanding:
    """How a folder would be read.

    Attributes:
        entry: of a space file's ``datasets``.
        train, test: number of labelled images in each split.
        notes: what was understood and what is left out, for people.
    """

    entry: dict[str, Any]
    train: int
    test: int
    notes: list[str] = field(default_factory=list)

    def to_yaml(self) -> str:
        """Return the section ``datasets`` of a space file, the notes as comments above it."""
        lines = (printable(note).replace("\n", "\\n") for note in self.notes)  # names of files may hold line ends
        comments = "".join(f"# {line}\n" for line in lines)
        return comments + yaml.safe_dump({"datasets": [self.entry]}, sort_keys=False, allow_unicode=True, width=1000)


def understand(root: str) -> Understanding:
    """Return how the dataset ``folder`` reads a folder on this machine. Decodes up to 400 masks.

    Raises:
        Unreadable: it cannot be read, with the lines to write or the conversion that it needs.
    """
    tree = open_tree(root)
    if not isinstance(tree, LocalTree):
        what = "is in a bucket; state images and masks and run `amsam-ray data check folder --root URI`"
        raise Unreadable(Problem(root, what))
    definition = get_definition("folder")
    options, _ = check_options(definition, {})
    found = find_folders(tree, options)
    if isinstance(found, Refusal):
        raise Unreadable(Problem(found.where or root, found.what), found.script)
    options = {**options, **found.options}
    seen = scan(tree, definition, options)
    faults = [finding for finding in seen.findings if finding.severity == "fault"]
    if not (seen.train and seen.test):
        raise Unreadable([Problem(fault.where, fault.what) for fault in faults[:_SHOWN]])
    stated: dict[str, Any] = dict(found.options)
    if "test_images" not in stated:
        stated["test"] = definition.split.test
    entry = {"name": "folder", "root": os.path.abspath(Path(root).expanduser()), "options": stated}
    pairs = [*seen.train.values(), *seen.test.values()]
    notes = [f"{counted(len(pairs), 'photograph')} with masks: {len(seen.train)} to train on, {len(seen.test)} to test"]
    notes.append(f"for example {pairs[0].image} with {pairs[0].mask}")
    notes += _masks_notes(tree.root, pairs, definition.mask_rule(options), found.options)
    notes += [f"{one.where}: {one.what}" for one in found.findings[:_SHOWN]]
    if faults:
        notes.append(f"{counted(len(faults), 'fault')}; list them with `amsam-ray data check folder --root {root}`")
    return Understanding(entry, len(seen.train), len(seen.test), notes)


def _masks_notes(root: Path, pairs: list[Pair], rule: MaskRule, options: Mapping[str, Any]) -> list[str]:
    """Return what the masks hold.

    Raises:
        Unreadable: they are label maps, or none holds an object.
    """
    sample = {pair.mask: pair for pair in pairs}
    read: list[Mask] = []
    refused: list[MaskValuesError] = []
    damaged: list[ImageError] = []
    for name in spread(sorted(sample), _SAMPLE):
        pair = sample[name]
        try:
            frame = read_frame(read_file(root / pair.image, pair.image), pair.image)
            read.append(decode_mask(read_file(root / pair.mask, pair.mask), pair.mask, rule, frame))
        except MaskValuesError as error:
            refused.append(error)
        except ImageError as error:
            damaged.append(error)  # a fault of one file, which `data check` names
    if refused:
        raise Unreadable(_label_maps(refused, read, options))
    if damaged and not read:
        raise Unreadable([Problem(error.where, error.what) for error in damaged[:_SHOWN]])
    if read and not any(mask.pixels.any() for mask in read):
        what = f"none of {counted(len(read), 'mask')} holds an object; give the folder of the masks as the option masks"
        raise Unreadable(Problem(str(options["masks"]), what))
    if read and all(mask.pixels.all() for mask in read):
        what = (
            f"all of {counted(len(read), 'mask')} cover their whole image: no pixel is 0; save masks whose background "
        )
        what += "is black (0), or give the folder of the masks as the option masks"
        raise Unreadable(Problem(str(options["masks"]), what))
    soft = [mask for mask in read if mask.between > BETWEEN_TOLERANCE]
    if 2 * len(soft) > len(read):
        what = (
            f"{len(soft)} of {counted(len(read), 'mask')} are neither black nor white in many pixels, as photographs "
        )
        what += "are; give the folder of the masks, or, if every value but 0 is the object, write "
        what += f"{as_text({**options, 'object': 'nonzero'})}; save masks with soft borders as 0 and 255"
        if any(mask.areas for mask in soft):
            what += f"; for a class of each value write {as_text({**options, 'classes': 'all'})}"
        raise Unreadable(Problem(str(options["masks"]), what))
    values = sorted({value for mask in read for value in mask.values})
    shares = [float(mask.pixels.mean()) for mask in read] or [0.0]
    notes = [f"masks: object share {min(shares):.1%} to {max(shares):.1%}{', values ' * bool(values)}{listed(values)}"]
    each = {**options, "classes": "all"}
    if any(mask.void for mask in read):
        one = f"{as_text(each)[:-1]}, ignore: [{VOID}]}}"
        notes.append(
            f"masks: {VOID}, in VOC's maps the border of no class, is object; to count it as background, with "
        )
        notes[-1] += f"a class of each other value, write {one}"
    elif any(mask.colours > 1 and "rgb" in mask.conversions for mask in read):
        notes.append("masks: every colour but black is object; for a class of each colour, save the masks as grey PNG ")
        notes[-1] += f"files of 1, 2, ... for the colours and 0 for the background, and write {as_text(each)}"
    elif any(mask.colours > 1 for mask in read):
        notes.append(f"masks: every colour but black is object; for a class of each value write {as_text(each)}")
    if areas := sorted({value for mask in read for value in mask.areas}):
        notes.append(f"masks: the values {listed(areas)} fill areas, and all are object; for a class of each write ")
        notes[-1] += f"{as_text(each)}; if 0 is not the background, save maps in which it is"
    if damaged:
        notes.append(f"{len(damaged)} of {counted(len(read) + len(damaged), 'pair')} cannot be read")
    return notes


def _label_maps(refused: list[MaskValuesError], read: list[Mask], options: Mapping[str, Any]) -> Problem:
    held = [*(error.values for error in refused), *(mask.values for mask in read)]  # maps of 0 and 1 pass by themselves
    values = sorted({value for some in held for value in some})
    total = counted(len(refused) + len(read), "mask")
    first = f"{len(refused)} of {total} {'is' if len(refused) == 1 else 'are'} not of one object"
    reason = refused[0].what.partition(": ")[2].partition(";")[0]
    classes = [value for value in values if 0 < value != VOID]
    what = f"{first}: {reason}. "
    if 0 in values or not classes:
        what += f"If every value but 0 is the object, write {as_text({**options, 'object': 'nonzero'})}"
    else:  # as in trimaps
        ignored = listed([value for value in values if value != classes[0]])
        only = f"classes: {{class_{classes[0]}: {classes[0]}}}, ignore: [{ignored}]"
        what += "No pixel is 0. If one value is the object, write it as the only class and ignore the others: "
        what += f"{as_text(options)[:-1]}, {only}}}"
    if classes:
        names = ", ".join(f"class_{value}: {value}" for value in classes)
        ignore = f", ignore: [{VOID}]" if VOID in values else ""
        line = f"{as_text(options)[:-1]}, classes: {{{names}}}{ignore}}}"
        what += f"; for a class of each value, with names of your choice, write {line}"
    else:
        what += "; for a class of each colour, save label maps of the values 0, 1, 2"
    return Problem(refused[0].where, what)
