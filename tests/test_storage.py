"""The storage interface with local files."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from twhin_core import storage
from twhin_core.checksum import ChecksumWriter
from twhin_core.errors import UserError
from twhin_core.paths import find_files


def test_text_and_json_survive_a_round_trip(tmp_path: Path) -> None:
    url = storage.join(str(tmp_path), "a", "b.json")
    storage.write_json(url, {"ä": [1, None]})
    assert storage.read_json(url) == {"ä": [1, None]}
    assert "ä" in (tmp_path / "a/b.json").read_text(encoding="utf-8")
    storage.write_text(url, "other")
    assert storage.read_text(f"file://{url}") == "other"


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    url = str(tmp_path / "x")
    storage.write_text(url, "old")

    def fail() -> None:
        with storage.open_write(url) as file:
            file.write(b"new, but only a pa")
            file.flush()
            assert storage.read_text(url) == "old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert storage.read_text(url) == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_appears_once_it_is_complete(tmp_path: Path) -> None:
    with storage.open_write(str(tmp_path / "x.parquet")) as file:
        file.write(b"1")
        assert not storage.exists(str(tmp_path / "x.parquet"))
        with pytest.raises(UserError, match="no file matches"):  # what is written aside is no data
            find_files(str(tmp_path))
    assert [file.url for file in find_files(str(tmp_path))] == [str(tmp_path / "x.parquet")]


def test_folders_and_removal(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert storage.list_folders(storage.join(root, "gone")) == []
    for name in ("2/x", "10/y", "file"):
        storage.write_text(storage.join(root, name), "")
    assert storage.list_folders(root) == ["10", "2"]
    storage.remove(storage.join(root, "10"))
    storage.remove(storage.join(root, "file"))
    storage.remove(storage.join(root, "gone"))
    assert storage.list_folders(root) == ["2"]
    assert os.listdir(tmp_path) == ["2"]


def test_join() -> None:
    assert storage.join("gs://bucket/", "a", "b") == "gs://bucket/a/b"
    assert storage.join("runs", "a") == "runs/a"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://bucket/x",
        "https://host/x",
        "minio://bucket/x",
        "S3://bucket/x",
        "gcs://bucket/x",
        "://x",
        "hdfs://x",
        "az://x",
    ],
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(UserError, match=f"^{url}: only local paths, gs://, s3:// and abfs:// are supported$"):
        storage.exists(url)


@pytest.mark.parametrize("url", ["gs://", "s3://", "s3:///", "abfs://", "abfs:///"])
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=f"^{url}: names no bucket$"):
        storage.exists(url)


def bitwise_crc32c(content: bytes) -> int:
    """CRC-32C by its definition (RFC 3720), one bit at a time."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_checksum_covers_everything_written() -> None:
    file = io.BytesIO()
    writer = ChecksumWriter(file)
    for part in (b"one", memoryview(b"two"), b""):
        writer.write(part)
    assert file.getvalue() == b"onetwo"
    assert writer.checksums() == {
        "size": 6,
        "sha256": hashlib.sha256(b"onetwo").hexdigest(),
        "crc32c": f"{bitwise_crc32c(b'onetwo'):08x}",
    }
