"""Rows of two vocabularies matched by their ids, against a dictionary."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.vectors.ids import ListedIds, NumberedIds
from twhin_core.vectors.matching import Names, match

NAMED = Names("nodes", "key", "root", None)

NAMES = st.lists(st.text(max_size=3) | st.sampled_from(["1", "01", "a", "A", "ä", "a\0"]), unique=True, max_size=30)


@st.composite
def vocabularies(draw: st.DrawFn) -> dict[str, int]:
    """The index of each id: in any order, with gaps."""
    names = draw(NAMES)
    index = draw(st.lists(st.integers(0, 60), unique=True, min_size=len(names), max_size=len(names)))
    return dict(zip(names, index, strict=True))


def stored(index: dict[str, int], folder: Path, name: str) -> ListedIds:
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table({"index": pa.array(index.values(), pa.int64()), "id": pa.array(index, pa.string())}), path)
    return ListedIds([str(path)], str(path))


@settings(max_examples=60)
@given(here=vocabularies(), there=vocabularies(), bounds=st.tuples(st.integers(0, 61), st.integers(0, 61)))
def test_each_row_finds_the_row_of_its_id(here: dict[str, int], there: dict[str, int], bounds: tuple[int, int]) -> None:
    rows = range(min(bounds), max(bounds))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        match(folder / "found", rows, stored(here, folder, "here"), stored(there, folder, "there"), 0, NAMED)
        found = np.fromfile(folder / "found", np.int64)[: len(rows)]
    id_of = {index: name for name, index in here.items()}
    assert found.tolist() == [there.get(id_of.get(row, "none of them"), -1) for row in rows]


def test_numbers_match_as_text(tmp_path: Path) -> None:
    there = stored({"2": 0, "02": 1, "x": 2, "0": 3}, tmp_path, "there")
    match(tmp_path / "found", range(3), NumberedIds(3), there, 0, NAMED)
    assert np.fromfile(tmp_path / "found", np.int64).tolist() == [3, -1, 0]
