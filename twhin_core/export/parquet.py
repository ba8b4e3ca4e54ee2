"""`embeddings/<table>/part-*.parquet`: index, id and embedding, sorted by index, in files to be loaded in parallel."""

from __future__ import annotations

import pyarrow as pa

from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.vector_set import VectorSet
from twhin_core.parquet import write_parts
from twhin_core.progress import Progress


def write(vector_set: VectorSet, progress: Progress) -> FormatExport:
    vector = pa.list_(pa.float32(), vector_set.dim)
    schema = pa.schema([("index", pa.int64()), ("id", pa.string()), ("embedding", vector)])
    batches = (
        pa.RecordBatch.from_arrays([block.index, block.id, block.embedding()], schema=schema)
        for block in vector_set.blocks(progress)
    )
    folder, rows_per_file = f"{FOLDER}/{vector_set.name}", vector_set.run.config.export.rows_per_file
    files = write_parts(batches, schema, vector_set.run.root, folder, rows_per_file)
    return FormatExport(table=vector_set.table, query_side=vector_set.relation, rows=vector_set.size, files=files)
