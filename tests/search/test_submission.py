"""What travels with a sweep to a cluster, and the paths that are refused before it is submitted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import amsam_ray
from amsam_ray.cli import job_entry
from amsam_ray.cli.main import cli
from amsam_ray.config.space import SpaceFile
from amsam_ray.config.space_file import load_space
from amsam_ray.errors import InputError
from amsam_ray.search.budget import Budget
from amsam_ray.search.options import RunOptions
from amsam_ray.search.ray.jobs import Jobs
from amsam_ray.search.submission import ENTRY, Submission, interruption, is_dashboard, submission_of

DEFINITION = Path(amsam_ray.__file__).parent / "data" / "definitions" / "folder.yaml"
S3 = "s3://results/x"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(here: Path, **changes: Any) -> tuple[Path, SpaceFile]:
    """Write a space file over a folder and return its path and content."""
    data = {"name": "mine", "datasets": [{"name": "folder", "root": "s3://data/x"}], "shots": [4], "methods": ["sam"]}
    (here / "space.yaml").write_text(yaml.safe_dump({**data, **changes}))
    return here / "space.yaml", load_space(here / "space.yaml")


def submit(
    here: Path, storage: str = S3, *, paths_on_nodes: bool = False, options: RunOptions | None = None, **changes: Any
) -> Submission:
    path, space = write(here, **changes)
    return submission_of(path, space, storage, options or RunOptions(), paths_on_nodes=paths_on_nodes, dry_run=False)


def problems(here: Path, storage: str = S3, *, paths_on_nodes: bool = False, **changes: Any) -> dict[str, str]:
    """Return what is refused, by key."""
    with pytest.raises(InputError) as refused:
        submit(here, storage, paths_on_nodes=paths_on_nodes, **changes)
    return {problem.where: problem.what for problem in refused.value.problems}


def test_paths_of_this_machine_are_refused_all_at_once(here: Path) -> None:
    changes: dict[str, Any] = {
        "datasets": [{"name": "folder", "root": str(here)}, {"name": "folder", "root": "photos", "label": "b"}],
        "backbone": {"arch": "vit_b", "checkpoint": "~/vit_b.pth"},
        "detector": {"weights": "models/boxes.safetensors"},
    }
    found = problems(here, "./results", **changes)
    keys = ["--storage", "datasets[0].root", "datasets[1].root", "backbone.checkpoint", "detector.weights"]
    assert list(found) == [key if key != "--storage" else "storage" for key in keys]
    assert all("which the cluster's nodes cannot see; " in what for what in found.values())
    assert "give s3://bucket/prefix, or the absolute path" in found["storage"]
    assert "s3://" not in found["detector.weights"] and "--paths-on-nodes" in found["detector.weights"]
    # Said to be on the nodes, the absolute one is accepted.
    assert "datasets[0].root" not in problems(here, "./results", paths_on_nodes=True, **changes)
    assert submit(here, "/shared/results", paths_on_nodes=True).storage == "/shared/results"


def test_passwords_in_a_uri_are_refused_before_a_cluster_lists_them(here: Path) -> None:
    assert "--storage" in problems(here, "s3://key:secret@bucket/x")


def test_space_file_and_the_files_that_it_names_travel(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "photos.yaml").write_bytes(DEFINITION.read_bytes())
    (here / "test.txt").write_text("a\nb\n")
    dataset = {"name": "mine/photos.yaml", "root": "s3://data/x", "options": {"test": "test.txt"}}
    submission = submit(here, datasets=[dataset])
    assert set(submission.files) == {"space.yaml", ENTRY, "mine/photos.yaml", "test.txt"}
    assert submission.files["test.txt"] == b"a\nb\n"
    dataset["name"] = str(here / "mine" / "photos.yaml")
    (found,) = problems(here, datasets=[dataset]).values()
    assert "does not travel with the sweep" in found and "relative path" in found


def test_options_travel_and_equal_sweeps_have_equal_ids(here: Path) -> None:
    options = RunOptions(extend=True, budget=Budget(90.0, 7, 1.5), trial_function="mine:train")
    submission = submit(here, options=options)
    assert submission.arguments[:7] == ("tune", "--space", "space.yaml", "--storage", S3, "--address", "auto")
    given = ["--extend", "--time-budget", "90", "--max-trials", "7", "--max-gpu-hours", "1.5"]
    assert list(submission.arguments[7:]) == [*given, "--trial-function", "mine:train"]
    assert submission.base == submit(here).base != submit(here, "s3://results/y").base
    assert submission.base != submit(here, shots=[8]).base


def test_dashboards_are_told_from_addresses() -> None:
    assert is_dashboard("http://localhost:8265") and is_dashboard("https://ray.example.org")
    assert not any(map(is_dashboard, (None, "auto", "head:6379", "ray://head:10001")))


def entry(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script of a job as a cluster's head does, from its own folder."""
    (here / ENTRY).write_bytes(Path(job_entry.__file__).read_bytes())
    return subprocess.run([sys.executable, ENTRY, *arguments], cwd=here, capture_output=True, text=True)


