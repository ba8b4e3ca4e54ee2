"""`embeddings/npy/<table>.npy`: float32 [rows, dim], to be mapped into memory; the row's ids are in a file beside."""

from __future__ import annotations

import io

import numpy as np

from twhin_core import storage
from twhin_core.checksum import ChecksumWriter
from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.vector_set import VectorSet
from twhin_core.parquet import FileEntry, write_part
from twhin_core.progress import Progress
from twhin_core.vectors.ids import SCHEMA


def write(vector_set: VectorSet, progress: Progress) -> FormatExport:
    path = f"{FOLDER}/npy/{vector_set.name}.npy"
    with storage.open_write(storage.join(vector_set.run.root, path)) as file:
        checksum = ChecksumWriter(file)
        checksum.write(header((vector_set.size, vector_set.dim)))
        for block in vector_set.blocks(progress):
            checksum.write(block.vectors.numpy())
        sha256 = checksum.hexdigest()
    files = [FileEntry(path=path, rows=vector_set.size, sha256=sha256), write_ids(vector_set, "npy")]
    return FormatExport(table=vector_set.table, query_side=vector_set.relation, rows=vector_set.size, files=files)


def header(shape: tuple[int, ...]) -> bytes:
    """What an npy file of float32 values in C order begins with."""
    begin = io.BytesIO()
    np.lib.format.write_array_header_1_0(begin, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return begin.getvalue()


def write_ids(vector_set: VectorSet, folder: str) -> FileEntry:
    """`<folder>/<table>.ids.parquet`: the index in the table and the id of each row, in the same order."""
    path = f"{FOLDER}/{folder}/{vector_set.name}.ids.parquet"
    return write_part(vector_set.names(), SCHEMA, vector_set.run.root, path)
