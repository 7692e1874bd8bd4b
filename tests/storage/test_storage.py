"""Both storages against the conformance class, and the particular behaviour of each."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from amsam_ray.errors import InputError
from amsam_ray.storage.base import NotFoundError, StorageError, UnavailableError
from amsam_ray.storage.open import check_storage, open_storage
from amsam_ray.storage.s3_errors import explain
from tests.disks import Disk, own_mounts
from tests.s3.moto import S3Server
from tests.storage.conformance import StorageConformance


class TestLocal(StorageConformance):
    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return str(tmp_path / "results")


class TestMoto(StorageConformance):
    @pytest.fixture
    def uri(self, aws: S3Server) -> str:
        return f"s3://{aws.bucket}/{uuid.uuid4().hex}/prefix"


def test_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("secret")
    storage = open_storage(tmp_path / "root")
    storage.put("a/b", b"1")
    (tmp_path / "root" / "evil").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "a" / "link").symlink_to(tmp_path / "outside" / "x")
    for act in (lambda: storage.put("evil/x", b"2"), lambda: storage.get("a/link"), lambda: storage.delete("evil/x")):
        with pytest.raises(StorageError, match="symbolic link"):
            act()
    assert (tmp_path / "outside" / "x").read_text() == "secret"


def test_root_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    storage = open_storage(tmp_path / "results")
    storage.create("a/b", b"1")
    assert (tmp_path / "disk" / "a" / "b").read_bytes() == b"1"


@own_mounts
def test_a_full_or_read_only_disk_is_unavailable_with_a_remedy_and_leaves_no_half_file(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "results", 64)
    storage = open_storage(disk.folder)
    storage.create("a/b", b"one")
    disk.fill()
    with pytest.raises(UnavailableError, match=r"No space left on device; free some space\.$"):
        storage.create("a/c", b"two" * 4096)
    disk.free()
    disk.read_only(True)
    with pytest.raises(UnavailableError, match=r"Read-only file system; mount the file system writable\.$"):
        storage.create("a/c", b"two")
    disk.read_only(False)
    assert [entry.key for entry in storage.list("")] == ["a/b"] and storage.get("a/b") == b"one"
    assert [path.name for path in (disk.folder / "a").iterdir()] == ["b"]


def test_temporary_files_are_not_listed(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.put("a/b", b"1")
    (tmp_path / "a" / ".0123.tmp").write_bytes(b"half")
    assert [e.key for e in storage.list("")] == ["a/b"]


def test_create_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # the error on FAT

    monkeypatch.setattr(os, "link", no_links)
    storage = open_storage(tmp_path)
    storage.create("a/b", b"one")
    with pytest.raises(StorageError, match="already exists"):
        storage.create("a/b", b"two")
    assert storage.get("a/b") == b"one"


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.put("a", b"1")
    with pytest.raises(StorageError, match="folder is needed"):
        storage.put("a/b", b"2")


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3://", "s3://key:secret@bucket/x", "s3://b/../x", "s3://b?x=y"])
def test_invalid_storage_uris_are_refused(uri: str) -> None:
    with pytest.raises(InputError) as caught:
        open_storage(uri)
    assert "secret" not in str(caught.value)


def test_check_of_a_folder(tmp_path: Path) -> None:
    assert check_storage(tmp_path / "new" / "results") == []
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("x")
    assert "not a directory" in str(check_storage(tmp_path / "file" / "results")[0])
    assert "not writable" in str(check_storage("/proc/1/results")[0])
    assert check_storage("s3://a:b@c")[0].where == "storage"


def test_errors_of_s3_are_one_sentence(aws: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(bucket: str = aws.bucket, **env: str | None) -> str:
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.delenv(name) if value is None else patch.setenv(name, value)
            (problem,) = check_storage(f"s3://{bucket}/x")
            assert "\n" not in problem.what and aws.secret_key not in problem.what
            return problem.what

    assert "bucket does not exist" in complaint("no-such-bucket")
    assert "AWS_SECRET_ACCESS_KEY" in complaint(AWS_SECRET_ACCESS_KEY="wrong")
    assert "AWS_ACCESS_KEY_ID" in complaint(AWS_ACCESS_KEY_ID="AKIAWRONG")
    assert "credentials" in complaint(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert "nothing answers" in complaint(AWS_ENDPOINT_URL_S3="http://127.0.0.1:9")
    assert "not a URL" in complaint(AWS_ENDPOINT_URL_S3="nonsense")
    assert "profile" in complaint(AWS_PROFILE="nobody")
    assert "not a valid bucket name" in complaint("UPPER_case!")


def test_a_user_without_permission_is_reported(aws: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    iam = aws.client("iam")
    iam.create_user(UserName="guest")
    key = iam.create_access_key(UserName="guest")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    (problem,) = check_storage(f"s3://{aws.bucket}/x")
    assert "access denied for ListObjectsV2" in problem.what


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("RequestTimeTooSkewed", 403, "set the clock"),
        ("PermanentRedirect", 301, "another region; set AWS_REGION=eu-west-1"),
        ("AuthorizationHeaderMalformed", 400, "another region"),
        ("ExpiredToken", 400, "token has expired"),
        ("AccessDenied", 403, "access denied for PutObject of a/b"),
        ("QuotaExceeded", 403, "free some space"),
        ("SlowDown", 503, "slow down"),
        ("Weird", 418, "refused PutObject of a/b (Weird)"),
    ],
)
def test_server_errors_are_one_sentence(code: str, status: int, words: str) -> None:
    answer = {
        "Error": {"Code": code, "Message": "AKIASECRET said no", "Region": "eu-west-1"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
    error = explain(ClientError(answer, "PutObject"), "s3://bucket/x", "a/b")
    assert words in str(error) and "AKIASECRET" not in str(error)
    assert isinstance(error, UnavailableError) == (status == 503)


def test_an_s3_reader_needs_no_write_permission(aws: S3Server) -> None:
    with pytest.raises(NotFoundError):
        open_storage(f"s3://{aws.bucket}/readonly").get("a/b")
    assert aws.client().list_objects_v2(Bucket=aws.bucket, Prefix="readonly")["KeyCount"] == 0
