"""`embeddings/vertex/<table>/*.json`: input for a batch update of Vertex AI Vector Search.

One node per line, `{"id": …, "embedding": […]}` in UTF-8. The folder is the root of the batch: it may contain no other
files, and at most 5,000 in total.
https://cloud.google.com/vertex-ai/docs/vector-search/setup/format-structure
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import duckdb
import pyarrow as pa

from twhin_core import storage
from twhin_core.checksum import ChecksumWriter
from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.prior import extended
from twhin_core.export.vector_set import VectorSet
from twhin_core.parquet import FileEntry
from twhin_core.progress import Progress
from twhin_core.vectors.named import Block

# DuckDB's text for a list of floats is JSON, with the fewest digits that round-trip.
LINES = """SELECT '{"id": ' || to_json(id) || ', "embedding": ' || embedding::VARCHAR || '}' || chr(10) FROM block"""


def write(vector_set: VectorSet, progress: Progress) -> FormatExport:
    vector_set, prior = extended(vector_set)
    rows_per_file = vector_set.run.config.export.rows_per_file
    blocks = _cut(vector_set.blocks(progress), rows_per_file)
    files: list[FileEntry] = []
    with duckdb.connect() as database:
        for number, part in itertools.groupby(blocks, key=lambda numbered: numbered[0] // rows_per_file):
            path = f"{FOLDER}/vertex/{vector_set.name}/part-{number:05d}.json"
            rows = 0
            with storage.open_write(storage.join(vector_set.run.root, path)) as file:
                checksum = ChecksumWriter(file)
                for _, block in part:
                    checksum.write(_lines(database, block))
                    rows += len(block)
                files.append(FileEntry(path=path, rows=rows, **checksum.checksums()))
    return FormatExport(table=vector_set.table, rows=vector_set.size, files=files, prior=prior)


def _cut(blocks: Iterator[Block], rows_per_file: int) -> Iterator[tuple[int, Block]]:
    """Splits blocks where a file ends. Yields each block with the position of its first row."""
    start = 0
    for block in blocks:
        while len(block):
            room = min(rows_per_file - start % rows_per_file, len(block))
            yield start, block.slice(0, room)
            start += room
            block = block.slice(room, len(block))


def _lines(database: duckdb.DuckDBPyConnection, block: Block) -> bytes:
    database.register("block", pa.table({"id": block.id, "embedding": block.embedding()}))
    return "".join(database.sql(LINES).to_arrow_table().column(0).to_pylist()).encode()
