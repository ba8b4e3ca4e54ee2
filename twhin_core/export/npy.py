"""`embeddings/npy/<table>.npy`: float32 [rows, dim], for memory-mapping. The ids of the rows are in a separate file."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from twhin_core import storage
from twhin_core.checksum import ChecksumWriter
from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.prior import extended
from twhin_core.export.vector_set import VectorSet
from twhin_core.parquet import FileEntry, write_part
from twhin_core.progress import Progress
from twhin_core.vectors.ids import SCHEMA


def write(vector_set: VectorSet, progress: Progress) -> FormatExport:
    vector_set, prior = extended(vector_set)
    blocks = (block.vectors.numpy() for block in vector_set.blocks(progress))
    path = f"{FOLDER}/npy/{vector_set.name}.npy"
    entry = write_array(vector_set.run.root, path, (vector_set.size, vector_set.dim), blocks)
    files = [entry, write_ids(vector_set, "npy")]
    return FormatExport(
        table=vector_set.table, query_side=vector_set.relation, rows=vector_set.size, files=files, prior=prior
    )


def write_array(root: str, path: str, shape: tuple[int, ...], blocks: Iterable[npt.NDArray[np.float32]]) -> FileEntry:
    """Writes an npy file: float32 `shape` in C order, whose values are those of `blocks`."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with storage.open_write(storage.join(root, path)) as file:
        checksum = ChecksumWriter(file)
        checksum.write(header.getvalue())
        for block in blocks:
            checksum.write(block)
        return FileEntry(path=path, rows=shape[0], **checksum.checksums())


def read_array(root: str, entry: FileEntry) -> npt.NDArray[np.float32]:
    """A small npy file under a run root. Raises Damaged if it is missing or has changed."""
    entry.check(root)
    array: npt.NDArray[np.float32] = np.load(io.BytesIO(storage.read_bytes(storage.join(root, entry.path))))
    return array


def write_ids(vector_set: VectorSet, folder: str) -> FileEntry:
    """Writes `<folder>/<table>.ids.parquet`: each row's index in the table and its id, in row order."""
    path = f"{FOLDER}/{folder}/{vector_set.name}.ids.parquet"
    return write_part(vector_set.names(), SCHEMA, vector_set.run.root, path)
