"""Whatever is wrong with a raw file, prepare stops with one line that names it; nothing damaged is read unnoticed."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.graph.test_sources import read, refused
from twhin_core.config.prepare import Prepare
from twhin_core.config.sources import Source
from twhin_core.errors import UserError
from twhin_core.graph.connect import connect
from twhin_core.graph.raw_files import check_sources

ROWS = [(f"{i * 7919 % 1003}", f"{i * 104729 % 991}") for i in range(3000)]
CSV = "".join(",".join(row) + "\n" for row in [("lhs", "rhs"), *ROWS]).encode()


def as_parquet(**options: Any) -> bytes:
    file = io.BytesIO()
    lhs, rhs = zip(*ROWS, strict=True)
    pq.write_table(pa.table({"lhs": lhs, "rhs": rhs}), file, row_group_size=1000, **options)
    return file.getvalue()


WHOLE = {
    "a.csv": CSV,
    "a.tsv": CSV.replace(b",", b"\t"),
    "a.csv.gz": gzip.compress(CSV),
    "snappy.parquet": as_parquet(),
    "zstd.parquet": as_parquet(compression="zstd", use_dictionary=False),
    "pages-v2.parquet": as_parquet(compression="gzip", data_page_version="2.0"),
    "plain.parquet": as_parquet(compression="none"),
}


def damaged(whole: bytes, rng: random.Random) -> bytes:
    data = bytearray(whole)
    at = rng.randrange(len(data))
    kind = rng.choice(["flip", "cut", "zeros", "junk", "append", "line ends"])
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "append":
        data += rng.randbytes(30)
    elif kind == "line ends":
        data = data.replace(b"\n", b"\r\n", 1 + rng.randrange(3))
    else:
        end = min(at + 50, len(data))
        data[at:end] = rng.randbytes(end - at) if kind == "junk" else bytes(end - at)
    return bytes(data)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 12), marks=pytest.mark.slow)], ids=str)
def test_damage_is_refused_in_a_line_or_yields_rows(tmp_path: Path, name: str, seed: int | range) -> None:
    path = tmp_path / name
    for number in range(8) if isinstance(seed, int) else seed:
        rng = random.Random(number)
        for _ in range(1 if isinstance(seed, int) else 8):
            path.write_bytes(damaged(WHOLE[name], rng))
            try:
                rows = {(row[0], row[2]) for row in read(Source(path=str(path), relation="r"))}
            except UserError as error:
                line = str(error)
            else:
                line = f"{path}: read"
                assert not name.endswith(".gz") or rows == set(ROWS)
            assert line.startswith(f"{path}: ")
            assert "\n" not in line


# --- a table of provoked errors ----------------------------------------------------------------------------------


def milliseconds() -> bytes:
    file = io.BytesIO()
    times = pa.array([2**62, *range(39)], pa.timestamp("ms"))
    table = pa.table({"lhs": ["a"] * 40, "rhs": ["b"] * 40, "time": times})
    pq.write_table(table, file, write_statistics=False)
    return file.getvalue()


def not_text() -> bytes:
    file = io.BytesIO()
    letters = pa.array([b"ok", b"\xff\xfe"])
    pq.write_table(pa.table({"lhs": pa.Array.from_buffers(pa.string(), 2, letters.buffers()), "rhs": ["a", "b"]}), file)
    return file.getvalue()


ZIPPED = gzip.compress(CSV)
PROVOKED: dict[str, tuple[str, bytes, str]] = {
    "rows of other line ends": ("a.csv", CSV + b"a,b\r\nc,d\r\n", "line 3002: ends in '\\r\\n'"),
    "old line ends": ("a.csv", CSV + b"a,b\rc,d\r", "line 3002: ends in '\\r'"),
    "one line of other ends": ("a.tsv", b"lhs\trhs\na\tb\r\nc\td\n", "line 2: ends in '\\r\\n'"),
    "the header alone": ("a.csv", b"lhs,rhs\r\na,b\nc,d\n", "line 2: ends in '\\n'"),
    "no text": ("a.csv", CSV + b"\xff,c\n", "line 3002: not a CSV in UTF-8"),
    "no text, early": ("a.csv", b"lhs,rhs\n" + b"a,b\n" * 70 + b"\xe9,c\n", "line 72: not a CSV in UTF-8"),
    "no text, packed": ("a.tsv.gz", gzip.compress(b"lhs\trhs\n" + b"a\tb\n" * 9000 + b"\xe9\tc\n"), "line 9002: not"),
    "UTF-16": ("a.csv", "lhs,rhs\na,b\n".encode("utf-16"), "line 1: not a CSV in UTF-8"),
    "UTF-16 without a mark": ("a.csv", "lhs,rhs\na,b\n".encode("utf-16-le"), "has no column 'lhs'"),
    "a field too few": ("a.csv", CSV + b"a\n", "line 3002: Expected Number of Columns: 2 Found: 1"),
    "an open quote": ("a.csv", CSV + b'a,"b\n', "line 3002: "),
    "a wrong checksum": ("a.csv.gz", ZIPPED[:-8] + b"\0\0\0\0" + ZIPPED[-4:], "gzipped data is damaged: CRC check"),
    "a wrong size": ("a.csv.gz", ZIPPED[:-4] + b"\0\0\0\0", "gzipped data is damaged: Incorrect length"),
    "rubbish after it": ("a.csv.gz", ZIPPED + b"ghost,ghost\n", "gzipped data is damaged: Not a gzipped file"),
    "half of it": ("a.csv.gz", ZIPPED[: len(ZIPPED) // 2], "gzipped data is damaged: Compressed file ended"),
    "not packed": ("a.csv.gz", CSV, "line 1: not a CSV: Not a gzipped file"),
    "a page cut out": ("a.parquet", WHOLE["zstd.parquet"][:2000] + bytes(500) + WHOLE["zstd.parquet"][2500:], "file"),
    "not Parquet": ("a.parquet", CSV, "not a complete Parquet file"),
    "ids that are no text": ("a.parquet", not_text(), "not valid UTF8"),
    "milliseconds without statistics": ("a.parquet", milliseconds(), "Could not convert Timestamp(MS)"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROVOKED)
def test_a_provoked_error_names_the_file(tmp_path: Path, case: str) -> None:
    name, data, said = PROVOKED[case]
    columns = {"timestamp": "time"} if case.startswith("milli") else {}
    for number in (0, 2):  # whole files around it
        (tmp_path / f"{number}-{name}").write_bytes(good(name, columns))
    (tmp_path / f"1-{name}").write_bytes(data)
    message = refused(Source(path=str(tmp_path), relation="r", **columns))
    assert message.startswith(f"{tmp_path}/1-{name}: ")
    assert said in message, message


def good(name: str, columns: dict[str, str]) -> bytes:
    if name == "a.parquet":
        file = io.BytesIO()
        times = pa.array([0], pa.timestamp("ms"))
        pq.write_table(pa.table({"lhs": ["a"], "rhs": ["b"], **({"time": times} if columns else {})}), file)
        return file.getvalue()
    data = b"lhs\trhs\na\tb\n" if ".tsv" in name else b"lhs,rhs\na,b\n"
    return gzip.compress(data) if name.endswith(".gz") else data


@pytest.mark.parametrize(
    "act", [Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(CSV[:9])]
)
def test_a_file_that_goes_or_shrinks_while_it_is_read(tmp_path: Path, act: Callable[[Path], Any]) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(WHOLE["plain.parquet"])
    source = Source(path=str(path), relation="r")
    checked = check_sources([source])
    act(path)
    with pytest.raises(UserError) as raised, connect(Prepare(sources=[source])) as engine:
        engine.keep("rows", engine.read(checked))
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("seed", range(12))
def test_the_line_of_a_bad_byte(tmp_path: Path, seed: int) -> None:
    """Among drawn rows of which some have line ends in quotes, in files of three kinds."""
    rng = random.Random(seed)
    end = rng.choice(["\n", "\r\n"])
    rows = [f'"a{end * rng.randrange(3)}",b{end}' for _ in range(rng.choice([50, 20_000]))]
    at = rng.randrange(len(rows))
    before = f"lhs,rhs{end}" + "".join(rows[:at])
    data = before.encode() + b"x\xff," + "".join(rows[at:]).encode()
    path = tmp_path / ("a.csv.gz" if seed % 3 == 0 else "a.csv")
    path.write_bytes(gzip.compress(data) if seed % 3 == 0 else data)
    line = before.count("\n") + 1
    assert refused(Source(path=str(path), relation="r")).startswith(f"{path}: line {line}: not a CSV in UTF-8")


@pytest.mark.parametrize("seed", range(12))
def test_mixed_line_ends_are_refused_at_their_line(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    usual, other = rng.sample(["\n", "\r\n", "\r"], 2)
    lines = [f"u{i},i{i}" for i in range(rng.choice([5, 200_000]))]
    at = rng.randrange(len(lines))
    text = f"lhs,rhs{usual}" + "".join(line + (other if i == at else usual) for i, line in enumerate(lines))
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert refused(Source(path=str(path), relation="r")).startswith(f"{path}: line {at + 2}: ends in {other!r}")


@pytest.mark.parametrize("parts", [[CSV], [CSV, b"a,b\n", b"c,d\n"], [CSV, b""]])
def test_what_gzip_allows_is_read(tmp_path: Path, parts: list[bytes]) -> None:
    """Several members in one file."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(b"".join(map(gzip.compress, parts)))
    rows = [(row[0], row[2]) for row in read(Source(path=str(path), relation="r"))]
    expected = [tuple(line.split(",")) for line in b"".join(parts).decode().splitlines()[1:]]
    assert sorted(rows) == sorted(expected)


COLUMNS = [
    ["LHS", "lhs", "rhs"], ["lhs", "LHS", "rhs"], ["rhs", "Lhs", "lHs", "lhs"], ["lhs", "rhs", "lhs_1", "LHS"],
    ["file", "lhs", "rhs"], ["FILE", "file_", "lhs", "rhs"], ["filename", "file", "File", "rhs", "lhs"],
    ["x", "x", "lhs", "rhs"], ["x", "X", "x_1", "rhs", "lhs"], ["c0", "rhs", "c1", "lhs"], ["", "rhs", 'a"b', "lhs"],
    ["twhin_file", "lhs", "rhs"],
]  # fmt: skip


@pytest.mark.parametrize("columns", COLUMNS, ids=str)
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_columns_that_differ_by_case_or_clash(tmp_path: Path, columns: list[str], form: str) -> None:
    values = [f"value {name}" for name in columns]
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_arrays([pa.array([value]) for value in values], columns), path)
    else:
        quoted = ('"' + name.replace('"', '""') + '"' for name in columns)
        path.write_text(f"{','.join(quoted)}\n{','.join(values)}\n")
    rows = read(Source(path=str(path), relation="r"))
    assert rows == [("value lhs", "r", "value rhs", 1.0, None, None)]
