"""Ids by position and positions by id, compared with the list that the files were written from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from twhin_core.errors import NotFound, UserError
from twhin_core.parquet import StoredFile
from twhin_core.stages.prepare import prepare
from twhin_core.vectors.ids import StoredIds, find_or_refuse, similar_ids
from twhin_core.vectors.names import open_ids


def stored(folder: Path, names: list[str], rows_per_file: int = 10_000, by_hash: bool = True) -> StoredIds:
    """`names` in files with row groups of 7."""
    files = []
    for number, start in enumerate(range(0, max(1, len(names)), rows_per_file)):
        part = names[start : start + rows_per_file]
        table = pa.table(
            {"index": pa.array(range(start, start + len(part)), pa.int64()), "id": pa.array(part, pa.string())}
        )
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=7)
        files.append(StoredFile(str(folder / f"part-{number}.parquet"), len(part)))
    return StoredIds(files, str(folder), [len(names)] if by_hash else None)


def by_md5(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: hashlib.md5(name.encode()).hexdigest())


@pytest.fixture
def read_groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups that are read, as they are."""
    groups: list[int] = []
    read = pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, group: int, *arguments: Any) -> pa.Table:
        groups.append(group)
        return read(file, group, *arguments)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    return groups


@pytest.mark.parametrize("rows_per_file", [7, 10, 10_000])
@pytest.mark.parametrize("count", [0, 1, 2, 100, 1_000])
def test_every_id_is_found_and_no_other(tmp_path: Path, count: int, rows_per_file: int) -> None:
    if count > 100 and rows_per_file < 100:
        rows_per_file *= 20
    names = by_md5([f"ü{number}" for number in range(count)])
    for by_hash in (True, False):
        ids = stored(tmp_path, names, rows_per_file, by_hash)
        assert ids.size == count
        checked = range(0, count, 7 if by_hash else 37)
        assert [ids.find(names[position]) for position in checked] == list(checked)
        assert [ids.find(name) for name in ("", "ü", f"ü{count}", "\udcff")] == [None] * 4
        picked = np.random.default_rng(0).integers(0, count, 20) if count else np.empty(0, np.int64)
        assert ids.at(picked) == [names[position] for position in picked]
        assert [name for batch in ids.batches(8) for name in batch["id"].to_pylist()] == names


def test_ids_that_are_not_in_hash_order_are_found(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(500)]
    ids = stored(tmp_path, names, by_hash=False)
    assert [ids.find(name) for name in names[::50]] == list(range(0, 500, 50))


def test_prepare_orders_ids_by_hash(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = small_config(), str(tmp_path / "run")
    prepare(config, root)
    ids = open_ids(config, root, "user", 40)
    names = pq.read_table(f"{root}/graph/vocab/user")["id"].to_pylist()
    assert names == by_md5(names)
    assert [ids.find(name) for name in names] == list(range(40))


def test_the_hash_limits_the_search(tmp_path: Path, read_groups: list[int]) -> None:
    names = by_md5([f"n{number}" for number in range(7_000)])  # a thousand row groups
    ids = stored(tmp_path, names)
    for position in range(0, 7_000, 250):
        read_groups.clear()
        assert ids.find(names[position]) == position
        assert len(read_groups) <= 2 * (4 * 84 + 4) / 7 + 2  # √7000 = 83.7
    read_groups.clear()
    assert ids.find("x") is None
    assert len(read_groups) < 100
    read_groups.clear()
    assert ids.at(np.array([6_999, 0, 6_998, 0])) == [names[6_999], names[0], names[6_998], names[0]]
    assert read_groups == [0, 999]


def test_the_search_window_is_wide_enough() -> None:
    """It contains every one of a million ids, with a wide margin."""
    hashes = np.array([int(hashlib.md5(f"u{number}".encode()).hexdigest()[:15], 16) for number in range(1_000_000)])
    off = np.sort(hashes) / 16**15 * 1_000_000 - np.arange(1_000_000)
    assert np.abs(off).max() < 4 * 1_000 / 2


def test_similar_ids_have_a_small_edit_distance(tmp_path: Path) -> None:
    names = by_md5(["ann", "anna", "hanna", "bob", "johanna", "it's"])
    ids = stored(tmp_path, names)
    assert similar_ids(ids, "Anna") == ["anna", "ann", "hanna"]  # 1, 2 and 2 letters
    assert similar_ids(ids, "its")[0] == "it's"
    with pytest.raises(NotFound, match=r"^user: no node has the id 'hana'; near it: 'hanna', 'ann', 'anna'$") as error:
        find_or_refuse(ids, "user", "hana")
    assert isinstance(error.value, UserError)
    assert isinstance(error.value, KeyError)
    assert sorted(similar_ids(ids, "x", compared=2)) == sorted(names[:2])


def test_an_empty_table_has_no_similar_ids(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"^user: no node has the id 'x': the table is empty$"):
        find_or_refuse(stored(tmp_path, []), "user", "x")
