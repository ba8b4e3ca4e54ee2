"""Parquet parts: their rows, checksums and row groups, and incomplete files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twhin_core import parquet
from twhin_core.errors import UserError
from twhin_core.parquet import FileEntry, open_parquet, read_batches, read_row_groups, write_parts

SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.string())])


def batches(*sizes: int) -> list[pa.RecordBatch]:
    """Batches of consecutive numbers."""
    found, start = [], 0
    for size in sizes:
        numbers = list(range(start, start + size))
        found.append(pa.RecordBatch.from_pydict({"n": numbers, "text": [f"row {n}" for n in numbers]}, schema=SCHEMA))
        start += size
    return found


def check(root: Path, entries: list[FileEntry], sizes: list[int]) -> None:
    assert [entry.rows for entry in entries] == sizes
    assert [entry.path for entry in entries] == [f"some/folder/part-{i:05d}.parquet" for i in range(len(sizes))]
    numbers = []
    for entry in entries:
        table = pq.read_table(root / entry.path)
        assert table.schema == SCHEMA
        assert len(table) == entry.rows
        assert hashlib.sha256((root / entry.path).read_bytes()).hexdigest() == entry.sha256
        numbers += table["n"].to_pylist()
    assert numbers == list(range(sum(sizes)))
    assert sorted(path.name for path in (root / "some/folder").iterdir()) == [Path(e.path).name for e in entries]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ([], [0]),
        ([0, 0], [0]),
        ([3], [3]),
        ([10], [10]),
        ([11], [10, 1]),
        ([4, 4, 4], [10, 2]),
        ([0, 10, 0, 10, 0], [10, 10]),
        ([35], [10, 10, 10, 5]),
        ([1] * 25, [10, 10, 5]),
    ],
)
def test_files_have_the_expected_rows(tmp_path: Path, given: list[int], written: list[int]) -> None:
    check(tmp_path, write_parts(batches(*given), SCHEMA, str(tmp_path), "some/folder", rows_per_file=10), written)


def test_files_do_not_depend_on_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 4)
    cuts = [[25], [1] * 25, [7, 0, 11, 7], [4, 4, 4, 4, 4, 4, 1]]
    entries = [
        write_parts(batches(*cut), SCHEMA, str(tmp_path / str(i)), "some/folder", rows_per_file=10)
        for i, cut in enumerate(cuts)
    ]
    assert entries[0] == entries[1] == entries[2] == entries[3]
    metadata = pq.read_metadata(tmp_path / "0" / entries[0][0].path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 2]


def test_the_folder_is_cleared(tmp_path: Path) -> None:
    write_parts(batches(30), SCHEMA, str(tmp_path), "some/folder", rows_per_file=10)
    check(tmp_path, write_parts(batches(12), SCHEMA, str(tmp_path), "some/folder", rows_per_file=10), [10, 2])


def test_a_failed_writer_leaves_no_partial_file(tmp_path: Path) -> None:
    def failing():
        yield from batches(12)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_parts(failing(), SCHEMA, str(tmp_path), "some/folder", rows_per_file=10)
    files = list((tmp_path / "some/folder").iterdir())
    assert [pq.read_table(file).num_rows for file in files] in ([], [10])


def test_an_incomplete_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"n": list(range(1000))}), path)
    with open_parquet(str(path)) as file:
        assert file.metadata.num_rows == 1000
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2], b"n\n1\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"^{path}: not a complete Parquet file: [^\n]+$"), open_parquet(str(path)):
            pass
    with pytest.raises(UserError, match="gone"), open_parquet(str(tmp_path / "gone.parquet")):
        pass


@pytest.mark.parametrize("seed", range(10))
def test_a_changed_part_of_a_file_is_refused_or_read_as_written(tmp_path: Path, seed: int) -> None:
    """Thirty changes each: one bit, or a range of rubbish, anywhere in the file."""
    (entry,) = write_parts(batches(3000), SCHEMA, str(tmp_path), "parts")
    file, path = entry.under(str(tmp_path)), tmp_path / entry.path
    content, rng, refused = path.read_bytes(), np.random.default_rng(seed), 0

    def decode(opened: pq.ParquetFile, group: int) -> list[pa.RecordBatch]:
        return list(read_batches(opened, group, SCHEMA.names, 700))

    def read() -> pa.Table:
        groups = read_row_groups([file], lambda *_: True, decode)
        return pa.Table.from_batches([batch for _, group in groups for batch in group])

    expected = pa.Table.from_batches(batches(3000))
    assert read().equals(expected)
    for _ in range(30):
        changed, at = bytearray(content), int(rng.integers(len(content)))
        if rng.random() < 0.5:
            changed[at] ^= 1 << int(rng.integers(8))
        else:
            changed[at : at + 8] = rng.bytes(len(changed[at : at + 8]))
        path.write_bytes(changed)
        parquet._read_footer.cache_clear()
        try:
            assert read().equals(expected)
        except UserError:
            refused += 1
    assert refused > 20, "most of a file are its pages and its footer"


PAIR = pa.struct([("id", pa.string()), ("score", pa.float32())])
COLUMNS: dict[str, tuple[pa.DataType, object, str]] = {
    # The type of a column, a value, and what is written in place of the values.
    "index": (pa.int64(), 7, "DELTA_BINARY_PACKED"),
    "lhs": (pa.int64(), -(2**63), "DELTA_BINARY_PACKED"),
    "rhs": (pa.string(), "x", "RLE_DICTIONARY"),  # rejected rows have ids there
    "time": (pa.int64(), None, "DELTA_BINARY_PACKED"),
    "rel": (pa.int32(), 3, "RLE_DICTIONARY"),
    "degree": (pa.int64(), 3, "RLE_DICTIONARY"),
    "id": (pa.string(), "x", "PLAIN"),
    "embedding": (pa.list_(pa.float32(), 2), [1.0, 2.0], "PLAIN"),
    "pairs": (pa.list_(PAIR), [{"id": "x", "score": 0.5}], "RLE_DICTIONARY"),
    "numbers": (pa.list_(pa.int64()), [1, 2], "RLE_DICTIONARY"),
}


@pytest.mark.parametrize("names", [list(COLUMNS), *([name] for name in COLUMNS), ["index", "id", "pairs"]])
def test_only_columns_with_repeated_values_get_a_dictionary(tmp_path: Path, names: list[str]) -> None:
    schema = pa.schema([(name, COLUMNS[name][0]) for name in names])
    table = pa.table({name: [COLUMNS[name][1]] * 3 for name in names}, schema)
    (entry,) = write_parts(table.to_batches(), schema, str(tmp_path), "rows")
    assert pq.read_table(tmp_path / entry.path).equals(table)
    group = pq.read_metadata(tmp_path / entry.path).row_group(0)
    for column in map(group.column, range(group.num_columns)):
        wanted = COLUMNS[column.path_in_schema.split(".")[0]][2]
        assert wanted in column.encodings
        assert (wanted == "RLE_DICTIONARY") == ("RLE_DICTIONARY" in column.encodings)
