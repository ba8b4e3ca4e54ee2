"""Publishing is atomic: readers see one version or another, and of two writers one wins and the other says so."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from tests.command_line import assert_refused, twhin
from tests.fault_proxy import FaultProxy
from tests.object_store import STORES, files_at, reach, serve_bucket
from tests.preloaded import CONTEXT
from twhin_core import storage
from twhin_core.embeddings import Embeddings
from twhin_core.errors import Damaged, GateFailed, StorageRefused, UserError
from twhin_core.published import find_root, list_ids, read_current, series_of
from twhin_core.run import is_series
from twhin_core.series import publish as publishing
from twhin_core.series.publish import publish, rollback
from twhin_core.series.versions import list_versions


@pytest.mark.parametrize(
    ("root", "series"),
    [
        ("models/versions/1", "models"),
        ("/data/models/versions/2024-01-01/", "/data/models"),
        ("gs://bucket/models/versions/1", "gs://bucket/models"),
        ("versions/1", "."),
        ("models", None),
        ("versions", None),
        ("models/versions", None),
        ("models/versions/1/graph", None),
        ("models/trials/1", None),
        ("myversions/1", None),
    ],
)
def test_a_version_is_known_by_its_folder(root: str, series: str | None) -> None:
    assert series_of(root) == series


def states(series: str) -> dict[str, str]:
    return {version.id: version.state for version in list_versions(series)}


def published(series: str) -> str:
    current = read_current(series)
    assert current is not None
    return current.version


def test_the_published_version_is_what_readers_get(series: str) -> None:
    assert list_ids(series) == ["1", "2", "10"]
    assert is_series(series)
    with pytest.raises(UserError, match="no version of this series is published"):
        Embeddings.load(series)
    for version in ("1", "10"):
        publish(series, version)
        assert find_root(series) == f"{series}/versions/{version}"
        assert (
            Embeddings.load(series)["user"]["u3"].tolist() == Embeddings.load(find_root(series))["user"]["u3"].tolist()
        )
    assert states(series)["2"] == "not published: exported"
    assert states(series)["1"].startswith("was published ")
    assert states(series)["10"].startswith("published ")


def test_publishing_twice_is_publishing_once(series: str) -> None:
    first = publish(series, "2")
    assert publish(series, "2") == first
    assert [(entry.version, entry.action) for entry in first.history] == [("2", "publish")]


def test_rollback_goes_back_step_by_step(series: str) -> None:
    for version in ("1", "2", "10"):
        publish(series, version)
    assert [rollback(series).version for _ in range(2)] == ["2", "1"]
    with pytest.raises(UserError, match="no version was published before 1"):
        rollback(series)
    assert rollback(series, "10").version == "10"
    current = read_current(series)
    assert current is not None
    assert [entry.version for entry in current.history] == ["1", "2", "10", "2", "1", "10"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("embeddings/manifest.json", "nothing is exported"),
        ("config.yaml", "there is no run here"),
    ],
)
def test_an_unfinished_version_is_not_published(series: str, damage: str, message: str) -> None:
    publish(series, "1")
    storage.remove(f"{series}/versions/2/{damage}")
    with pytest.raises(UserError, match=message):
        publish(series, "2")
    assert published(series) == "1"


def test_a_version_that_missed_its_gate_is_not_published(series: str) -> None:
    root = f"{series}/versions/2"
    gate = {"metric": "test.all.mrr", "value": 0.1, "passed": False, "reason": "test.all.mrr is 0.1, too low"}
    storage.write_json(f"{root}/evaluation/gates.json", {"passed": False, "checkpoint": 1, "gates": [gate]})
    with pytest.raises(GateFailed, match=r"version 2 was not published: test\.all\.mrr is 0\.1, too low"):
        publish(series, "2")
    assert states(series)["2"] == "not published: test.all.mrr is 0.1, too low"


@pytest.mark.parametrize("version", ["3", "", "..", "../versions/1", "01"])
def test_a_version_that_is_not_there(series: str, version: str) -> None:
    with pytest.raises(UserError, match=f"there is no version {version}; there are 1, 2, 10"):
        publish(series, version)


def test_a_rollback_needs_a_version_that_was_published(series: str) -> None:
    with pytest.raises(UserError, match="no version of this series is published"):
        rollback(series)
    publish(series, "1")
    with pytest.raises(UserError, match="version 2 was never published; there are 1"):
        rollback(series, "2")


def test_a_publication_can_demand_what_is_published_before(series: str) -> None:
    with pytest.raises(UserError, match="version none is published, not 2"):
        publish(series, "1", after="2")
    publish(series, "1", after="")
    publish(series, "2", after="1")
    publish(series, "2", after="1")  # by the same process again, after it was stopped
    with pytest.raises(UserError, match="version 2 is published, not 1"):
        publish(series, "10", after="1")


def test_a_published_version_that_changed_is_refused(series: str) -> None:
    publish(series, "1")
    path = Path(series, "versions/1/embeddings/manifest.json")
    path.write_text(path.read_text() + " ")
    with pytest.raises(Damaged, match="has changed since this version was published"):
        Embeddings.load(series)
    publish(series, "1")
    Embeddings.load(series)
    path.unlink()
    with pytest.raises(Damaged, match="is missing, although this version is published"):
        find_root(series)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 3}', "\x00", "null"])
def test_a_damaged_current_is_one_line(series: str, text: str) -> None:
    Path(series, "current.json").write_text(text)
    with pytest.raises(Damaged, match=r"current\.json"):
        find_root(series)


@pytest.fixture
def server(where: str) -> Iterator[FaultProxy]:
    with serve_bucket(faults=0.1, store=where) as proxy:
        yield proxy


def upload(series: str, server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    files_at(server).put(f"{series}/", "bucket/series/", recursive=True)
    return f"{reach(server, monkeypatch)}/series"


@pytest.mark.parametrize("where", ["disk", *STORES])
def test_of_two_publishers_one_wins_and_the_other_says_so(
    series: str, where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where != "disk":
        series = upload(series, request.getfixturevalue("server"), monkeypatch)
    publish(series, "1")
    both_have_read = threading.Barrier(2, timeout=60)
    hold = publishing.lease.hold

    def wait(*arguments: str) -> object:
        both_have_read.wait()
        return hold(*arguments)

    monkeypatch.setattr(publishing.lease, "hold", wait)
    outcomes: dict[str, object] = {}

    def go(version: str) -> None:
        try:
            outcomes[version] = publish(series, version)
        except StorageRefused as error:
            outcomes[version] = error

    threads = [threading.Thread(target=go, args=(version,)) for version in ("2", "10")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    lost = [version for version, outcome in outcomes.items() if isinstance(outcome, StorageRefused)]
    assert len(lost) == 1
    assert "another process has published in the meantime" in str(outcomes[lost[0]])
    assert published(series) == ({"2", "10"} - set(lost)).pop()


def publish_on_and_on(series: str, begins: Event) -> None:
    begins.set()
    for version in itertools.cycle(("1", "2", "10")):
        publish(series, version)


@pytest.mark.slow
def test_a_publisher_that_is_killed_leaves_one_whole_version(series: str) -> None:
    publish(series, "1")
    for delay in (0.0, 0.003, 0.01, 0.03, 0.1):
        begins = CONTEXT.Event()
        process = CONTEXT.Process(target=publish_on_and_on, args=(series, begins))
        process.start()
        assert begins.wait(60)
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert find_root(series) == f"{series}/versions/{published(series)}"
        publish(series, "2")
        assert published(series) == "2"


def test_the_commands(series: str) -> None:
    assert_refused(twhin("versions", f"{series}/nothing"), "there are no versions here")
    for version in ("1", "2"):
        assert twhin("publish", series, version).returncode == 0
    assert twhin("rollback", series).returncode == 0
    shown = twhin("versions", series, "--json")
    rows = json.loads(shown.stdout)["versions"]
    assert [row["version"] for row in rows] == ["1", "2", "10"]
    assert [row["state"].split(" ")[0] for row in rows] == ["published", "was", "not"]
    assert {(row["edges"], row["nodes"]) for row in rows} == {(600, 70)}
    asked = twhin("neighbors", series, "user", "u3", "--json")
    assert asked.stdout == twhin("neighbors", f"{series}/versions/1", "user", "u3", "--json").stdout != ""
    assert_refused(twhin("publish", series, "3"), "there is no version 3")
    shutil.rmtree(f"{series}/versions/2")
    assert_refused(twhin("rollback", series, "--to", "2"), "there is no version 2")
