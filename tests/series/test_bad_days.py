"""Days that bring nothing, or what they should not: one clear line, and the next good day takes it all."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.series.test_plan import WHOLE, Days, days
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.graph.manifest import find_manifest
from twhin_core.published import read_current
from twhin_core.series import publish as publishing
from twhin_core.series import reading
from twhin_core.series.publish import publish, rollback
from twhin_core.series.retention import keep_newest
from twhin_core.series.versions import list_versions
from twhin_core.stages.prepare import prepare

__all__ = ["days"]  # a fixture


@pytest.fixture
def second(days: Days) -> Days:
    """After a first day that was published."""
    days.arrive(1)
    planned = days.plan()
    days.work(planned, *WHOLE)
    publish(days.series, planned.version, planned.after)
    return days


def raw(days: Days, name: str) -> Path:
    return Path(days.series).parent / "raw" / name


def write_empty(kind: str, path: Path) -> None:
    if kind == "a file without rows":
        pq.write_table(pq.read_schema(path.with_name("day-1.parquet")).empty_table(), path)
    else:
        path.touch()


@pytest.mark.parametrize(("kind", "message"), [
    ("a file without rows", r"^prepare\.sources\.0: the new files of .*, such as .*day-2\.parquet, have no rows$"),
    ("a file without a byte", r"^.*day-2\.parquet: "),
])  # fmt: skip
def test_an_empty_file_is_one_line_and_publishes_nothing(second: Days, kind: str, message: str) -> None:
    write_empty(kind, raw(second, "day-2.parquet"))
    for _ in range(2):  # and so it is the next time
        planned = second.plan()
        assert (planned.version, planned.after) == ("2", "1")
        with pytest.raises(UserError, match=message) as caught:
            second.work(planned, prepare)
        assert "\n" not in str(caught.value)
    assert [version.state.split(" ")[0] for version in list_versions(second.series)] == ["published", "not"]
    if kind == "a file without a byte":
        second.arrive(2)  # it was still being written
    second.arrive(3)
    planned = second.plan()
    assert (planned.version, planned.after) == ("2", "1")
    second.work(planned, prepare)
    assert {Path(path).name for path in find_manifest(planned.root).taken} == {
        f"day-{day}.parquet" for day in (1, 2, 3)
    }


def test_a_file_that_was_taken_and_changed_is_one_line(second: Days) -> None:
    pq.write_table(pq.read_table(raw(second, "day-1.parquet")).slice(1), raw(second, "day-1.parquet"))
    planned = second.plan()
    assert planned.version == "1", "there is no new file"
    with pytest.raises(UserError, match=r"day-1\.parquet: changed since prepare read it: .*use another --run-root"):
        second.work(planned, prepare)
    second.arrive(2)
    planned = second.plan()
    assert planned.version == "2"
    with pytest.raises(UserError, match=r"day-1\.parquet: changed since .* took it; put new rows into new files"):
        second.work(planned, prepare)


def test_rows_that_were_taken_before_add_nothing(second: Days) -> None:
    pq.write_table(pq.read_table(raw(second, "day-1.parquet")), raw(second, "day-1-again.parquet"))
    planned = second.plan()
    second.work(planned, prepare)
    now, before = (find_manifest(f"{second.series}/versions/{version}") for version in ("2", "1"))
    assert {name: of.edges for name, of in now.splits.items()} == {name: of.edges for name, of in before.splits.items()}
    assert now.rejected.by_reason == {"duplicate": sum(of.edges for of in before.splits.values())}


def test_a_file_is_new_by_its_name_however_old_it_looks(second: Days) -> None:
    second.arrive(2)
    os.utime(raw(second, "day-2.parquet"), (0, 0))
    planned = second.plan()
    assert planned.version == "2"
    second.work(planned, prepare)
    assert {Path(path).name for path in find_manifest(planned.root).taken} == {"day-1.parquet", "day-2.parquet"}


class Backwards:
    """A clock that goes back by a day whenever it is asked."""

    def __init__(self) -> None:
        self._time = datetime(2026, 6, 30, tzinfo=UTC)

    def now(self, zone: object) -> datetime:
        self._time -= timedelta(days=1)
        return self._time


def test_a_clock_that_goes_back_changes_no_order(series: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "datetime", Backwards())
    for version in ("1", "2", "10"):
        publish(series, version)
    current = read_current(series)
    assert current is not None
    assert [entry.version for entry in current.history] == ["1", "2", "10"]
    assert [entry.when[:10] for entry in current.history] == ["2026-06-29", "2026-06-28", "2026-06-27"]
    assert [version.state[:24] for version in list_versions(series)] == [
        "was published 2026-06-29", "was published 2026-06-28", "published 2026-06-27T00:",
    ]  # fmt: skip
    assert rollback(series).version == "2"
    assert rollback(series).version == "1"
    assert rollback(series, "10").version == "10"
    assert keep_newest(series, 2) == ["1"]


def test_a_clock_that_goes_back_removes_nothing_that_is_read(series: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(series, "1")
    embeddings = Embeddings.load(series)
    publish(series, "10")
    yesterday = time.time() - 86_400
    monkeypatch.setattr(reading.time, "time", lambda: yesterday)
    assert keep_newest(series, 1) == ["2"]
    embeddings.close()
    assert keep_newest(series, 1) == ["1"]


def typed(kind: str, numbers: list[int]) -> pa.Array:
    if kind == "UUID":
        return pa.array([UUID(int=number).bytes for number in numbers], pa.binary(16))
    if kind == "dictionary":
        return pa.array([f"{number}" for number in numbers]).dictionary_encode()
    if kind in ("string", "large_string"):
        return pa.array([f"{number}" for number in numbers], getattr(pa, kind)())
    return pa.array(numbers, getattr(pa, kind)())


KINDS = {
    "int64": "integers", "int8": "integers", "uint32": "integers", "string": "strings", "large_string": "strings",
    "dictionary": "strings", "UUID": "UUIDs",
}  # fmt: skip


@pytest.mark.parametrize("before", ["int64", "string", "UUID"])
def test_ids_may_change_their_width_but_not_their_kind(small_config: SmallConfig, tmp_path: Path, before: str) -> None:
    (tmp_path / "raw").mkdir()
    asked: dict[str, Any] = {
        "sources": [{"path": str(tmp_path / "raw"), "lhs": "who", "rhs": "what", "relation": "fav"}],
        "split": {"validation": 0.0, "test": 0.0},
    }
    model = {"relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}]}
    what = pa.array(["t1", "t2", "t3"])
    pq.write_table(pa.table({"who": typed(before, [1, 2, 3]), "what": what}), tmp_path / "raw/0.parquet")
    first = str(tmp_path / "first")
    prepare(small_config(prepare=asked, model=model), first)
    for now, kind in KINDS.items():
        pq.write_table(pa.table({"who": typed(now, [3, 4, 5]), "what": what}), tmp_path / "raw/1.parquet")
        config, root = small_config(prepare={**asked, "previous": first}, model=model), str(tmp_path / now)
        if kind == KINDS[before]:
            assert {of.name: of.num_embeddings for of in prepare(config, root).tables} == {"user": 5, "tweet": 3}
            continue
        with pytest.raises(UserError) as caught:
            prepare(config, root)
        assert str(caught.value) == (
            f"prepare.previous: {first} cannot be continued: ids of user were {KINDS[before]} and are {kind}"
        )
