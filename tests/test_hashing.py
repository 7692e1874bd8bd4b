from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from amsam_ray.errors import AmsamError
from amsam_ray.hashing import file_sha256, sha256_digest, sha256_hex


def test_text_bytes_and_files_have_one_hash(tmp_path: Path) -> None:
    expected = hashlib.sha256("π".encode()).hexdigest()
    (tmp_path / "pi.txt").write_text("π", encoding="utf-8")
    assert sha256_hex("π") == sha256_hex("π".encode()) == file_sha256(tmp_path / "pi.txt") == expected
    assert sha256_digest("π").hex() == expected


def test_file_sha256_names_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(AmsamError, match="missing cannot be read"):
        file_sha256(tmp_path / "missing")
