"""Records: whatever is accepted is summarised, ranked and shown without harm to terminal, page or spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import amsam_ray.inference.export  # noqa: F401 - the memory of torch is not that of a record
from amsam_ray.cli.compare import comparison
from amsam_ray.cli.main import cli, main
from amsam_ray.cli.show import describe
from amsam_ray.errors import InputError
from amsam_ray.records.io import parse_record
from amsam_ray.records.leaderboard import build_leaderboard
from amsam_ray.records.schema import Record
from amsam_ray.records.summary import RecordSummary, cell_summaries
from amsam_ray.records.tables import to_csv, to_json, to_markdown, to_terminal
from amsam_ray.search.recorder import outcome_of
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.hostile import TEXTS, damaged, mutated
from tests.records.synthetic import Folder, sweep_records

SWEEP = "demo-00000000"
HUGE = "9" * 5000
SCRIPT = "</script><img src=x onerror=alert(1)>"
ESCAPE = "\x1b[2J\x1b]0;x\x07\r"
FORMULA = "=HYPERLINK(A1)"


def some_records(folder: Path, trials: int = 3) -> list[dict[str, Any]]:
    """The records of a small sweep as plain data."""
    made = sweep_records(folder, SWEEP, ["lesion"], [4, 8], ["sam", "am_sam"], trials, 2, 4, 3)
    return [json.loads(record.to_bytes()) for record, _ in made]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return some_records(tmp_path_factory.mktemp("work"))


def encode(data: Any) -> bytes:
    """Return JSON as a hostile writer may store it: with NaN, infinities and lone surrogates."""
    return json.dumps(data).encode(errors="surrogatepass")


def key_of(data: Any) -> str:
    """Return the key at which this record belongs, as far as it states one."""
    stated = data if isinstance(data, dict) else {}
    return f"sweeps/{stated.get('sweep')}/records/{stated.get('trial')}.json"


def read(key: str, content: bytes) -> Record:
    """Parse a record as every reader does."""
    found = parse_record(key, content)
    if isinstance(found, Record):
        return found
    raise InputError(found)


def use(records: list[Record]) -> None:
    """Summarise, rank and show records, as every command does that reads them."""
    for record in records:
        assert Record.model_validate_json(record.to_bytes()) == record
        summary = RecordSummary.of(record)
        assert RecordSummary.load(*summary.dump()) == summary
        outcome_of(record)
        for title, lines in describe(record):
            assert_harmless(title, *(text for line in lines for text in line))
    comparison(records[0], records[-1])
    rows = build_leaderboard(cell_summaries(records))
    json.loads(to_json(rows))
    assert_harmless(to_markdown(rows))
    for line in csv.reader(io.StringIO(to_csv(rows).decode())):
        for cell in line:
            assert not cell.startswith(("=", "@", "\t", "\r")) and not re.match(r"[-+][^\d.]", cell), cell
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200)
    console.print(to_terminal(rows))
    assert_harmless(console.file.getvalue())  # type: ignore[attr-defined]


def assert_harmless(*texts: str) -> None:
    """Assert that no character acts on a terminal or reverses text."""
    for text in texts:
        text.encode()
        found = [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
        assert not found and not re.search("[\u202a-\u202e\u2066-\u2069]", text), repr(text[:200])


@fuzz(4, data=mutated([[None]]))
def test_other_json(data: Any) -> None:
    attempt("record", lambda: read("sweeps/x/records/x.json", encode(data)))


@pytest.fixture(scope="module")
def check(originals: list[dict[str, Any]]):
    """Read one changed record among the unchanged ones and use them all."""
    others = [read(key_of(data), encode(data)) for data in originals]

    def check(data: Any) -> None:
        accepted, record = attempt("record", lambda: read(key_of(data), encode(data)))
        if accepted:
            kept = [other for other in others if other.key != record.key]
            attempt("shown record", lambda: use([record, *kept]))

    return check


def in_place(originals: list[dict[str, Any]]) -> Any:
    """A strategy of changed records that keep their ids, so that most are not refused for their key."""

    def keep(data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("trial"), str):
            matching = [o for o in originals if o["trial"] == data["trial"]]
            if matching:
                data |= {name: matching[0][name] for name in ("sweep", "cell", "dataset", "shots", "label")}
        return data

    return mutated(originals, most=2).map(keep)


def test_changed_records(originals: list[dict[str, Any]], check: Any) -> None:
    @fuzz(4, data=in_place(originals))
    def run(data: Any) -> None:
        check(data)

    run()


def test_damaged_records(originals: list[dict[str, Any]]) -> None:
    stored = [encode(data) for data in originals]

    @fuzz(2, content=damaged(stored))
    def run(content: bytes) -> None:
        attempt("record", lambda: read(key_of(originals[0]), content))

    run()


ABSURD: dict[str, dict[str, Any]] = {
    "a huge score": {"val": {"dice": 1e308}},
    "huge test scores": {"test": {"dice": 1e308}, "test_images": [{"name": "a", "dice": 1e308}] * 3},
    "a huge score of one image": {"test_images": [{"name": "0000", "dice": 1e308, "iou": -1e308}]},
    "an infinite score": {"val": {"dice": float("inf")}},
    "no number": {"seconds": float("nan")},
    "a huge number": {"number": 10**40},
    "thousands of digits": {"seed": HUGE},
    "a huge epoch": {"curve": [{"epoch": 1e18, "val_dice": 0.5}, {"epoch": 1, "val_dice": 0.4}]},
    "an infinite epoch": {"curve": [{"epoch": float("inf"), "val_dice": 0.5}, {"epoch": 1, "val_dice": 0.4}]},
    "huge time": {"seconds": 1e300, "gpu_seconds": 1e300, "timings": {"train": 1e308}},
    "negative time": {"timings": {"train": -1e308}, "seconds": -1e300},
    "another age": {"started": "0001-01-01T00:00:00Z", "finished": "9999-12-31T23:59:59Z"},
    "a huge parameter": {"params": {"alpha": 1e308, "lr": 1e-308, "rank": 10**30}},
    "parameters of other kinds": {"params": {"alpha": [1], "lr": {"a": 1}, "rank": None}},
    "searched and absent": {"searched": ["no", "rank", "rank"], "params": {}},
    "a script": {
        "reason": SCRIPT,
        "method": SCRIPT,
        "searched": ["alpha"],
        "params": {"alpha": SCRIPT, "lr": SCRIPT, "onclick": SCRIPT},
        "backbone": SCRIPT,
        "test_images": [{"name": SCRIPT, "dice": 0.5}],
    },
    "a script as parameter": {"params": {SCRIPT: SCRIPT}, "searched": []},
    "a script as attribute": {"params": {"x onmouseover=alert(1) y": 1}, "searched": []},
    "a script as metric": {"primary": SCRIPT, "metric": SCRIPT, "val": {SCRIPT: 0.5}, "test": {SCRIPT: 0.5}},
    "a script as phase": {"timings": {SCRIPT: 1.0}},
    "an unknown metric": {"primary": "dice_3d", "metric": "dice_3d", "val": {"dice_3d": 0.5}},
    "an escape": {"reason": ESCAPE, "method": ESCAPE, "backbone": ESCAPE, "params": {"alpha": ESCAPE}, "searched": []},
    "a formula": {"params": {"alpha": FORMULA}, "searched": [], "backbone": FORMULA, "adapter": FORMULA},
    "many phases": {"timings": {f"p{i}": 1.0 for i in range(10_000)}},
    "a long curve": {"curve": [{"epoch": i, "val_dice": 0.5 + 1e-6 * i} for i in range(20_000)]},
    "a path outside": {
        "adapter": "../../etc/passwd",
        "overlays": [{"rank": "best", "name": SCRIPT, "score": 1e308, "key": "../../../etc/passwd"}],
    },
    "a picture that is none": {
        "overlays": [{"rank": "best", "name": "x", "score": None, "key": f"sweeps/{SWEEP}/space.yaml"}]
    },
    "a hostile environment": {
        "environment": {"version": SCRIPT, "packages": {SCRIPT: ESCAPE}, "hardware": {ESCAPE: SCRIPT}, "commit": "\x1b"}
    },
}


class _Page(HTMLParser):
    """The tags of a page and the attributes that run code or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "link") and ("href", "data:,") not in attrs:
            self.active.append(tag)
        self.active += [name for name, _ in attrs if name.startswith("on")]
        self.active += [
            f"{name}={value}"
            for name, value in attrs
            if name in ("src", "href", "xlink:href") and value and not value.startswith(("#", "data:"))
        ]


