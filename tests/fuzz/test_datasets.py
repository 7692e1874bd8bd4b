"""Definitions, options, lists of names, archives and file names of datasets."""

from __future__ import annotations

import io
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from amsam_ray.cli.data import dataset_config
from amsam_ray.config.datasets import DatasetConfig
from amsam_ray.data.definition import check_dataset_config, check_options, definitions, get_definition, load_definition
from amsam_ray.data.fetch import unpack
from amsam_ray.data.layout import scan
from amsam_ray.data.schema import DatasetDefinition
from amsam_ray.data.tree import KeyTree, LocalTree
from amsam_ray.data.understand import understand
from amsam_ray.errors import InputError
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.hostile import NESTED, NUMBERS, TEXTS, VALUES, damaged, mutated

FOLDER = Path(__file__).parents[2] / "amsam_ray" / "data" / "definitions"
ORIGINALS = [yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))]
KEYS = ["images/a.png", "images/b.png", "images/c.jpg", "masks/a.png", "masks/b.png", "masks/c.png", "Imgs/x.png"]
NAMES = st.lists(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(
            ["images/", "masks/", "images/../", "images/x/", "/", "", "Labels/", "train/gt/", "{path}/{stem}/"]
        ),
        st.sampled_from([*(text for text in TEXTS if "\0" not in text), "A", "a", "é", "e\u0301"])
        | st.text(max_size=8),
        st.sampled_from([".png", "_mask.png", "-gt.gif", ".jpg", ".npy", "{stem}.png", ".json"]),
    ),
    max_size=12,
)