def test_job_script_compares_versions_before_it_runs_the_command(here: Path) -> None:
    ran = entry(here, "run", "job-1", amsam_ray.__version__, "methods", "list")
    assert ran.returncode == 0 and "am_sam" in ran.stdout
    refused = entry(here, "run", "job-1", "9.9.9", "methods", "list")
    assert refused.returncode == 2 and "install the same version on both" in refused.stderr
    (here / "amsam_ray").mkdir()
    (here / "amsam_ray" / "__init__.py").write_text("raise ImportError('no such package')")
    missing = entry(here, "run", "job-1", amsam_ray.__version__, "methods", "list")
    assert missing.returncode == 1 and "on every node, and start Ray with" in missing.stderr


def test_job_script_interrupts_the_job_with_the_id_and_no_other(here: Path) -> None:
    (here / "job").mkdir()
    job = f"job-{os.getpid()}-1"  # the script finds its job among all processes of the machine
    (here / "job" / ENTRY).write_text("import time\ntime.sleep(60)\n")
    commands = [[sys.executable, ENTRY, "run", name] for name in (job, f"{job}0")]
    running = [subprocess.Popen(command, cwd=here / "job") for command in commands]
    try:
        assert entry(here, "interrupt", job).returncode == 0
        assert running[0].wait(20) != 0
        assert running[1].poll() is None
        gone = entry(here, "interrupt", job)
        assert gone.returncode == 1 and "has no process" in gone.stderr
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert interruption("job-1").entrypoint("job-2") == ["python3", ENTRY, "interrupt", "job-1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tune", "--space", "space.yaml", "--max-gpu-hours", "nan"], "is not a number of hours"),
        (["tune", "--space", "space.yaml", "--paths-on-nodes"], "requires the URL of a dashboard"),
        (["stop", "--address", "head:6379"], "is not the URL of a dashboard"),
        (["status", "--address", "auto"], "is not the URL of a dashboard"),
        (["stop", "--address", "http://127.0.0.1:9"], "no job server answers at"),
        (["tune", "--space", "space.yaml", "--address", "ray://head:10001"], "is an address of Ray Client"),
        (["tune", "--space", "large.yaml"], "a lane needs 4096 CPU, more than"),
    ],
)
def test_unusable_options_are_refused_with_the_remedy(here: Path, arguments: list[str], words: str) -> None:
    datasets = [{"name": "procedural", "options": {"family": "lesion", "train": 16, "test": 4, "size": 64}}]
    (here / "large.yaml").write_bytes(write(here, datasets=datasets, resources={"cpus_per_lane": 4096})[0].read_bytes())
    write(here, datasets=datasets)
    result = CliRunner().invoke(cli, arguments)
    assert words in result.output + str(result.exception)
    assert result.exit_code == 2 or isinstance(result.exception, InputError)


def test_commands_that_read_name_a_missing_storage_alike(here: Path) -> None:
    said = {
        CliRunner()
        .invoke(
            cli,
            [*command, "--storage", "nothing"],
        )
        .exception
        for command in (["status"], ["leaderboard"], ["show", "x"], ["report"], ["compare", "a", "b"])
    }
    assert {str(error) for error in said} == {
        "nothing: does not exist; give the folder with the results, or s3://bucket/prefix"
    }


def test_an_address_with_a_password_is_refused_without_printing_it() -> None:
    with pytest.raises(InputError, match="holds a user name or a password") as found:
        Jobs("https://user:secret@localhost:9")
    assert "secret" not in str(found.value)
