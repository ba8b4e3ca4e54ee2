"""`embeddings/<table>/part-*.parquet`: index, id and embedding, sorted by index, in files to be loaded in parallel."""

from __future__ import annotations

import pyarrow as pa

from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.source import Source
from twhin_core.parquet import write_parts
from twhin_core.progress import Progress


def write(source: Source, progress: Progress) -> FormatExport:
    vector = pa.list_(pa.float32(), source.dim)
    schema = pa.schema([("index", pa.int64()), ("id", pa.string()), ("embedding", vector)])
    batches = (
        pa.RecordBatch.from_arrays([block.index, block.id, block.embedding()], schema=schema)
        for block in source.blocks(progress)
    )
    folder, rows_per_file = f"{FOLDER}/{source.name}", source.run.config.export.rows_per_file
    files = write_parts(batches, schema, source.run.root, folder, rows_per_file)
    return FormatExport(table=source.table, query_side=source.relation, rows=source.size, files=files)
