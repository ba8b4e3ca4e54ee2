"""A series on an object store, a tenth of whose requests go wrong: what is removed, what is read, and what is noted."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import gcsfs
import pytest

from tests.command_line import twhin
from tests.conftest import SmallConfig
from tests.fault_proxy import FaultProxy
from tests.object_store import serve_bucket
from tests.series.conftest import raw_of
from tests.series.test_publish import upload
from twhin_core import lease, object_store, storage
from twhin_core.dependents import noted
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.published import find_root
from twhin_core.series import reading
from twhin_core.series.publish import publish, rollback
from twhin_core.series.retention import keep_newest
from twhin_core.series.versions import list_versions
from twhin_core.stages.prepare import prepare


@pytest.fixture(scope="module")
def server() -> Iterator[FaultProxy]:
    with serve_bucket(faults=0.1) as proxy:
        yield proxy


@pytest.fixture
def bucket(server: FaultProxy) -> gcsfs.GCSFileSystem:
    """The store as another machine sees it, which keeps no listings."""
    return gcsfs.GCSFileSystem(token="anon", endpoint_url=server.upstream, use_listings_cache=False)


@pytest.fixture
def remote(series: str, server: FaultProxy, bucket: gcsfs.GCSFileSystem, monkeypatch: pytest.MonkeyPatch) -> str:
    """Versions 1, 2 and 10 on the store."""
    if bucket.exists("bucket/series"):
        bucket.rm("bucket/series", recursive=True)
    storage.filesystem("gs://bucket")[0].invalidate_cache()
    return upload(series, server, monkeypatch)


def files(bucket: gcsfs.GCSFileSystem, version: str) -> list[str]:
    root = f"bucket/series/versions/{version}/"
    return sorted(path.removeprefix(root) for path in bucket.find(root))


def test_the_oldest_are_removed_and_their_figures_stay(remote: str, bucket: gcsfs.GCSFileSystem) -> None:
    for version in ("1", "2", "10"):
        publish(remote, version)
    before = {version.id: version for version in list_versions(remote)}
    whole = files(bucket, "2"), files(bucket, "10")
    assert keep_newest(remote, 2) == ["1"]
    assert files(bucket, "1") == ["removed.json"]
    assert (files(bucket, "2"), files(bucket, "10")) == whole
    after = {version.id: version for version in list_versions(remote)}
    assert (after["2"], after["10"]) == (before["2"], before["10"])
    assert after["1"].metrics == before["1"].metrics != {}
    assert keep_newest(remote, 2) == []
    for call in (lambda: rollback(remote, "1"), lambda: Embeddings.load(f"{remote}/versions/1")):
        with pytest.raises(UserError, match="this version was removed on "):
            call()
    assert rollback(remote).version == "2"


def test_a_removal_that_was_interrupted_is_completed(remote: str, bucket: gcsfs.GCSFileSystem) -> None:
    publish(remote, "10")
    kept = [path for path in files(bucket, "1") if not path.startswith(".leases/")][::2]
    assert keep_newest(remote, 2) == ["1"]
    bucket.pipe({f"bucket/series/versions/1/{path}": b"left" for path in kept})
    storage.filesystem(remote)[0].invalidate_cache()
    assert keep_newest(remote, 2) == ["1"]
    assert files(bucket, "1") == ["removed.json"]


def test_readers_get_the_published_version_and_keep_it(
    remote: str, series: str, bucket: gcsfs.GCSFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(remote, "1")
    embeddings, local = Embeddings.load(remote), Embeddings.load(f"{series}/versions/1")
    assert find_root(remote) == f"{remote}/versions/1"
    assert embeddings["user"].to_arrow().equals(local["user"].to_arrow())
    assert embeddings["user"].neighbors("u3", k=5) == local["user"].neighbors("u3", k=5)
    assert len([path for path in files(bucket, "1") if path.startswith(".readers/")]) == 1
    publish(remote, "10")
    assert Embeddings.load(remote).step == local.step
    assert keep_newest(remote, 1) == ["2"]
    # Another machine begins to read after this one has listed the marks, and is then killed.
    now = time.time()
    bucket.pipe("bucket/series/versions/1/.readers/other", json.dumps({"until": now + 3600}).encode())
    embeddings.close()
    assert [path for path in files(bucket, "1") if path.startswith(".readers/")] == [".readers/other"]
    assert keep_newest(remote, 1) == []
    monkeypatch.setattr(reading.time, "time", lambda: now + reading.LASTS)
    assert keep_newest(remote, 1) == ["1"]


def test_a_version_that_a_stage_works_on_stays(remote: str) -> None:
    publish(remote, "10")
    with lease.hold(f"{remote}/versions/1", "export"):
        assert keep_newest(remote, 2) == []
    assert keep_newest(remote, 2) == ["1"]


def test_a_graph_that_a_run_elsewhere_uses_stays(
    remote: str, small_config: SmallConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(remote, "1")
    root = str(tmp_path / "own")
    prepare(small_config(prepare={"graph": remote, "sources": raw_of(f"{remote}/versions/1")}), root)
    assert noted(f"{remote}/versions/1") == [root]
    publish(remote, "10")
    with caplog.at_level(logging.INFO):
        assert keep_newest(remote, 1) == ["2"]
    assert f"versions: kept version 1: {root} uses its graph" in caplog.messages
    shutil.rmtree(root)
    assert keep_newest(remote, 1) == ["1"]


def test_the_command(
    remote: str, server: FaultProxy, bucket: gcsfs.GCSFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(remote, "10")
    monkeypatch.setenv(object_store.EMULATOR, server.upstream)  # a process of its own would retry at leisure
    shown = twhin("versions", remote, "--keep", "1", "--json")
    rows = json.loads(shown.stdout)["versions"]
    assert {row["version"]: row["state"].split(" ")[0] for row in rows} == {
        "1": "removed", "2": "removed", "10": "published",
    }  # fmt: skip
    assert files(bucket, "1") == files(bucket, "2") == ["removed.json"]
