"""A series on an object store, a tenth of whose requests go wrong: what is removed, what is read, and what is noted."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import twhin
from tests.conftest import SmallConfig
from tests.fault_proxy import FaultProxy
from tests.object_store import GS_FIRST, environment_at, files_at, serve_bucket
from tests.series.conftest import raw_of
from tests.series.test_publish import upload
from twhin_core import lease, storage
from twhin_core.dependents import noted
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.published import find_root
from twhin_core.series import reading
from twhin_core.series.publish import publish, rollback
from twhin_core.series.retention import keep_newest
from twhin_core.series.versions import list_versions
from twhin_core.stages.prepare import prepare


@pytest.fixture(scope="module", params=GS_FIRST)
def server(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    with serve_bucket(faults=0.1, store=request.param) as proxy:
        yield proxy


@pytest.fixture
def bucket(server: FaultProxy) -> Any:
    """The store as another machine sees it, which keeps no listings."""
    return files_at(server)


@pytest.fixture
def remote(series: str, server: FaultProxy, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Versions 1, 2 and 10 on the store."""
    for path in bucket.find("bucket/series"):
        bucket.rm_file(path)
    return upload(series, server, monkeypatch)


def files(bucket: Any, version: str) -> list[str]:
    root = f"bucket/series/versions/{version}/"
    return sorted(path.removeprefix(root) for path in bucket.find(root))


def test_the_oldest_are_removed_and_their_figures_stay(remote: str, bucket: Any) -> None:
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


def test_a_removal_that_was_interrupted_is_completed(remote: str, bucket: Any) -> None:
    publish(remote, "10")
    kept = [path for path in files(bucket, "1") if not path.startswith(".leases/")][::2]
    assert keep_newest(remote, 2) == ["1"]
    for path in kept:
        bucket.pipe_file(f"bucket/series/versions/1/{path}", b"left")
    storage.filesystem(remote)[0].invalidate_cache()
    assert keep_newest(remote, 2) == ["1"]
    assert files(bucket, "1") == ["removed.json"]


def test_readers_get_the_published_version_and_keep_it(
    remote: str, series: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
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
    bucket.pipe_file("bucket/series/versions/1/.readers/other", json.dumps({"until": now + 3600}).encode())
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


def test_the_command(remote: str, server: FaultProxy, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(remote, "10")
    for name, value in environment_at(server.store, server.upstream).items():
        monkeypatch.setenv(name, value)  # a process of its own would retry at leisure
    shown = twhin("versions", remote, "--keep", "1", "--json")
    rows = json.loads(shown.stdout)["versions"]
    assert {row["version"]: row["state"].split(" ")[0] for row in rows} == {
        "1": "removed", "2": "removed", "10": "published",
    }  # fmt: skip
    assert files(bucket, "1") == files(bucket, "2") == ["removed.json"]
