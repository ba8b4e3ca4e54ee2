"""Raw files that changed after prepare read them."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SmallConfig, write_raw
from tests.object_store import STORES, reach, serve_bucket
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare


@pytest.fixture
def config(small_config: SmallConfig, tmp_path: Path) -> Config:
    """A config with a folder of three files."""
    small_config()
    (tmp_path / "data").mkdir()
    for number in range(3):
        shutil.copy(tmp_path / "raw.parquet", tmp_path / f"data/{number}.parquet")
    return small_config(prepare={"sources": [{"path": f"{tmp_path}/data", "relation_column": "relation"}]})


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def grow(path: Path) -> None:
    write_raw(path, edges=800)


def replace_by_link(path: Path) -> None:
    write_raw(path.parent.parent / "other.parquet", edges=500)
    path.unlink()
    path.symlink_to(path.parent.parent / "other.parquet")


@pytest.mark.parametrize(
    ("change", "said"), [(touch, "has been written again"), (grow, "bytes and has"), (replace_by_link, "bytes and has")]
)
def test_a_changed_file_is_named(config: Config, tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    root = str(tmp_path / "run")
    manifest = prepare(config, root)
    assert [(entry.path, entry.size) for entry in manifest.raw_files] == [
        (str(path), path.stat().st_size) for path in sorted((tmp_path / "data").iterdir())
    ]
    assert prepare(config, root) == manifest
    change(tmp_path / "data/1.parquet")
    with pytest.raises(UserError) as raised:
        prepare(config, root)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/data/1.parquet: changed since prepare read it: it ")
    assert said in message
    assert "--set prepare.changed_files=keep" in message
    assert "\n" not in message
    assert config.prepare is not None
    keep = config.model_copy(update={"prepare": config.prepare.model_copy(update={"changed_files": "keep"})})
    assert prepare(keep, root) == manifest
    prepare(config, str(tmp_path / "another"))


def test_new_files_and_files_that_are_gone_are_logged(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = str(tmp_path / "run")
    manifest = prepare(config, root)
    with caplog.at_level(logging.INFO, "twhin"):
        assert prepare(config, root) == manifest
        assert "raw files" not in caplog.text
        shutil.move(tmp_path / "data/0.parquet", tmp_path / "data/3.parquet")
        assert prepare(config, root) == manifest
        assert f"1 raw files are gone, such as {tmp_path}/data/0.parquet" in caplog.text
        assert f"1 raw files are new and not in the graph, such as {tmp_path}/data/3.parquet" in caplog.text
    shutil.rmtree(tmp_path / "data")  # as on a machine that only trains
    assert prepare(config, root) == manifest


@pytest.mark.parametrize("store", STORES)
def test_a_changed_object(
    store: str, config: Config, tmp_path: Path, small_config: SmallConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_bucket(store=store) as server:
        bucket = reach(server, monkeypatch)
        content = (tmp_path / "raw.parquet").read_bytes()
        urls = [f"{bucket}/data/{number}.parquet" for number in range(2)]
        for url in urls:
            with storage.open_write(url) as file:
                file.write(content)
        remote = small_config(prepare={"sources": [{"path": f"{bucket}/data", "relation_column": "relation"}]})
        manifest = prepare(remote, f"{bucket}/run[1]")
        assert [(entry.path, entry.size) for entry in manifest.raw_files] == [(url, len(content)) for url in urls]
        fs = storage.filesystem(urls[0])[0]
        assert [entry.version for entry in manifest.raw_files] == [int(fs.info(url)["generation"]) for url in urls]
        assert prepare(remote, f"{bucket}/run[1]") == manifest
        # On S3, only other bytes are another version, here of the same size; elsewhere, the same bytes are one too.
        again = content[:-1] + bytes([content[-1] ^ 1]) if store == "s3" else content
        with storage.open_write(urls[1]) as file:
            file.write(again)
        with pytest.raises(UserError, match=f"^{urls[1]}: changed since prepare read it: it has been written"):
            prepare(remote, f"{bucket}/run[1]")
