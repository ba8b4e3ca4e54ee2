"""`embeddings/pq/<table>/part-*.parquet`: a vector as a few bytes, by product quantization (Jégou et al., 2011).

A vector is cut into `subspaces` parts of equal length, and each part stands for the nearest of 2^bits centroids, which
are learned by k-means from a sample. `<table>.codebooks.npy` is float32 [subspaces, 2^bits, dim / subspaces]; column
`code` holds a byte a sub-space with 8 bits, and two sub-spaces a byte with 4, the first in the low half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twhin_core import storage
from twhin_core.checksum import ChecksumWriter
from twhin_core.config.export import Pq
from twhin_core.errors import UserError
from twhin_core.export import faiss_library
from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.npy import header
from twhin_core.export.vector_set import VectorSet
from twhin_core.parquet import FileEntry, write_parts
from twhin_core.progress import Progress
from twhin_core.vectors.rows import MappedRows, Rows

TRAINED_ON = 65_536
"""Rows that the centroids are learned from, or all if there are fewer."""


def check(vector_set: VectorSet) -> None:
    """Raises UserError if the table has fewer rows than there are centroids, or faiss is not installed."""
    faiss_library.load()
    bits = _options(vector_set).bits
    if vector_set.size < 2**bits:
        raise UserError(
            f"export.pq.bits: {bits} bits are {2**bits} centroids a sub-space, more than the {vector_set.size} rows of "
            f"{vector_set.name}; take fewer bits, or leave the table out of export.tables"
        )


def write(vector_set: VectorSet, progress: Progress) -> FormatExport:
    options, folder = _options(vector_set), f"{FOLDER}/pq/{vector_set.name}"
    subspaces = options.subspaces or default_subspaces(vector_set.dim)
    quantizer = _quantizer(vector_set.dim, subspaces, options.bits)
    quantizer.cp.min_points_per_centroid = 1  # few rows are no reason to warn
    quantizer.train(vector_set.rows.gather(vector_set.sample(TRAINED_ON)).numpy())
    code = pa.list_(pa.uint8(), quantizer.code_size)
    schema = pa.schema([("index", pa.int64()), ("id", pa.string()), ("code", code)])
    batches = (
        pa.RecordBatch.from_arrays(
            [
                block.index,
                block.id,
                pa.FixedSizeListArray.from_arrays(
                    pa.array(quantizer.compute_codes(block.vectors.numpy()).ravel()), type=code
                ),
            ],
            schema=schema,
        )
        for block in vector_set.blocks(progress)
    )
    files = write_parts(batches, schema, vector_set.run.root, folder, vector_set.run.config.export.rows_per_file)
    codebooks = faiss_library.load().vector_to_array(quantizer.centroids).reshape(subspaces, 2**options.bits, -1)
    files.append(_write_codebooks(vector_set.run.root, codebooks_path(vector_set.name), codebooks))
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
    """Other rows as pq gives them back: encoded by codebooks, and decoded."""
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
    """An eighth of the dim: a code is 32 times smaller than the vector; a quarter where 8 does not divide the dim."""
    return dim // (4 if dim % 8 else 8)


def _options(vector_set: VectorSet) -> Pq:
    return vector_set.run.config.export.pq or Pq()


def _quantizer(dim: int, subspaces: int, bits: int) -> Any:
    return faiss_library.load().ProductQuantizer(dim, subspaces, bits)


def _write_codebooks(root: str, path: str, codebooks: npt.NDArray[np.float32]) -> FileEntry:
    with storage.open_write(storage.join(root, path)) as file:
        checksum = ChecksumWriter(file)
        checksum.write(header(codebooks.shape))
        checksum.write(codebooks)
        return FileEntry(path=path, rows=len(codebooks), sha256=checksum.hexdigest())
