"""The stage: the newest checkpoint's vectors under their original ids, if the metrics pass their gates."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core import __version__, lease, storage
from twhin_core.checkpoints.checkpoint import describe, newest
from twhin_core.checksum import ChecksumWriter
from twhin_core.config import Config
from twhin_core.config.export import Format
from twhin_core.errors import GateFailed, UserError
from twhin_core.evaluation.evaluate import METRICS, REPORT, is_current, read_metrics
from twhin_core.evaluation.gates import check_names, decide, missed
from twhin_core.export.compare import compare
from twhin_core.export.formats import CHECKS, WRITERS, digest, takes
from twhin_core.export.manifest import (
    FOLDER,
    MANIFEST,
    ExportManifest,
    Finished,
    FormatExport,
    TableExport,
    read_export_manifest,
    read_finished,
    record_path,
    write_finished,
)
from twhin_core.export.vector_set import TrainedRun, VectorSet, open_vector_sets
from twhin_core.graph.manifest import MANIFEST as GRAPH
from twhin_core.graph.manifest import read_schema
from twhin_core.model.operators import RelationOperators
from twhin_core.parquet import FileEntry
from twhin_core.progress import Progress, log
from twhin_core.report import write_report
from twhin_core.run import stage
from twhin_core.schema import Schema

RELATIONS = f"{FOLDER}/relations.parquet"


@stage("export")
def export(config: Config, root: str) -> ExportManifest:
    """Writes `embeddings/` from the newest checkpoint, or finds it written.

    What an interrupted export has finished, and what a change of `export` leaves as it is, is not written again.

    Raises:
        GateFailed: the metrics miss a gate; nothing is written, and what was exported before stays.
        UserError: there is no checkpoint; there are gates but no metrics of this checkpoint; `embeddings/` is of
            another run; a table cannot be had in a format; or a broken vocabulary.
    """
    check_names(config)
    checkpoint = newest(root)
    if checkpoint is None:
        raise UserError(f"{root}: there is no whole checkpoint here; run `twhin train` first")
    schema = read_schema(config, root)
    checkpoint.check_fits(describe(config, schema))
    _pass_gates(config, root, checkpoint.step)
    run = TrainedRun(config, root, checkpoint, schema)
    found, identity = read_export_manifest(root), _identity(run)
    if found is not None and found.run != identity:
        raise UserError(
            f"{storage.join(root, MANIFEST)}: is of another run; remove these embeddings or use another --run-root"
        )
    if found is not None and _is_current(found, config, checkpoint.step):
        log.info("export: %s is of this checkpoint, step %d", storage.join(root, MANIFEST), checkpoint.step)
        return found
    manifest = _write(run, identity)
    storage.publish_json(storage.join(root, MANIFEST), manifest.model_dump())
    _report(config, root, checkpoint.step)
    return manifest


def _report(config: Config, root: str, step: int) -> None:
    """Writes the report of this checkpoint again, now that it can say what was exported; if there is one."""
    metrics = read_metrics(root)
    if metrics is not None and is_current(metrics, config, step):
        with lease.hold(root, "publish"):  # as evaluation does
            write_report(storage.join(root, REPORT), metrics, config, root)


def _write(run: TrainedRun, identity: str) -> ExportManifest:
    config, vector_sets = run.config, open_vector_sets(run)
    jobs = [
        (name, vector_set) for name in config.export.formats for vector_set in vector_sets if takes(name, vector_set)
    ]
    for name, vector_set in jobs:
        if name in CHECKS:
            CHECKS[name](vector_set)
    storage.remove(storage.join(run.root, MANIFEST))  # first: without it, nothing here is taken for whole
    finished = {(name, vector_set.name): _finished(run, identity, name, vector_set) for name, vector_set in jobs}
    _remove_all_but(run.root, finished)
    formats: dict[str, dict[str, FormatExport]] = {name: {} for name in config.export.formats}
    for name, vector_set in jobs:
        done = finished[name, vector_set.name] or _write_one(run, identity, name, vector_set)
        formats[name][vector_set.name] = done
    return ExportManifest(
        version=__version__,
        run=identity,
        checkpoint=run.checkpoint.step,
        config=_digest(config),
        dim=config.model.dim,
        comparator=config.model.comparator,
        normalized=config.export.normalize,
        reciprocal=config.model.reciprocal,
        tables=[_describe(vector_set, formats) for vector_set in vector_sets if vector_set.relation is None],
        relations=_write_relations(run),
        formats=formats,
        pq_metrics=compare(run, formats["pq"]) if "pq" in formats else None,
    )


def _describe(vector_set: VectorSet, formats: dict[str, dict[str, FormatExport]]) -> TableExport:
    files = formats["parquet"][vector_set.name].files if "parquet" in formats else []
    return TableExport(name=vector_set.name, rows=vector_set.size, unnamed_rows=vector_set.unnamed, files=files)


def _finished(run: TrainedRun, identity: str, name: Format, vector_set: VectorSet) -> FormatExport | None:
    """What an export before this one has finished of the same, if it has."""
    record = read_finished(run.root, name, vector_set.name)
    made_of = (identity, run.checkpoint.step, digest(name, run.config.export))
    if record is None or (record.run, record.checkpoint, record.settings) != made_of:
        return None
    log.info("export: %s of %s is finished", name, vector_set.name)
    return record.export


def _remove_all_but(root: str, finished: dict[tuple[Format, str], FormatExport | None]) -> None:
    """Removes all of `embeddings/` but the files that are finished, and their records."""
    kept = {
        path
        for (name, table), export in finished.items()
        if export is not None
        for path in [record_path(name, table), *(file.path for file in export.files)]
    }
    storage.remove_all_but(storage.join(root, FOLDER), [storage.join(root, path) for path in kept])


def _write_one(run: TrainedRun, identity: str, name: Format, vector_set: VectorSet) -> FormatExport:
    with Progress(f"export {vector_set.name} as {name}", vector_set.size, "rows") as progress:
        export = WRITERS[name](vector_set, progress)
    settings = digest(name, run.config.export)
    write_finished(
        run.root,
        name,
        vector_set.name,
        Finished(run=identity, checkpoint=run.checkpoint.step, settings=settings, export=export),
    )
    if export.figures:
        figures = ", ".join(f"{figure} {value}" for figure, value in export.figures.items())
        log.info("export: %s as %s: %s", vector_set.name, name, figures)
    return export


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
    decision = decide(config, metrics)
    if not decision["passed"]:
        raise GateFailed(f"nothing was exported: {'; '.join(missed(decision))}")


def _is_current(found: ExportManifest, config: Config, step: int) -> bool:
    return found.checkpoint == step and found.config == _digest(config)


def _digest(config: Config) -> str:
    return hashlib.sha256(config.export.model_dump_json().encode()).hexdigest()[:16]


def _identity(run: TrainedRun) -> str:
    """Digest of what the vectors were learned from."""
    config = run.config
    learned_from = {
        "model": config.model.model_dump(),
        "train_data": config.train_data.model_dump(),
        "training": config.training.model_dump(include={"seed", "initial_checkpoint_dir"}),
        "graph": storage.read_json(storage.join(run.root, GRAPH)) if config.prepare is not None else None,
    }
    return hashlib.sha256(json.dumps(learned_from, sort_keys=True).encode()).hexdigest()[:16]


def _write_relations(run: TrainedRun) -> FileEntry:
    """`embeddings/relations.parquet`: a row a relation, with its inverse's parameters where there is one."""
    scorer, schema = run.scorer(), run.schema
    columns = {
        "rel": pa.array(range(len(schema.relations)), pa.int32()),
        "name": pa.array([relation.name for relation in schema.relations], pa.string()),
        "operator": pa.array([relation.operator for relation in schema.relations], pa.string()),
        "embedding": _parameters(scorer.operator, schema),
    }
    if scorer.inverse is not None:
        columns["inverse"] = _parameters(scorer.inverse, schema)
    table = pa.table(columns)
    with storage.open_write(storage.join(run.root, RELATIONS)) as file:
        checksum = ChecksumWriter(file)
        pq.write_table(table, pa.PythonFile(checksum, mode="w"), compression="zstd")
    return FileEntry(path=RELATIONS, rows=table.num_rows, sha256=checksum.hexdigest())


def _parameters(operators: RelationOperators, schema: Schema) -> pa.Array:
    """A list a relation: the vector of a translation or diagonal, a matrix row by row, nothing for the identity."""
    rows = [operators.of(rel).detach().numpy() for rel in range(len(schema.relations))]
    return pa.array(rows, pa.list_(pa.float32()))
