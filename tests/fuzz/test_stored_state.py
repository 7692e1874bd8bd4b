"""What a sweep keeps beside its records: the index, the manifest, the lease and the copy of a bucket."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from amsam_ray.cli.main import cli
from amsam_ray.config.space_file import parse_space
from amsam_ray.records.index import Index
from amsam_ray.records.leaderboard import build_leaderboard
from amsam_ray.search.manifest import choose_sweep, manifest_key, read_manifest, stored_space, write_manifest
from amsam_ray.storage.local import LocalStorage
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.hostile import damaged, mutated
from tests.records.synthetic import Folder, write_sweep

SPACE = parse_space(
    {
        "name": "demo",
        "datasets": [{"name": "procedural", "options": {"family": "lesion"}}],
        "shots": [4],
        "methods": ["am_sam"],
        "search": {"space": {"alpha": {"uniform": [0.5, 1]}, "rank": {"int": [2, 8]}}},
    }
)
SWEEP = "demo-00000000"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    folder = tmp_path_factory.mktemp("state")
    write_sweep(Folder(folder / "results"), folder, datasets=["lesion"], shots=[4], methods=["am_sam"], trials=3)
    storage = LocalStorage(folder / "results")
    write_manifest(storage, choose_sweep(storage, SPACE, extend=False, fresh=True), SPACE)
    return storage


def test_damaged_indexes(storage: LocalStorage, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("index")

    def rows() -> list[Any]:
        index = Index(storage, folder)
        try:
            index.update()
            return build_leaderboard(index.cells(), published=False, remember=index.remember)
        finally:
            index.close()

    expected = rows()
    (path,) = folder.glob("*.sqlite")
    intact = path.read_bytes()

    @fuzz(1, content=damaged([intact], most=3) | st.binary(max_size=200))
    def run(content: bytes) -> None:
        for left in folder.iterdir():
            left.unlink()
        path.write_bytes(content)
        accepted, found = attempt("index", rows)
        if accepted:
            assert [row["trial"] for row in found] == [row["trial"] for row in expected]

    run()


def test_changed_manifests(storage: LocalStorage) -> None:
    (name,) = [n for n in storage.folders("sweeps/") if read_manifest(storage, n)]
    original = json.loads(storage.get(manifest_key(name)))

    def read() -> None:
        manifest = read_manifest(storage, name)
        if manifest is not None:
            stored_space(manifest)
        choose_sweep(storage, SPACE, extend=False, fresh=False)
        choose_sweep(storage, SPACE, extend=True, fresh=False)

    def put(content: bytes) -> None:
        (storage.root / manifest_key(name)).write_bytes(content)

    @fuzz(3, data=mutated([original]))
    def change(data: Any) -> None:
        put(json.dumps(data).encode(errors="surrogatepass"))
        attempt("manifest of a sweep", read)

    @fuzz(1, content=damaged([json.dumps(original).encode()]))
    def damage(content: bytes) -> None:
        put(content)
        attempt("manifest of a sweep", read)

    change()
    damage()
    put(json.dumps(original).encode())


LEASE = {
    "host": "h",
    "boot": "b",
    "pid": 1,
    "process_started": 1.0,
    "started": 4e9,
    "user": "u",
    "renewed": 4e9,
    "status": {"rows": [], "running": 0},
}


def test_changed_leases(storage: LocalStorage) -> None:
    (name,) = [n for n in storage.folders("sweeps/") if read_manifest(storage, n)]
    path = storage.root / "sweeps" / name / "lease.json"

    def status(form: str) -> None:
        answer = CliRunner().invoke(cli, ["status", "--storage", str(storage.root), "--sweep", name, "--format", form])
        if answer.exception is not None and not isinstance(answer.exception, SystemExit):
            raise answer.exception
        assert "\x1b" not in answer.output

    @fuzz(1, data=mutated([LEASE]))
    def run(data: Any) -> None:
        path.write_bytes(json.dumps(data).encode(errors="surrogatepass"))
        for form in ("text", "json"):
            attempt("lease of a sweep", partial(status, form))

    run()
    path.unlink()