@pytest.fixture(scope="module")
def hostile_results(tmp_path_factory: pytest.TempPathFactory, originals: list[dict[str, Any]]) -> dict[str, Path]:
    """One storage per entry of ``ABSURD``: a small sweep, each of whose records has these values."""
    found = {}
    for name, changes in ABSURD.items():
        root = tmp_path_factory.mktemp("results")
        for data in originals:
            Folder(root).put(key_of(data), encode({**data, **changes}))
        for data in some_records(root, trials=2):
            if data["number"] == 1:
                Folder(root).put(key_of(data), encode(data))
        Folder(root).put(f"sweeps/{SWEEP}/space.yaml", SCRIPT.encode())
        found[name] = root
    return found


@pytest.mark.parametrize("name", ABSURD)
def test_commands_on_absurd_records(hostile_results: dict[str, Path], tmp_path: Path, name: str) -> None:
    root, out = hostile_results[name], tmp_path / "report.html"
    commands: list[list[str]] = [
        *(["leaderboard", "--format", form] for form in ("table", "csv", "md", "json")),
        ["show", "lesion.k4.am_sam"],
        ["show", "lesion.k4.am_sam.t0000", "--format", "json"],
        ["compare", "lesion.k4.am_sam", "lesion.k8.am_sam"],
        ["status"],
        ["export", "lesion.k4.am_sam", "--decoder", "none", "--out", str(tmp_path / "out")],
        ["report", SWEEP, "--out", str(out)],
    ]
    for command in commands:
        result = CliRunner()

        def call(command: list[str] = command, runner: CliRunner = result) -> str:
            answer = runner.invoke(cli, [*command, "--storage", str(root)])
            if answer.exception is not None and not isinstance(answer.exception, SystemExit):
                raise answer.exception
            return str(answer.output)

        accepted, text = attempt(f"{command[0]} of records", call)
        if accepted:
            assert_harmless(re.sub(r"\x1b\[[0-9;]*m", "", text))
    if out.exists():
        page = _Page()
        page.feed(out.read_text())
        assert not page.active


@pytest.mark.parametrize("text", TEXTS)
def test_names_of_trials(hostile_results: dict[str, Path], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    root = str(hostile_results["a huge score"])
    for command in (["show", text], ["compare", text, text], ["report", text], ["status", "--sweep", text]):
        capfd.readouterr()

        def call(command: list[str] = command) -> None:
            try:
                main([*command, "--storage", root])
            except SystemExit as ended:
                if ended.code:
                    raise InputError(f"status {ended.code}") from None

        attempt("trial or sweep id", call)
        found = capfd.readouterr()
        assert "Traceback" not in found.err
        assert_harmless(found.err)
