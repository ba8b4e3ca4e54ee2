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
import torch
from torch import Tensor

from twhin_core import storage
from twhin_core.config.export import Pq
from twhin_core.errors import UserError
from twhin_core.export import faiss_library
from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.npy import header
from twhin_core.export.source import Source
from twhin_core.parquet import FileEntry, write_parts
from twhin_core.progress import Progress
from twhin_core.vectors.rows import Rows

TRAINED_ON = 65_536
"""Rows that the centroids are learned from, or all if there are fewer."""


def check(source: Source) -> None:
    """Raises UserError if the table has fewer rows than there are centroids, or faiss is not installed."""
    faiss_library.load()
    bits = _options(source).bits
    if source.size < 2**bits:
        raise UserError(
            f"export.pq.bits: {bits} bits are {2**bits} centroids a sub-space, more than the {source.size} rows of "
            f"{source.name}; take fewer bits, or leave the table out of export.tables"
        )


def write(source: Source, progress: Progress) -> FormatExport:
    options, folder = _options(source), f"{FOLDER}/pq/{source.name}"
    subspaces = options.subspaces or default_subspaces(source.dim)
    quantizer = _quantizer(source.dim, subspaces, options.bits)
    quantizer.cp.min_points_per_centroid = 1  # few rows are no reason to warn
    quantizer.train(source.rows.gather(source.sample(TRAINED_ON)).numpy())
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
        for block in source.blocks(progress)
    )
    files = write_parts(batches, schema, source.run.root, folder, source.run.config.export.rows_per_file)
    codebooks = faiss_library.load().vector_to_array(quantizer.centroids).reshape(subspaces, 2**options.bits, -1)
    files.append(_write_codebooks(source.run.root, codebooks_path(source.name), codebooks))
    exact, packed = source.size * source.dim * 4, source.size * quantizer.code_size + codebooks.nbytes
    figures = {
        "subspaces": subspaces,
        "bits": options.bits,
        "float_bytes": exact,
        "bytes": packed,
        "ratio": round(exact / packed, 2),
    }
    return FormatExport(table=source.table, rows=source.size, files=files, figures=figures)


class PqRows:
    """Vectors as pq gives them back: other rows, encoded by codebooks and decoded."""

    def __init__(self, rows: Rows, codebooks: npt.NDArray[np.float32]) -> None:
        self._rows = rows
        self.size, self.dim = rows.size, rows.dim
        subspaces, centroids, _ = codebooks.shape
        self._quantizer = _quantizer(rows.dim, subspaces, centroids.bit_length() - 1)
        faiss_library.load().copy_array_to_vector(codebooks.ravel(), self._quantizer.centroids)

    def read(self, start: int, stop: int) -> Tensor:
        return self._given_back(self._rows.read(start, stop))

    def gather(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return self._given_back(self._rows.gather(rows))

    def _given_back(self, vectors: Tensor) -> Tensor:
        return torch.from_numpy(self._quantizer.decode(self._quantizer.compute_codes(vectors.numpy())))


def codebooks_path(table: str) -> str:
    return f"{FOLDER}/pq/{table}.codebooks.npy"


def default_subspaces(dim: int) -> int:
    """An eighth of the dim: a code is 32 times smaller than the vector; a quarter where 8 does not divide the dim."""
    return dim // (4 if dim % 8 else 8)


def _options(source: Source) -> Pq:
    return source.run.config.export.pq or Pq()


def _quantizer(dim: int, subspaces: int, bits: int) -> Any:
    return faiss_library.load().ProductQuantizer(dim, subspaces, bits)


def _write_codebooks(root: str, path: str, codebooks: npt.NDArray[np.float32]) -> FileEntry:
    with storage.open_write(storage.join(root, path)) as file:
        checksum = storage.ChecksumWriter(file)
        checksum.write(header(codebooks.shape))
        checksum.write(codebooks)
        return FileEntry(path=path, rows=len(codebooks), sha256=checksum.hexdigest())
