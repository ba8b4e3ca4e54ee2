"""`embeddings/<table>/part-*.parquet`: index, id and embedding, sorted by index, split for parallel loading.

With `model.prior`, the column `prior` has the terms that a row's scores have as a candidate (`TableExport.priors`).
"""

from __future__ import annotations

from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.prior import PriorColumn
from twhin_core.export.vector_set import VectorSet
from twhin_core.parquet import write_parts
from twhin_core.progress import Progress
from twhin_core.vectors import named


def write(vector_set: VectorSet, progress: Progress) -> FormatExport:
    prior, schema = PriorColumn(vector_set), named.schema(vector_set.dim)
    batches = (prior.appended(block.to_batch()) for block in vector_set.blocks(progress))
    folder, rows_per_file = f"{FOLDER}/{vector_set.name}", vector_set.run.config.export.rows_per_file
    files = write_parts(batches, prior.with_field(schema), vector_set.run.root, folder, rows_per_file)
    return FormatExport(table=vector_set.table, query_side=vector_set.relation, rows=vector_set.size, files=files)
