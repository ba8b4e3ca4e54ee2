"""`embeddings/pq/<table>/part-*.parquet`: vectors of a few bytes each, by product quantization (Jégou et al., 2011).

A vector is split into `subspaces` parts of equal length. Each part is replaced by the nearest of 2^bits centroids,
learned by k-means from a sample. `<table>.codebooks.npy` is float32 [subspaces, 2^bits, dim / subspaces]. The column
`code` has one byte per subspace with 8 bits; with 4 bits, a byte holds two subspaces, the first in its low half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twhin_core.config.export import Pq
from twhin_core.export import faiss_library
from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.npy import write_array
from twhin_core.export.prior import PriorColumn
from twhin_core.export.vector_set import VectorSet
from twhin_core.parquet import write_parts
from twhin_core.progress import Progress
from twhin_core.vectors.named import Block
from twhin_core.vectors.rows import MappedRows, Rows

TRAINED_ON = 65_536
"""Sample size for learning the centroids."""


def write(vector_set: VectorSet, progress: Progress) -> FormatExport:
    options, folder = _options(vector_set), f"{FOLDER}/pq/{vector_set.name}"
    subspaces = options.subspaces or default_subspaces(vector_set.dim)
    quantizer = _quantizer(vector_set.dim, subspaces, options.bits)
    quantizer.cp.min_points_per_centroid = 1  # do not warn about small tables
    quantizer.train(vector_set.rows.gather(vector_set.sample(TRAINED_ON)).numpy())
    code, prior = pa.list_(pa.uint8(), quantizer.code_size), PriorColumn(vector_set)
    schema = pa.schema([("index", pa.int64()), ("id", pa.string()), ("code", code)])

    def encode(block: Block) -> pa.RecordBatch:
        codes = pa.array(quantizer.compute_codes(block.vectors.numpy()).ravel())
        columns = [block.index, block.id, pa.FixedSizeListArray.from_arrays(codes, type=code)]
        return prior.appended(pa.RecordBatch.from_arrays(columns, schema=schema))

    batches = map(encode, vector_set.blocks(progress))
    extended, rows_per_file = prior.with_field(schema), vector_set.run.config.export.rows_per_file
    files = write_parts(batches, extended, vector_set.run.root, folder, rows_per_file)
    codebooks = faiss_library.load().vector_to_array(quantizer.centroids).reshape(subspaces, 2**options.bits, -1)
    files.append(write_array(vector_set.run.root, codebooks_path(vector_set.name), codebooks.shape, [codebooks]))
    exact, packed = vector_set.size * vector_set.dim * 4, vector_set.size * quantizer.code_size + codebooks.nbytes
    figures = {
        "subspaces": subspaces,
        "bits": options.bits,
        "float_bytes": exact,
        "bytes": packed,
        "ratio": round(exact / packed, 2),
    }
    return FormatExport(table=vector_set.table, rows=vector_set.size, files=files, figures=figures)


def decoded_rows(rows: Rows, codebooks: npt.NDArray[np.float32]) -> Rows:
    """`rows` after a round trip through the codebooks (float32 [subspaces, centroids, dim / subspaces])."""
    subspaces, centroids, _ = codebooks.shape
    quantizer = _quantizer(rows.dim, subspaces, centroids.bit_length() - 1)
    faiss_library.load().copy_array_to_vector(codebooks.ravel(), quantizer.centroids)

    import torch

    return MappedRows(
        rows, lambda vectors, _: torch.from_numpy(quantizer.decode(quantizer.compute_codes(vectors.numpy())))
    )


def codebooks_path(table: str) -> str:
    return f"{FOLDER}/pq/{table}.codebooks.npy"


def default_subspaces(dim: int) -> int:
    """dim / 8, which makes a code 32 times smaller than the vector, or dim / 4 if 8 does not divide the dim."""
    return dim // (4 if dim % 8 else 8)


def _options(vector_set: VectorSet) -> Pq:
    return vector_set.run.config.export.pq or Pq()


def _quantizer(dim: int, subspaces: int, bits: int) -> Any:
    return faiss_library.load().ProductQuantizer(dim, subspaces, bits)
