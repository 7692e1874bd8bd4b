"""One folder with every possible fault; `data check` reports all of them at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from amsam_ray.cli.data import data
from amsam_ray.cli.main import main
from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.data import findings
from amsam_ray.data.check import check_dataset
from tests.data import layouts

SOUND = 10


def _image(index: int) -> Image.Image:
    return Image.fromarray(layouts.photograph(index)[0])


def _mask(index: int) -> np.ndarray:
    return layouts.photograph(index)[1].astype(np.uint8)


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _exif(path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    _image(21).rotate(90).save(path, exif=tag.tobytes())


def _smooth(path: Path) -> None:
    Image.fromarray(np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)).save(path)


def _palette_mask(path: Path) -> None:
    image = Image.fromarray(_mask(28)).convert("P")
    image.putdata(_mask(28).ravel().tolist())
    image.putpalette([0, 0, 0, 200, 30, 30])
    image.save(path)


def _add(root: Path, name: str, index: int, suffix: str = "png") -> None:
    layouts.put_pair(root, f"images/{name}.{suffix}", f"masks/{name}.png", index)


def _file(name: str, index: int, change: Callable[[Path], object], which: str = "images") -> Callable[[Path], None]:
    """Add a sound pair, then change one of its files."""

    def plant(root: Path) -> None:
        _add(root, name, index)
        change(root / which / f"{name}.png")

    return plant


def _twins(root: Path, name: str, of: str) -> None:
    for folder in ("images", "masks"):
        (root / folder / f"{name}.png").write_bytes((root / folder / f"{of}.png").read_bytes())


def _plant_twice(root: Path) -> None:
    _add(root, "twice", 13)
    _image(14).save(root / "images/twice.jpg")


def _plant_two(root: Path) -> None:
    _add(root, "two", 15)
    _image(15).save(root / "masks/two.jpg")


def _plant_leak(root: Path) -> None:
    _add(root, "known", 38)
    _twins(root, "zz-test", "known")


def _plant_twin(root: Path) -> None:
    _add(root, "first", 39)
    _twins(root, "twin", "first")


# code of the finding -> (file that must be named, how to plant it)
FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no-mask": ("images/lone.png", _file("lone", 11, lambda p: (p.parent.parent / "masks/lone.png").unlink())),
    "no-image": ("masks/orphan.png", lambda r: layouts.put_mask(r / "masks/orphan.png", _mask(12) > 0)),
    "same-name": ("images/twice.jpg", _plant_twice),
    "many-masks": ("images/two.png", _plant_two),
    "case": ("images/Upper.png", _file("Upper", 16, lambda p: (p.parent.parent / "masks/Upper.png").rename(
        p.parent.parent / "masks/upper.PNG"))),
    "unreadable": ("images/cut.png", _file("cut", 17, _cut)),
    "unreadable:empty": ("images/void.png", _file("void", 18, lambda p: p.write_bytes(b""))),
    "unreadable:text": ("images/text.png", _file("text", 19, lambda p: p.write_text("hello"))),
    "mask-unreadable": ("masks/badmask.png", _file("badmask", 20, _cut, "masks")),
    "exif": ("images/turned.png", _file("turned", 21, _exif)),
    "cmyk": ("images/print.png", _file("print", 22, lambda p: _image(22).convert("CMYK").save(p, "JPEG"))),
    "grey": ("images/grey.png", _file("grey", 23, lambda p: _image(23).convert("L").save(p))),
    "alpha": ("images/glass.png", _file("glass", 24, lambda p: _image(24).convert("RGBA").save(p))),
    "16-bit": ("images/deep.png", _file("deep", 25, lambda p: Image.fromarray(
        np.asarray(_image(25).convert("L")).astype(np.uint16) * 257).save(p))),
    "palette": ("images/few.png", _file("few", 26, lambda p: _image(26).quantize(64).save(p))),
    "mask-rgb": ("masks/rgbmask.png", _file("rgbmask", 27, lambda p: Image.fromarray(
        np.dstack([_mask(27) * 255] * 3)).save(p), "masks")),
    "mask-palette": ("masks/palmask.png", _file("palmask", 28, _palette_mask, "masks")),
    "mask-16-bit": ("masks/deepmask.png", _file("deepmask", 29, lambda p: Image.fromarray(
        _mask(29).astype(np.uint16) * 65535).save(p), "masks")),
    "mask-lossy": ("masks/jpegmask.png", _file("jpegmask", 30, lambda p: Image.fromarray(
        _mask(30) * 255).save(p, "JPEG"), "masks")),
    "mask-labels": ("masks/labels.png", _file("labels", 31, lambda p: Image.fromarray(_mask(31)).save(p), "masks")),
    "mask-alpha": ("masks/clear.png", _file("clear", 32, lambda p: Image.fromarray(
        np.dstack([_mask(32) * 0] * 3 + [_mask(32) * 255])).save(p), "masks")),
    "mask-resized": ("masks/small.png", _file("small", 33, lambda p: Image.fromarray(
        _mask(33)[::2, ::2] * 255).save(p), "masks")),
    "mask-shape": ("masks/other.png", _file("other", 34, lambda p: Image.fromarray(
        _mask(34)[:40] * 255).save(p), "masks")),
    "mask-values": ("masks/ramp.png", _file("ramp", 35, _smooth, "masks")),
    "mask-empty": ("masks/nothing.png", _file("nothing", 36, lambda p: Image.fromarray(
        _mask(36) * 0).save(p), "masks")),
    "mask-full": ("masks/all.png", _file("all", 37, lambda p: Image.fromarray(
        _mask(37) * 0 + 255).save(p), "masks")),
    "leak": ("images/zz-test.png", _plant_leak),
    "duplicate": ("images/twin.png", _plant_twin),
    "not-an-image": ("images/phone.heic", lambda r: (r / "images/phone.heic").write_bytes(b"x")),
    "sub-folder": ("images/more", lambda r: (r / "images/more").mkdir()),
    "link-loop": ("images/loop.png", lambda r: (r / "images/loop.png").symlink_to("loop.png")),
    "link-loop:folder": ("images/up", lambda r: (r / "images/up").symlink_to("..")),
    "link-outside": ("images/away.png", lambda r: (r / "images/away.png").symlink_to(r.parent / "elsewhere.png")),
    "link-broken": ("images/gone.png", lambda r: (r / "images/gone.png").symlink_to("no-such-file.png")),
    "unknown-test": ("options.test", lambda r: (r / "test.txt").write_text("sound0\nsound1\nzz-test\nno-such-name\n")),
}  # fmt: skip


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for index in range(SOUND):
        _add(root, f"sound{index}", index)
    _image(99).save(tmp_path / "elsewhere.png")
    for _, plant in FAULTS.values():
        plant(root)
    return root


def _run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(data, words)
    return result.exit_code, result.output


def test_data_check_reports_every_planted_fault(faulty: Path) -> None:
    assert len(FAULTS) >= 20
    status, text = _run("check", "folder", "--root", str(faulty), "--option", "test=test.txt")
    assert status == 1
    lines = text.splitlines()
    for key, (where, _) in FAULTS.items():
        code = key.split(":")[0]
        assert any(f" {code} " in line and f" {where} " in line for line in lines), f"{key} at {where} is not told"
    assert "no-such-name" in text


def test_json_output_has_the_same_findings(faulty: Path) -> None:
    status, text = _run("check", "folder", "--root", str(faulty), "--option", "test=test.txt", "--format", "json")
    assert status == 1
    report = json.loads(text)
    told = {(finding["kind"], finding["where"]) for finding in report["findings"]}
    assert {(key.split(":")[0], where) for key, (where, _) in FAULTS.items()} <= told
    assert report["faults"] == sum(finding["severity"] == "fault" for finding in report["findings"])


def test_a_folder_without_faults_has_no_finding_and_status_0(tmp_path: Path) -> None:
    for index in range(4):
        _add(tmp_path, f"a{index}", index)
    status, text = _run("check", "folder", "--root", str(tmp_path), "--option", "test=1")
    assert status == 0, text
    assert "3 train, 1 test" in text
    assert "│ none " in text
    assert not check_dataset(DatasetConfig(name="folder", root=str(tmp_path), options={"test": 1})).findings


@pytest.mark.parametrize(
    ("lost", "tally"),
    [
        (["masks/photo0.png"], "│ 1 fault │"),
        (["masks/photo0.png", "masks/photo1.png"], "│ 2 faults │"),
        (["masks/photo0.png", "images/photo0.jpg"], "│ none "),
    ],
)
def test_findings_are_counted_in_words(lost: list[str], tally: str, tmp_path: Path) -> None:
    layouts.folder(tmp_path, 6)
    for name in lost:
        (tmp_path / name).unlink()
    text = _run("check", "folder", "--root", str(tmp_path))[1]
    line = next(line for line in text.splitlines() if line.startswith("│ findings"))
    assert tally in " ".join(line.split())


def test_paths_are_printed_whole(tmp_path: Path) -> None:
    root = tmp_path / "a-folder-whose-path-is-wider-than-the-table-below-it"
    layouts.folder(root, 4)
    (root / "images/photo[red].jpg").write_bytes((root / "images/photo0.jpg").read_bytes())
    lines = _run("check", "folder", "--root", str(root))[1].splitlines()
    assert lines[0] == f"folder {root}"
    assert any("│ images/photo[red].jpg │" in line for line in lines)


def test_conversions_and_notes_are_counted_beside_faults(faulty: Path) -> None:
    text = _run("check", "folder", "--root", str(faulty), "--option", "test=test.txt")[1]
    assert re.search(r"│ findings +│ \d+ faults, \d+ converted, \d+ notes +│", text)


def test_no_progress_bar_without_a_terminal(tmp_path: Path) -> None:
    layouts.folder(tmp_path, 2)
    result = CliRunner().invoke(data, ["check", "folder", "--root", str(tmp_path), "--option", "test=1"])
    assert result.stderr == ""


def test_published_counts_are_compared(tmp_path: Path) -> None:
    layouts.istd(tmp_path)
    report = check_dataset(DatasetConfig(name="istd", root=str(tmp_path)))
    assert sorted(finding.what[:9] for finding in report.faults) == ["2 usable ", "3 usable "]
    assert "540 published" in report.faults[1].what or "540 published" in report.faults[0].what


@pytest.mark.parametrize("name", ["images", "masks"])
def test_an_empty_folder_is_a_fault(name: str, tmp_path: Path) -> None:
    layouts.folder(tmp_path, 2)
    for path in (tmp_path / name).iterdir():
        path.unlink()
    status, text = _run("check", "folder", "--root", str(tmp_path))
    assert status == 1
    assert "holds no image" in text


def test_procedural_images_are_checked_too() -> None:
    options = ["--option", "train=3", "--option", "test=2", "--option", "size=32"]
    status, text = _run("check", "procedural", *options)
    assert status == 0
    assert "3 train, 2 test" in text


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["check", "folder", "--root", "/no/such/folder"], "the data root does not exist"),
        (["check", "imagenet"], "is not a known dataset"),
        (["check", "folder", "--root", "/tmp", "--option", "test"], "not of the form KEY=VALUE"),
        (["check", "folder", "--root", "/tmp", "--option", "test=2024-01-01"], "is read as a date; put it in quotes"),
        (["check", "folder", "--root", "~no-such-user/x"], "--root: ~no-such-user is not a user of this machine"),
        (["check", ""], "NAME: is empty; give a path"),
        (["check", "folder", "--root", "/tmp", "--option", "images=../up"], "leaves the data root"),
        (["check", "istd"], "has no root"),
        (["fetch", "istd", "--root", "/tmp/x"], "has no plain URL"),
    ],
)
def test_bad_input_is_reported_with_status_2(
    words: list[str], what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMSAM_DATA", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["data", *words])
    assert stop.value.code == 2
    assert what in capsys.readouterr().err


def test_the_data_page_lists_every_code() -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    missing = [
        code for code in {**findings.FAULTS, **findings.CONVERSIONS, **findings.NOTES} if f"`{code}`" not in page
    ]
    assert not missing
