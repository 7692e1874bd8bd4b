"""Findings about a dataset. Programs act on their ``code`` and ``severity``; the text is for people only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["fault", "converted", "note"]

FAULTS = {
    "layout": "the root holds none of the folder layouts of the definition",
    "empty": "a folder of photographs or masks holds no image",
    "ambiguous": "the folder can be read in several ways",
    "annotations": "the annotations are in a format that is not read, or cannot be read",
    "too-many": "a search through sub-folders ends at its limits",
    "no-mask": "a photograph has no mask",
    "no-image": "a mask has no photograph",
    "same-name": "several photographs share one name",
    "many-masks": "several masks fit one photograph",
    "link-loop": "a link leads to itself or to a folder above it",
    "link-outside": "a link leaves the data root",
    "link-broken": "the target of a link does not exist",
    "test-list": "the list of test images cannot be read",
    "unknown-test": "the list of test images names an image that the dataset does not hold",
    "split": "the split rule leaves no image to train on, or none to test on",
    "count": "the number of usable images differs from the published one",
    "unreadable": "a photograph cannot be decoded",
    "mask-unreadable": "a mask cannot be decoded",
    "mask-shape": "a mask has another aspect ratio than its photograph",
    "mask-values": "a mask is mostly neither black nor white, or is a label map",
    "masks-empty": "no mask holds an object",
    "masks-full": "every mask covers its whole image",
    "classes": "a class is in none of the masks, or cannot be told from another",
    "label-value": "a label map holds a value that belongs to no class",
    "leak": "the same picture is in the train and the test split",
}
"""Code -> meaning of the findings that the user has to correct."""

NOTES = {
    "sub-folder": "a folder inside an image folder is ignored",
    "not-an-image": "a file with another suffix than those of images is ignored",
    "image-name": "a file beside the photographs does not follow their naming pattern and is ignored",
    "not-used": "a folder of images, or a split, is not used",
    "mask-colours": "a mask holds several colours, all of which are object",
    "mask-areas": "a mask holds areas of several values, all of which are object",
    "mask-void": "a mask in colour holds 255, in VOC's maps the border of no class, and it is object",
    "mask-name": "a file in the mask folder does not follow the naming pattern and is ignored",
    "mask-empty": "a mask holds no object",
    "mask-full": "a mask covers the whole image",
    "duplicate": "the same picture is in one split twice",
    "class-overlap": "pixels of a COCO file belong to several classes",
}
"""Code -> meaning of the findings that may be intended."""

CONVERSIONS = {
    "case": "a mask's name differs from its photograph's in case or Unicode form only",
    "exif": "turned upright by its EXIF orientation",
    "grey": "grey photograph, copied to three channels",
    "palette": "palette photograph, converted to RGB",
    "alpha": "photograph with an alpha channel, composited over white",
    "16-bit": "photograph of more than 8 bits, scaled to 8",
    "mask-rgb": "mask in colour: its largest channel counts",
    "mask-palette": "palette mask: grey by value; in colour, every colour but black is object",
    "mask-alpha": "mask with an alpha channel",
    "mask-16-bit": "mask of more than 8 bits: full scale is 255 or 65535, the smallest that holds its values",
    "mask-labels": "mask of values 0 and 1: 1 is object",
    "mask-array": "mask stored as a NumPy array (.npy)",
    "mask-lossy": "mask in a lossy format: compression noise is removed by the threshold",
    "mask-exif": "mask turned upright like its photograph",
    "mask-resized": "mask of another size than its photograph, resized (nearest neighbour)",
}
"""Code -> meaning of the documented reading rules. A photograph in another colour mode has the mode as its code."""


@dataclass(frozen=True)
class Finding:
    """One fact about a dataset that its user should know.

    Attributes:
        code: stable name of what was found, a key of `FAULTS`, `NOTES` or `CONVERSIONS`, or a colour mode.
        severity: ``fault`` (to be corrected), ``converted`` (read by a documented rule) or ``note``.
        where: file or folder below the root, or the option concerned.
        what: description for people and, for a fault, the remedy.
    """

    code: str
    severity: Severity
    where: str
    what: str


def fault(code: str, where: str, what: str) -> Finding:
    """Return a finding that the user has to correct; ``code`` is a key of `FAULTS`."""
    assert code in FAULTS, code
    return Finding(code, "fault", where, what)


def note(code: str, where: str, what: str) -> Finding:
    """Return a finding that may be intended; ``code`` is a key of `NOTES`."""
    assert code in NOTES, code
    return Finding(code, "note", where, what)


def converted(code: str, where: str, what: str | None = None) -> Finding:
    """Return a finding about a file that a documented rule converted; the text is by default that of the rule."""
    return Finding(
        code, "converted", where, what or CONVERSIONS.get(code, f"{code.upper()} photograph, converted to RGB")
    )
