"""Raw files with names of every kind, and what is in them, for tests of what reads them."""

from __future__ import annotations

import gzip
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core import storage

NAMES = [
    "p1.csv", "p[1].csv", "a*.csv", "ab.csv", "q?.tsv", "qx.tsv", "p[1].parquet", "p1.parquet", "[[]].csv.gz",
    "{a,b}.csv", "é 'q\".parquet", "c%20d.csv", "c d.csv", "#x.csv", "d[1]/p.csv", "d1/p.csv", "*/p.parquet",
    "day=1/p[1].csv", "day=1/p.parquet", "day=2023-01-02/kind=a%2Fb c/p.csv", "a+b,c;d.csv",
]  # fmt: skip
ON_A_DISK = ["~tilde.csv", "file:a.csv", "new\nline.csv"]


def write_named(folder: str, names: list[str]) -> None:
    """A file for each name with one edge, from `of <name>` to `item`."""
    for name in names:
        with storage.open_write(f"{folder}/{name}") as file:
            file.write(_content(name))


def _content(name: str) -> bytes:
    if name.endswith("parquet"):
        file = io.BytesIO()
        pq.write_table(pa.table({"lhs": [f"of {name}"], "rhs": ["item"]}), file)
        return file.getvalue()
    quoted = f"of {name}" if ".tsv" in name else '"of ' + name.replace('"', '""') + '"'
    text = f"lhs,rhs\n{quoted},item\n".encode()
    if ".tsv" in name:
        text = text.replace(b",", b"\t")
    return gzip.compress(text) if name.endswith(".gz") else text


def expected_rows(folder: str, names: list[str]) -> list[dict[str, Any]]:
    """lhs and file of each edge."""
    return sorted(({"lhs": f"of {name}", "file": f"{folder}/{name}"} for name in names), key=str)
