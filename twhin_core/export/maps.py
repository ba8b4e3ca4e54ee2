"""Maps the exported vectors of each table to the space of an earlier version's export (`export.map`).

The matrices are fitted once for what is exported, and kept beside the vectors. `map_chain` reads them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from twhin_core import storage
from twhin_core.dependents import same_root
from twhin_core.errors import UserError
from twhin_core.evaluation.drift import best, common
from twhin_core.export.earlier import MAP, earlier_root, open_mapped
from twhin_core.export.manifest import FINISHED, FOLDER, TableMap, VersionMap
from twhin_core.export.npy import write_array
from twhin_core.export.shared_nodes import Shared, SharedNodes
from twhin_core.export.vector_set import TrainedRun, exported_rows
from twhin_core.graph.copies import copy_file
from twhin_core.progress import log
from twhin_core.published import series_of
from twhin_core.records import Record, read_record
from twhin_core.scratch import scratch
from twhin_core.vectors.linear_map import Pairs
from twhin_core.vectors.rows import Rows
from twhin_core.vectors.top_k import similar

if TYPE_CHECKING:
    from torch import Tensor

RECORD = f"{FINISHED}/map.json"

HELD_OUT, LEAST_SHARE = 1000, 10
"""How many shared nodes a map is measured on: a tenth, but no more than that many."""
K = 10


class MapRecord(Record):
    """The maps of an export that was killed, or that another format is added to."""

    map: VersionMap


def write_maps(run: TrainedRun, made_from: str) -> VersionMap | None:
    """Fits the maps that `export.map` asks for, and writes them; once for what they are `made_from`.

    Files of a finished export stay as they are.

    Raises:
        UserError: as `open_mapped`; or it is this run itself, no table shares two nodes with it, or the ids cannot be
            matched.
    """
    settings = run.config.export.map
    if settings is None:
        return None
    root = earlier_root(MAP, settings.to, run.config, run.root)
    if same_root(root, run.root):
        raise UserError(f"{MAP}: {root} is this run; name an earlier version")
    made_from = _made_from(run, made_from, root)
    kept = read_record(MapRecord, storage.join(run.root, RECORD), made_from)
    if kept is not None and all(of.matrix.is_whole(run.root) for of in kept.map.tables.values()):
        return kept.map
    earlier = open_mapped(run.config, root, run.schema.tables)
    with scratch("map") as folder:
        shared = {table: SharedNodes(run, earlier, table, folder / str(at)) for at, table in enumerate(earlier.tables)}
        tables = {table: _write_map(run, made_from, table, of) for table, of in shared.items() if len(of) > 1}
    if not tables:
        raise UserError(
            f"{MAP}: {root} has exported fewer than two of this run's nodes of each table ({', '.join(earlier.tables)})"
        )
    for table, of in tables.items():
        log.info(
            "export: table %s: mapped to %s: relative error %.4f, mean cosine %.4f, %.1f %% of the %s nearest kept",
            table, root, of.relative_error, of.cosine, 100 * of.neighbors_kept, K,
        )  # fmt: skip
    version, space = _version_beside(run.root, root), earlier.manifest.space
    found = VersionMap(root=root, version=version, space=space, kind=settings.kind, tables=tables)
    _write_record(run.root, made_from, found)
    return found


def adopt(run: TrainedRun, made_from: str, source: str, found: VersionMap) -> None:
    """Lets `write_maps` find the maps of the export at `source`, a run of the same vectors, instead of fitting some."""
    for of in found.tables.values():
        copy_file(storage.join(source, of.matrix.path), storage.join(run.root, of.matrix.path))
    _write_record(run.root, _made_from(run, made_from, found.root), found)


def _version_beside(root: str, earlier: str) -> str | None:
    """The id of the earlier version if both are of one series."""
    series, other = series_of(root), series_of(earlier)
    if series is None or other is None or not same_root(series, other):
        return None
    return earlier.rstrip("/").rsplit("/", 1)[-1]


def _write_map(run: TrainedRun, made_from: str, table: str, shared: SharedNodes) -> TableMap:
    assert run.config.export.map is not None
    pairs, held = _divide(shared, exported_rows(run, table))
    fitted = pairs.linear() if run.config.export.map.kind == "linear" else pairs.orthogonal()
    matrix = fitted.float().contiguous()
    path = f"{FOLDER}/map-{table}-{made_from}.npy"
    file = write_array(run.root, path, tuple(matrix.shape), [matrix.numpy()])
    return TableMap(matrix=file, nodes=pairs.count, held_out=len(held.now), **_measure(matrix, held, shared.before))


def _divide(shared: SharedNodes, rows: Rows) -> tuple[Pairs, Shared]:
    """What the map is fitted to, and a random sample of nodes that is kept apart."""
    import torch

    count, start = len(shared), 0
    held = np.random.default_rng(0).choice(count, min(HELD_OUT, max(1, count // LEAST_SHARE)), replace=False)
    pairs, apart = Pairs(rows.dim, shared.before.dim), list[Shared]()
    for of in shared.vectors(rows, "map"):
        is_held = np.isin(start + np.arange(len(of.positions)), held)
        pairs.add(of.now[~is_held], of.before[~is_held])
        apart.append(Shared(of.positions[is_held], of.now[is_held], of.before[is_held]))
        start += len(of.positions)
    positions, now, before = zip(*apart, strict=True)
    return pairs, Shared(np.concatenate(positions), torch.cat(now), torch.cat(before))


def _measure(matrix: Tensor, held: Shared, candidates: Rows) -> dict[str, float]:
    """The figures of a `TableMap`. `candidates`: all vectors that the earlier version has exported of the table."""
    import torch.nn.functional as F

    mapped, own = held.now @ matrix, held.positions
    there, here = (best(similar(of), own, own, candidates, K) for of in (held.before, mapped))
    mapped, before = mapped.double(), held.before.double()
    return {
        "relative_error": float((mapped - before).norm() / before.norm()),
        "cosine": float(F.cosine_similarity(mapped, before, dim=1).mean()),
        "neighbors_kept": float(common(there, here).mean() / there.shape[1]),
    }


def _made_from(run: TrainedRun, vectors: str, earlier: str) -> str:
    assert run.config.export.map is not None
    settings = f"{run.config.export.map.kind} {run.config.export.normalize} {sorted(run.config.export.tables or [])}"
    return hashlib.sha256(f"{vectors} {settings} {earlier}".encode()).hexdigest()[:16]


def _write_record(root: str, made_from: str, found: VersionMap) -> None:
    storage.write_json(storage.join(root, RECORD), MapRecord(made_from=made_from, map=found).model_dump())
