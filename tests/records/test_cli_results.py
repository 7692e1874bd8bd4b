"""The commands that read results need only a storage, load neither torch nor Ray, and report bad input in one line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from amsam_ray.cli.main import cli
from amsam_ray.errors import AmsamError, InputError
from amsam_ray.records import tables
from amsam_ray.storage.open import open_storage
from amsam_ray.training.result import TrialResult
from tests.records.synthetic import Folder, config, record, write_record, write_sweep


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_sweep(Folder(folder / "results"), folder)
    write_sweep(Folder(folder / "results"), folder, sweep="papers-11111111", datasets=["isic2018"], shots=[4])
    return folder / "results"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit | AmsamError):
        raise result.exception
    return result


def test_leaderboard_in_every_format(results: Path) -> None:
    table = run("leaderboard", "--storage", results).stdout
    assert "isic2018" in table and "paper" in table and "±" in table
    rows = list(csv.DictReader(io.StringIO(run("leaderboard", "--storage", results, "--format", "csv").stdout)))
    assert {row["dataset"] for row in rows} == {"lesion", "polyp", "isic2018"}
    plain = json.loads(run("leaderboard", "--storage", results, "--format", "json").stdout)
    assert [row["method"] for row in plain] == [row["method"] for row in rows]
    markdown = run("leaderboard", "--storage", results, "--format", "md").stdout
    assert len(markdown.splitlines()) == len(rows) + 2


def test_leaderboard_filters(results: Path) -> None:
    out = run("leaderboard", "--storage", results, "--dataset", "isic2018", "--no-paper", "--format", "json").stdout
    assert {(row["dataset"], row["source"]) for row in json.loads(out)} == {("isic2018", "run")}
    out = run("leaderboard", "--storage", results, "--shots", 8, "--format", "json").stdout
    assert {row["shots"] for row in json.loads(out)} == {8}


def test_show(results: Path) -> None:
    text = run("show", "demo-00000000/lesion.k4.am_sam", "--storage", results).stdout
    assert "alpha *" in text and "tau_token" not in text
    made_of = text.partition("made of")[2].partition("stored")[0]
    assert made_of.count("amsam-ray ") == made_of.count("torch ") == 1
    assert "Dice % on test images" in text and "IoU % on test images" in text
    name = text.splitlines()[0].split("/")[1]
    assert json.loads(run("show", name, "--storage", results, "--format", "json").stdout)["trial"] == name


def test_show_names_what_a_published_protocol_changes(tmp_path: Path) -> None:
    made = record(config(method="samed", protocol="published"))
    Folder(tmp_path / "results").create(made.key, made.to_bytes())
    text = run("show", f"{made.sweep}/{made.trial}", "--storage", tmp_path / "results").stdout
    assert "a warm-up of 250 steps" in text


def test_compare(results: Path) -> None:
    arguments = ("compare", "lesion.k4.am_sam", "lesion.k4.blo_sam", "--storage", results)
    found = json.loads(run(*arguments, "--format", "json").stdout)
    dice = found["scores"]["dice"]
    assert dice["difference"] == pytest.approx(dice["a"] - dice["b"])
    assert dice["images"] == 20 and dice["a_better"] > 10 and dice["p"] < 0.05
    different = found["configuration"]
    assert different["method"] == ["am_sam", "blo_sam"]
    # A parameter that acts in one trial only has no value in the other; one that acts in neither is not listed.
    assert different["params.alpha"][0] is not None and different["params.alpha"][1] is None
    assert not any(name.startswith(("params.tau_", "params.adaptor_")) for name in different)


def test_compare_prints_the_units_of_leaderboards(tmp_path: Path) -> None:
    for number, scores in enumerate(([0.9, 0.8], [0.7, 0.75])):
        rows = [{"name": str(i), "dice": s, "mae": s / 10} for i, s in enumerate(scores)]
        means = {"dice": sum(scores) / 2, "mae": sum(scores) / 20}
        result = TrialResult(status="completed", val={"dice": scores[0]}, test=means, test_images=rows)
        write_record(open_storage(tmp_path), record(config(role="final"), number, 0, result=result))
    names = [f"lesion.k4.am_sam.t000{number}.f0" for number in (0, 1)]
    lines = run("compare", *names, "--storage", tmp_path).stdout.splitlines()
    table = {cells[0]: cells[1:] for line in lines if len(cells := re.split(r"  +", line.strip())) > 3}
    assert table["selection Dice %"] == ["90.0", "70.0", "+20.0"]
    assert table["Dice %"][:5] == ["85.0", "72.5", "+12.5", "2", "2"]
    assert table["MAE"][:5] == ["0.0850", "0.0725", "+0.0125", "2", "0"]
    worse = run("compare", *reversed(names), "--storage", tmp_path).stdout
    assert "-12.5" in worse and "-0.0125" in worse


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("leaderboard", "--storage", "{empty}"), "holds no records"),
        (("leaderboard", "--storage", "{results}", "--dataset", "cats"), "holds no records of cats"),
        (("leaderboard", "--storage", "gs://x"), "not a storage"),
        (("show", "nobody", "--storage", "{results}"), "is not a trial or cell"),
        (("compare", "lesion.k4.am_sam", "nobody", "--storage", "{results}"), "is not a trial or cell"),
    ],
)
def test_bad_input(results: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run(*[a.format(empty=tmp_path, results=results) for a in arguments])
    assert isinstance(result.exception, InputError) and words in str(result.exception)


def test_ambiguous_names_list_the_choices(tmp_path: Path) -> None:
    for sweep in ("a-00000000", "b-00000000"):
        write_record(open_storage(tmp_path), record(config(), sweep=sweep))
    result = run("show", "lesion.k4.am_sam.t0000", "--storage", tmp_path)
    assert "a-00000000/lesion.k4.am_sam.t0000, b-00000000/" in str(result.exception)


def test_files_that_are_not_records_are_listed(tmp_path: Path) -> None:
    write_record(open_storage(tmp_path), record(config()))
    (tmp_path / "sweeps/demo-00000000/records/x.json").write_text("half")
    result = run("leaderboard", "--storage", tmp_path)
    assert "x.json" in result.stderr and "am_sam" in result.stdout


SECONDS = 4.0  # of processor time; 2.3 on two idle cores, of which SciPy's import for the Wilcoxon test is 1


def test_a_thousand_records_take_seconds_and_neither_torch_nor_ray(tmp_path: Path) -> None:
    storage = tmp_path / "results"
    made = write_sweep(Folder(storage), tmp_path, shots=[4], trials=12)
    search = [m for m in made if m.role == "search" and m.method != "sam"]
    for number in range(1000 - len(made)):
        model = search[number % len(search)]
        copy = model.model_copy(update={"trial": f"{model.cell}.t{100 + number:04d}", "number": 100 + number})
        write_record(Folder(storage), copy)
    code = (
        "import sys, amsam_ray.cli.main as m\n"
        f"try: m.cli(['leaderboard', '--storage', {str(storage)!r}], standalone_mode=False)\n"
        "finally: print([name for name in ('torch', 'ray', 'pandas', 'boto3') if name in sys.modules])\n"
    )
    used = []
    for attempt in range(3):  # other processes slow down even processor time, so the fastest of three counts
        before = _child_seconds()
        environment = {**os.environ, "AMSAM_CACHE_DIR": str(tmp_path / f"cache{attempt}")}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.splitlines()[-1] == "[]"
        used.append(_child_seconds() - before)
        if used[-1] < SECONDS:
            return
    raise AssertionError(f"seconds of processor time: {used}")


def _child_seconds() -> float:
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


READING = [["leaderboard"], ["show", "x"], ["compare", "x", "y"], ["report"], ["status"], ["export", "x", "--out", "o"]]


@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
def test_a_file_in_place_of_a_storage_is_refused_with_advice(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").write_text("x")
    result = run(*command, "--storage", tmp_path / "file")
    assert isinstance(result.exception, InputError)
    assert "is a file, not a storage; give the folder" in str(result.exception)


def test_a_report_to_a_file_needs_no_write_access_to_the_storage(results: Path, tmp_path: Path) -> None:
    before = sorted(results.rglob("*"))
    run("report", "papers-11111111", "--storage", results, "--out", tmp_path / "new" / "report.html")
    assert "isic2018" in (tmp_path / "new" / "report.html").read_text()
    assert sorted(results.rglob("*")) == before


def test_an_adapter_file_with_other_bytes_than_recorded_is_refused(tmp_path: Path) -> None:
    final = next(made for made in write_sweep(Folder(tmp_path / "r"), tmp_path, trials=1, shots=[4]) if made.adapter)
    stored = tmp_path / "r" / str(final.adapter)
    arguments = ("export", final.trial, "--storage", tmp_path / "r", "--out", tmp_path / "out")
    assert "SHA-256" not in str(
        run(*arguments).exception
    )  # its bytes are random: not an adapter, yet the recorded ones
    stored.write_bytes(bytes([stored.read_bytes()[0] ^ 1]) + stored.read_bytes()[1:])
    result = run(*arguments)
    assert isinstance(result.exception, InputError)
    assert f"and its record states {final.adapter_sha256}; restore the file" in str(result.exception)


def test_records_without_the_hash_of_their_adapter_stay_valid(tmp_path: Path) -> None:
    made = record(config(), 0, 0, images=[0.5])
    older = json.loads(made.to_bytes())
    assert older.pop("adapter_sha256") is None
    assert type(made).model_validate(older) == made


def test_text_for_spreadsheets_and_terminals_is_harmless() -> None:
    row = {"dataset": "lesion", "method": "=1+1", "backbone": "\x1b[2J", "dice_mean": -0.5}
    _, line = csv.reader(io.StringIO(tables.to_csv([row]).decode()))
    assert {"'=1+1", "\\x1b[2J", "-0.5"} <= set(line)
