"""Rotates what is exported onto an earlier version's export (`export.align`), for those who use the vectors of both.

The matrix is fitted once for a checkpoint and kept beside the vectors: whoever reads the checkpoint applies it too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from twhin_core import storage
from twhin_core.errors import UserError
from twhin_core.export.earlier import ALIGN, EarlierExport, earlier_root, open_aligned
from twhin_core.export.manifest import FINISHED, FOLDER, Aligned, AlignedTable
from twhin_core.export.npy import read_array, write_array
from twhin_core.graph.copies import copy_file
from twhin_core.progress import log
from twhin_core.records import Record, read_record
from twhin_core.scratch import scratch
from twhin_core.sizes import count_of

if TYPE_CHECKING:
    from torch import Tensor

    from twhin_core.export.vector_set import TrainedRun
    from twhin_core.vectors.rotation import Overlap

RECORD = f"{FINISHED}/rotation.json"


class RotationRecord(Record):
    """The matrix of an export that was killed, or that another format is added to."""

    aligned: Aligned


def align(run: TrainedRun, made_from: str) -> Aligned:
    """Fits the rotation onto the earlier version's export, and writes it; once for what it is `made_from`.

    Files of a finished export stay as they are.

    Raises:
        UserError: as `open_aligned`; or no node of this run was exported there; or the ids cannot be matched.
    """
    place = run.config.export.align
    assert place is not None
    root = earlier_root(ALIGN, place, run.config, run.root)
    made_from = _digest(made_from, root)
    if (kept := _read_record(run.root, made_from)) is not None:
        return kept
    earlier = open_aligned(run.config, root, run.schema.tables)
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
        raise UserError(f"{ALIGN}: {earlier.root} has exported none of this run's nodes ({', '.join(earlier.tables)})")
    rotation = procrustes.fit(overlaps.values())
    tables = {}
    for table, of in overlaps.items():
        tables[table] = found = AlignedTable(
            nodes=of.pairs, cosine_before=of.cosine(), cosine_after=of.cosine(rotation)
        )
        log.info(
            "export: table %s: aligned with step %s of %s: mean cosine %.4f instead of %.4f, of %s",
            table, f"{earlier.manifest.checkpoint:,}", earlier.root, found.cosine_after, found.cosine_before,
            count_of(found.nodes, "node"),
        )  # fmt: skip
    return rotation.float(), tables


def _overlap(run: TrainedRun, earlier: EarlierExport, table: str, path: Path) -> Overlap:
    from twhin_core.export.shared_nodes import SharedNodes
    from twhin_core.vectors.rotation import Overlap

    overlap = Overlap(earlier.manifest.dim)
    for of in SharedNodes(run, earlier, table, path).vectors(run.checkpoint.rows(table), "align"):
        overlap.add(of.now, of.before)
    return overlap


def read_rotation(root: str, aligned: Aligned) -> Tensor:
    """The matrix under a run root: float32 [dim, dim]. Raises Damaged if its file is missing or has changed."""
    import torch

    return torch.from_numpy(read_array(root, aligned.rotation))


def _digest(made_from: str, earlier: str) -> str:
    return hashlib.sha256(f"{made_from} {earlier}".encode()).hexdigest()[:16]


def _write_record(root: str, made_from: str, aligned: Aligned) -> None:
    storage.write_json(storage.join(root, RECORD), RotationRecord(made_from=made_from, aligned=aligned).model_dump())


def _read_record(root: str, made_from: str) -> Aligned | None:
    record = read_record(RotationRecord, storage.join(root, RECORD), made_from)
    return record.aligned if record is not None and record.aligned.rotation.is_whole(root) else None