SUFFIXES = st.sampled_from([".json", ".xml", ".csv", ".txt", ".npy", ".png"])
ANNOTATIONS = [
    '{"images": [], "annotations": ' + "[" * 100_000,
    '{"shapes": [{"points": ' + "9" * 100_000,
    "<annotations><image " + "&a;" * 100_000,
    "EncodedPixels," * 10_000,
    "a,EncodedPixels\n" + "1 " * 100_000,
    "0" + " 0.5" * 100_000,
    "0 " + "0" * 200_000 + "x",
    "\x93NUMPY\x01\0",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three pairs, two of them unreadable, and links that lead out and back."""
    root = tmp_path_factory.mktemp("data")
    for key in KEYS:
        (root / key).parent.mkdir(exist_ok=True)
        (root / key).write_bytes(b"x")
    (root / "images" / "out.png").symlink_to("/etc/passwd")
    (root / "images" / "loop").symlink_to("..")
    (root / "test.txt").write_text("a\n")
    return root


def read_definition(path: Path, root: Path) -> DatasetDefinition:
    """Read a definition and look for its files."""
    definition = load_definition(path)
    options, problems = check_options(definition, {})
    if problems:
        raise InputError(problems)
    if definition.source == "files":
        for tree in (LocalTree(root), KeyTree("s3://b", KEYS)):
            found = scan(tree, definition, options)
            assert all("passwd" not in pair.image for pair in [*found.train.values(), *found.test.values()])
    return definition


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("definitions") / "own.yaml"


@fuzz(4, data=mutated(ORIGINALS))
def test_changed_definitions(file: Path, root: Path, data: Any) -> None:
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    attempt("definition", lambda: read_definition(file, root))


@fuzz(1, content=damaged([path.read_bytes() for path in sorted(FOLDER.glob("*.yaml"))]))
def test_damaged_definitions(file: Path, root: Path, content: bytes) -> None:
    file.write_bytes(content)
    attempt("definition", lambda: read_definition(file, root))


@fuzz(
    4,
    name=st.sampled_from(sorted(definitions())),
    options=st.dictionaries(st.sampled_from(["test", "images", "masks", "family", "train", "size", "x"]), VALUES),
    own_root=st.booleans() | st.sampled_from(TEXTS),
)
def test_options(root: Path, name: str, options: dict[str, Any], own_root: Any) -> None:
    def check() -> None:
        config = DatasetConfig(name=name, root=own_root if isinstance(own_root, str) else str(root), options=options)
        if problems := check_dataset_config(config, 2, "datasets[0]"):
            raise InputError(problems)

    def refused_by_schema() -> None:
        try:
            check()
        except ValueError as error:  # pydantic's: as a space file reports it
            raise InputError(str(error)) from None

    attempt("dataset options", refused_by_schema)


@pytest.mark.parametrize("text", TEXTS)
def test_names_and_options_on_the_command_line(root: Path, text: str) -> None:
    def check(config: DatasetConfig) -> None:
        if problems := check_dataset_config(config, 2, "x"):
            raise InputError(problems)

    for name, folder, pairs in [
        (text, str(root), ()),
        ("folder", text, ()),
        ("folder", str(root), (text,)),
        ("folder", str(root), (f"test={text}",)),
        ("folder", str(root), (f"images={text}",)),
        ("procedural", None, (f"family={text}",)),
    ]:
        attempt("dataset strings", partial(lambda a, b, c: check(dataset_config(a, b, c)), name, folder, pairs))


@fuzz(
    3, content=damaged([b"a # comment\n\n", b"a.png\na\n", "é\n".encode(), b"\xff\xfea\0\n"]) | st.binary(max_size=60)
)
def test_lists_of_names(root: Path, content: bytes) -> None:
    (root / "own.txt").write_bytes(content)
    config = DatasetConfig(name="folder", root=str(root), options={"test": "own.txt"})

    def check() -> None:
        if problems := check_dataset_config(config, 2, "datasets[0]"):
            assert all(problem.where.startswith("datasets[0]") for problem in problems)
            raise InputError(problems)

    attempt("list of names", check)


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/dev/urandom", "/proc/self/mem", ".", "many.txt", "long.txt", "missing"]
)
def test_lists_that_are_no_lists(root: Path, path: str) -> None:
    (root / "many.txt").write_text("x\n" * 5_000_000)
    (root / "long.txt").write_text("x" * 30_000_000)
    config = DatasetConfig(name="folder", root=str(root), options={"test": path})
    assert attempt("list of names", lambda: _refuse(check_dataset_config(config, 2, "x")))[0] is False


def _refuse(problems: list[Any]) -> None:
    if problems:
        raise InputError(problems)


@fuzz(4, texts=st.lists(st.sampled_from(ANNOTATIONS) | st.text(max_size=60), min_size=1, max_size=3), suffix=SUFFIXES)
def test_annotations(tmp_path_factory: pytest.TempPathFactory, texts: list[str], suffix: str) -> None:
    folder = tmp_path_factory.mktemp("annotations")
    (folder / "a.jpg").write_bytes(b"x")
    for index, text in enumerate(texts):
        (folder / f"a{index}{suffix}").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert attempt("annotations", lambda: understand(str(folder)))[0] is False


@fuzz(3, keys=NAMES)
def test_file_names(keys: list[str]) -> None:
    definition = get_definition("folder")
    options, _ = check_options(definition, {"test": 1})

    def read() -> None:
        found = scan(KeyTree("s3://bucket", keys), definition, options)
        assert len(found.train) + len(found.test) <= len(keys)
        assert all(str(finding.where) for finding in found.findings)

    attempt("file names", read)


def archives() -> list[bytes]:
    """Return zip archives, of which some leave their folder or expand a thousandfold."""

    def made(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    return [
        made({"x/images/a.png": b"a", "x/masks/a.png": b"b"}),
        made({"../out.png": b"a"}),
        made({"/tmp/never": b"a"}),
        made({"x/../../out.png": b"a"}),
        made({"a\\..\\b": b"a", "images": b"file", "images/a.png": b"under a file"}),
        made({"x" * 300: b"a"}),
        made({"a\nb/\x1b[2J.png": b"a"}),
        made({"bomb": bytes(100_000_000)}),
        made({"a": b"1", "A": b"2"}, zipfile.ZIP_LZMA),
    ]


@pytest.mark.parametrize("index", range(len(archives())))
def test_archives(tmp_path: Path, index: int) -> None:
    unpacked(tmp_path, archives()[index])


def unpacked(folder: Path, content: bytes) -> None:
    """Unpack an archive and check that nothing leaves the target."""
    (folder / "own.zip").write_bytes(content)
    attempt("archive", lambda: unpack(folder / "own.zip", folder / "in" / "deep", 0))
    assert {path.name for path in folder.iterdir()} <= {"own.zip", "in"}
    assert not (folder / "in").exists() or {path.name for path in (folder / "in").iterdir()} <= {"deep"}


def test_damaged_archives(tmp_path_factory: pytest.TempPathFactory) -> None:
    small = [content for content in archives() if len(content) < 10_000]

    @fuzz(2, content=damaged(small))
    def run(content: bytes) -> None:
        unpacked(tmp_path_factory.mktemp("archive"), content)

    run()


def test_values_of_options_are_all_tried() -> None:
    definition = get_definition("folder")
    for value in (*TEXTS, *NUMBERS, *NESTED, None, True):
        attempt("dataset options", partial(lambda v: _refuse(check_options(definition, {"test": v})[1]), value))
