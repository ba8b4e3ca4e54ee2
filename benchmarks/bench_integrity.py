"""What does it cost to check bytes as they are read?

Makes a checkpoint of one table and exports its vectors. Reads both block by block, with and without checks, and copies
the same bytes out of the page cache. Then reads both from disk, after asking the kernel to drop them from its cache.
Ends in one JSON line, all in seconds per GB, each the least of several: the processor time of each way to read warm
files, and the time of each way to read cold ones.

    python -m benchmarks.bench_integrity [--rows 2000000] [--dim 128] [--repeats 5] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bench_export import TABLE, make_config, save
from twhin_core.checkpoints.blocks import Blocks
from twhin_core.checkpoints.checkpoint import Checkpoint, newest
from twhin_core.parquet import FileEntry, StoredFile, write_parts
from twhin_core.vectors.parquet_rows import COLUMN, ParquetRows
from twhin_core.vectors.rows import Rows, blocks

BLOCK_ROWS = 16_384
COPY_BYTES = 1 << 20


def export(root: str, rows: Rows) -> list[FileEntry]:
    """Parquet files of the vectors, laid out as export does."""
    schema = pa.schema([(COLUMN, pa.list_(pa.float32(), rows.dim))])
    batches = (
        pa.RecordBatch.from_arrays(
            [pa.FixedSizeListArray.from_arrays(pa.array(vectors.numpy().ravel()), rows.dim)], schema=schema
        )
        for _, vectors in blocks(rows, BLOCK_ROWS)
    )
    return write_parts(batches, schema, root, "embeddings")


def read(rows: Rows) -> None:
    for start in range(0, rows.size, BLOCK_ROWS):
        rows.read(start, min(start + BLOCK_ROWS, rows.size))


def read_blocks_unchecked(checkpoint: Checkpoint) -> None:
    with mock.patch.object(Blocks, "check"):
        read(checkpoint.rows(TABLE))


def read_pages_unchecked(files: list[StoredFile], dim: int) -> None:
    open_file = pq.ParquetFile

    def open_unchecked(*arguments: Any, **options: Any) -> pq.ParquetFile:
        return open_file(*arguments, **options | {"page_checksum_verification": False})

    with mock.patch.object(pq, "ParquetFile", open_unchecked):
        read(ParquetRows([file._replace(footer=None) for file in files], dim))


def copy(paths: list[str]) -> None:
    """Copies the files' bytes to a buffer that stays in the processor's cache."""
    buffer = bytearray(COPY_BYTES)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def drop(paths: list[str]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(ways: dict[str, Callable[[], None]], paths: list[str], gigabytes: float, repeats: int) -> dict[str, float]:
    """Takes turns, so that whatever else the machine does meets all alike."""
    least: dict[str, float] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            before = time.process_time()
            way()
            least[f"{name}, warm"] = min(least.get(f"{name}, warm", 1e9), time.process_time() - before)
    for _ in range(repeats):
        for name, way in ways.items():
            drop(paths)
            before = time.perf_counter()
            way()
            least[f"{name}, cold"] = min(least.get(f"{name}, cold", 1e9), time.perf_counter() - before)
    return {name: round(seconds / gigabytes, 4) for name, seconds in least.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where files are written; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        save(make_config(options.rows, options.dim), root)
        checkpoint = newest(root)
        assert checkpoint is not None
        rows = checkpoint.rows(TABLE)
        files = [entry.under(root) for entry in export(root, rows)]
        shards = [str(path) for path in Path(checkpoint.url).glob("*.distcp")]
        os.sync()
        gigabytes = options.rows * options.dim * 4 / 1e9
        found = {
            "checkpoint": measure(
                {
                    "copied": lambda: copy(shards),
                    "unchecked": lambda: read_blocks_unchecked(checkpoint),
                    "checked": lambda: read(checkpoint.rows(TABLE)),
                },
                shards, gigabytes, options.repeats,
            ),
            "exported vectors": measure(
                {
                    "copied": lambda: copy([file.url for file in files]),
                    "unchecked": lambda: read_pages_unchecked(files, options.dim),
                    "checked": lambda: read(ParquetRows(files, options.dim)),
                },
                [file.url for file in files], gigabytes, options.repeats,
            ),
        }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
