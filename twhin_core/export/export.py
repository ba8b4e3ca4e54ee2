"""The stage: the newest checkpoint's vectors under their original ids, if the metrics pass their gates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from twhin_core import __version__, storage
from twhin_core.config import Config
from twhin_core.errors import GateFailed, UserError
from twhin_core.evaluation.evaluate import METRICS, is_current, read_metrics
from twhin_core.evaluation.gates import check_names, missed
from twhin_core.export.manifest import MANIFEST, ExportManifest, TableExport, read_export_manifest
from twhin_core.graph.manifest import Schema, read_schema
from twhin_core.model.operators import RelationOperators
from twhin_core.model.scorer import Scorer
from twhin_core.parquet import FileEntry, write_parts
from twhin_core.progress import Progress, log
from twhin_core.run import stage
from twhin_core.training.checkpoint import Checkpoint, describe, newest
from twhin_core.vectors.names import read_names

FOLDER = "embeddings"
RELATIONS = f"{FOLDER}/relations.parquet"
BLOCK_BYTES = 16 << 20


@stage("export")
def export(config: Config, root: str) -> ExportManifest:
    """Writes `embeddings/` from the newest checkpoint, or finds it written.

    Raises:
        GateFailed: the metrics miss a gate; nothing is written, and what was exported before stays.
        UserError: there is no checkpoint; there are gates but no metrics of this checkpoint; or a broken vocabulary.
    """
    check_names(config)
    checkpoint = newest(root)
    if checkpoint is None:
        raise UserError(f"{root}: there is no whole checkpoint here; run `twhin train` first")
    schema = read_schema(config, root)
    checkpoint.check_fits(describe(config, schema))
    _pass_gates(config, root, checkpoint.step)
    found = read_export_manifest(root)
    if found is not None and _is_current(found, config, checkpoint.step):
        log.info("export: %s is of this checkpoint, step %d", storage.join(root, MANIFEST), checkpoint.step)
        return found
    storage.remove(storage.join(root, MANIFEST))  # first: without it, nothing here is taken for whole
    storage.remove(storage.join(root, FOLDER))
    names = config.export.tables or list(schema.tables)
    with Progress("export", sum(schema.tables[name] for name in names), "rows") as progress:
        tables = [_write_table(config, root, checkpoint, name, schema.tables[name], progress) for name in names]
    manifest = ExportManifest(
        version=__version__,
        checkpoint=checkpoint.step,
        config=_digest(config),
        dim=config.model.dim,
        comparator=config.model.comparator,
        reciprocal=config.model.reciprocal,
        tables=tables,
        relations=_write_relations(config, root, checkpoint, schema),
    )
    storage.publish_json(storage.join(root, MANIFEST), manifest.model_dump())
    return manifest


def _pass_gates(config: Config, root: str, step: int) -> None:
    gates = config.evaluation.gates
    if not gates:
        return
    metrics, url = read_metrics(root), storage.join(root, METRICS)
    if metrics is None:
        raise UserError(f"{url}: is needed for evaluation.gates and is not there; run `twhin evaluate` first")
    if not is_current(metrics, config, step):
        raise UserError(
            f"{url}: is not of the newest checkpoint (step {step}) or was measured by other evaluation settings; "
            "run `twhin evaluate` again"
        )
    if sentences := missed(gates, metrics):
        raise GateFailed(f"nothing was exported: {'; '.join(sentences)}")


def _is_current(found: ExportManifest, config: Config, step: int) -> bool:
    return found.checkpoint == step and found.config == _digest(config)


def _digest(config: Config) -> str:
    return hashlib.sha256(config.export.model_dump_json().encode()).hexdigest()[:16]


def _write_table(
    config: Config, root: str, checkpoint: Checkpoint, table: str, rows: int, progress: Progress
) -> TableExport:
    dim = config.model.dim
    vector = pa.list_(pa.float32(), dim)
    schema = pa.schema([("index", pa.int64()), ("id", pa.string()), ("embedding", vector)])

    vectors = checkpoint.rows(table)

    def blocks() -> Iterator[pa.RecordBatch]:
        for names in read_names(config, root, table, rows, batch_rows=max(1, BLOCK_BYTES // (4 * dim))):
            index = names["index"].to_numpy()
            start, stop = int(index[0]), int(index[-1]) + 1
            weights = vectors.read(start, stop)[index - start]
            progress.update(len(index))
            yield pa.RecordBatch.from_arrays([names["index"], names["id"], _vectors(weights, vector)], schema=schema)

    files = write_parts(blocks(), schema, root, f"{FOLDER}/{table}", config.export.rows_per_file)
    written = sum(file.rows for file in files)
    return TableExport(name=table, rows=written, unnamed_rows=rows - written, files=files)


def _write_relations(config: Config, root: str, checkpoint: Checkpoint, schema: Schema) -> FileEntry:
    """`embeddings/relations.parquet`: a row a relation, with its inverse's parameters where there is one."""
    scorer = Scorer(config.model, schema.relations)
    checkpoint.load_scorer(scorer)
    columns = {
        "rel": pa.array(range(len(schema.relations)), pa.int32()),
        "name": pa.array([relation.name for relation in schema.relations], pa.string()),
        "operator": pa.array([relation.operator for relation in schema.relations], pa.string()),
        "embedding": _parameters(scorer.operator, schema),
    }
    if scorer.inverse is not None:
        columns["inverse"] = _parameters(scorer.inverse, schema)
    table = pa.table(columns)
    with storage.open_write(storage.join(root, RELATIONS)) as file:
        checksum = storage.ChecksumWriter(file)
        pq.write_table(table, pa.PythonFile(checksum, mode="w"), compression="zstd")
    return FileEntry(path=RELATIONS, rows=table.num_rows, sha256=checksum.hexdigest())


def _parameters(operators: RelationOperators, schema: Schema) -> pa.Array:
    """A list a relation: the vector of a translation or diagonal, a matrix row by row, nothing for the identity."""
    rows = [operators.of(rel).detach().numpy() for rel in range(len(schema.relations))]
    return pa.array(rows, pa.list_(pa.float32()))


def _vectors(weights: Tensor, vector: pa.DataType) -> pa.Array:
    """Rows [N, dim] as a list column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(weights.detach().numpy().reshape(-1)), type=vector)
