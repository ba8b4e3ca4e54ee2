"""Rotates what is exported onto an earlier version's export (`export.align`), for those who use the vectors of both.

The matrix is fitted once for a checkpoint and kept beside the vectors: whoever reads the checkpoint applies it too.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ValidationError

from twhin_core import storage
from twhin_core.data.prefetch import Ahead
from twhin_core.errors import Damaged, UserError
from twhin_core.export.earlier import KEY, EarlierExport, earlier_root
from twhin_core.export.manifest import FINISHED, FOLDER, Aligned, AlignedTable
from twhin_core.export.npy import write_array
from twhin_core.graph.copies import copy_file
from twhin_core.parquet import VECTOR_BYTES_PER_GROUP
from twhin_core.progress import Progress, log
from twhin_core.scratch import scratch
from twhin_core.sizes import in_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from twhin_core.export.vector_set import TrainedRun
    from twhin_core.vectors.rotation import Overlap

RECORD = f"{FINISHED}/rotation.json"


class Record(BaseModel):
    """The matrix of an export that was killed, or that another format is added to."""

    made_from: str
    aligned: Aligned


def align(run: TrainedRun, made_from: str) -> Aligned:
    """Fits the rotation onto the earlier version's export, and writes it; once for what it is `made_from`.

    Files of a finished export stay as they are.

    Raises:
        UserError: as `EarlierExport`; or no node of this run was exported there; or the ids cannot be matched.
    """
    root = earlier_root(run.config, run.root)
    made_from = _digest(made_from, root)
    if (kept := _read_record(run.root, made_from)) is not None:
        return kept
    earlier = EarlierExport(root, run.config.model.dim, run.schema.tables)
    rotation, tables = fit(run, earlier)
    path = f"{FOLDER}/rotation-{made_from}.npy"
    file = write_array(run.root, path, tuple(rotation.shape), [rotation.numpy()])
    aligned = Aligned(root=root, checkpoint=earlier.manifest.checkpoint, rotation=file, tables=tables)
    _write_record(run.root, made_from, aligned)
    return aligned


def adopt(run: TrainedRun, made_from: str, source: str, aligned: Aligned) -> None:
    """Lets `align` find the matrix of the export at `source`, a run of the same vectors, instead of fitting one."""
    copy_file(storage.join(source, aligned.rotation.path), storage.join(run.root, aligned.rotation.path))
    _write_record(run.root, _digest(made_from, aligned.root), aligned)


def fit(run: TrainedRun, earlier: EarlierExport) -> tuple[Tensor, dict[str, AlignedTable]]:
    """The matrix [dim, dim], float32, and by table how near nodes of both versions are without it and with it.

    Streams the earlier vectors, and gathers this run's. Memory is bounded by `evaluation.memory_limit` and a block.

    Raises:
        UserError: the two have no node in common, a vocabulary is broken, or the ids cannot be matched.
    """
    from twhin_core.vectors import rotation as procrustes

    with scratch("align") as folder:
        overlaps = {table: _overlap(run, earlier, table, folder / str(at)) for at, table in enumerate(earlier.tables)}
    overlaps = {table: of for table, of in overlaps.items() if of.pairs}
    if not overlaps:
        raise UserError(f"{KEY}: {earlier.root} has exported none of this run's nodes ({', '.join(earlier.tables)})")
    rotation = procrustes.fit(overlaps.values())
    tables = {}
    for table, of in overlaps.items():
        tables[table] = found = AlignedTable(
            nodes=of.pairs, cosine_before=of.cosine(), cosine_after=of.cosine(rotation)
        )
        log.info(
            "export: table %s: aligned with step %s of %s: mean cosine %.4f instead of %.4f, of %s nodes",
            table, f"{earlier.manifest.checkpoint:,}", earlier.root, found.cosine_after, found.cosine_before,
            f"{found.nodes:,}",
        )  # fmt: skip
    return rotation.float(), tables


def _overlap(run: TrainedRun, earlier: EarlierExport, table: str, path: Path) -> Overlap:
    from twhin_core.vectors.matching import Names, match
    from twhin_core.vectors.named import named_blocks
    from twhin_core.vectors.parquet_rows import ParquetRows
    from twhin_core.vectors.rotation import Overlap

    entry, dim, ids = earlier.tables[table], earlier.manifest.dim, earlier.ids(table)
    size = entry.rows + entry.unnamed_rows
    names = Names(f"{entry.rows:,} nodes of table {table}", KEY, earlier.root, "evaluation.memory_limit")
    match(path, range(size), ids, run.ids(table), in_bytes(run.config.evaluation.memory_limit), names)
    here, vectors = np.memmap(path, np.int64, "r"), run.checkpoint.rows(table)
    overlap, batches = Overlap(dim), ids.batches(max(1, VECTOR_BYTES_PER_GROUP // (4 * dim)))
    blocks = named_blocks(batches, ParquetRows(earlier.files(table), dim))
    with Progress(f"align {table}", entry.rows, "rows") as progress, Ahead(blocks) as ahead:
        for block in ahead:
            rows = here[block.index.to_numpy()]
            overlap.add(vectors.gather(rows[rows >= 0]), block.vectors[rows >= 0])
            progress.update(len(block))
    return overlap


def read_rotation(root: str, aligned: Aligned) -> Tensor:
    """The matrix under a run root: float32 [dim, dim]. Raises Damaged if its file is missing or has changed."""
    import torch

    aligned.rotation.check(root)
    content = storage.read_bytes(storage.join(root, aligned.rotation.path))
    return torch.from_numpy(np.load(io.BytesIO(content)))


def _digest(made_from: str, earlier: str) -> str:
    return hashlib.sha256(f"{made_from} {earlier}".encode()).hexdigest()[:16]


def _write_record(root: str, made_from: str, aligned: Aligned) -> None:
    storage.write_json(storage.join(root, RECORD), Record(made_from=made_from, aligned=aligned).model_dump())


def _read_record(root: str, made_from: str) -> Aligned | None:
    try:
        record = Record.model_validate(storage.find_json(storage.join(root, RECORD)))
        record.aligned.rotation.check(root)
    except (ValidationError, Damaged):  # no record, or one of another version, or a damaged one
        return None
    return record.aligned if record.made_from == made_from else None
