"""Writes a checkpoint's vectors with their original ids, in every format that the config asks for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pyarrow as pa

from twhin_core import __version__, storage
from twhin_core.config import Config
from twhin_core.config.export import Format
from twhin_core.export import alignment, maps
from twhin_core.export.compare import compare
from twhin_core.export.fits import check
from twhin_core.export.formats import check_installed, digest, takes, writer
from twhin_core.export.manifest import (
    FOLDER,
    MANIFEST,
    Aligned,
    ExportManifest,
    FormatExport,
    TableExport,
    read_finished,
    record_path,
    write_finished,
)
from twhin_core.export.vector_set import TrainedRun, VectorSet, open_vector_sets
from twhin_core.graph.manifest import MANIFEST as GRAPH
from twhin_core.graph.manifest import find_manifest
from twhin_core.model.relation_operators import RelationOperators
from twhin_core.parquet import FileEntry, write_part
from twhin_core.progress import Progress, log
from twhin_core.schema import Schema

RELATIONS = f"{FOLDER}/relations.parquet"


def write_export(run: TrainedRun) -> ExportManifest:
    """Writes `embeddings/`, except for files that an earlier export finished and that are still valid.

    Returns:
        The manifest. The export is finished once the caller publishes it.

    Raises:
        UserError: a format cannot hold a table, or a vocabulary is broken; or as `align` and `write_maps`.
    """
    check_installed(run.config.export)
    identity, vectors = identify(run), origin(run)
    run, aligned = _aligned(run, vectors)
    of_rotated = with_rotation(vectors, aligned)
    mapped = maps.write_maps(run, of_rotated)
    config, vector_sets = run.config, open_vector_sets(run)
    jobs = [
        (name, vector_set) for name in config.export.formats for vector_set in vector_sets if takes(name, vector_set)
    ]
    for name, vector_set in jobs:
        check(name, config.export, vector_set.name, vector_set.size)
    storage.remove(storage.join(run.root, MANIFEST))  # first: without a manifest, no file counts as exported
    made_from = {name: f"{of_rotated}-{digest(name, config.export)}" for name, _ in jobs}
    finished = {
        (name, vector_set.name): read_finished(run.root, name, vector_set.name, made_from[name])
        for name, vector_set in jobs
    }
    rotation = [] if aligned is None else [alignment.RECORD, aligned.rotation.path]
    matrices = [] if mapped is None else [maps.RECORD, *(of.matrix.path for of in mapped.tables.values())]
    _remove_all_but(run.root, finished, [*rotation, *matrices])
    formats: dict[str, dict[str, FormatExport]] = {name: {} for name in config.export.formats}
    for name, vector_set in jobs:
        done = finished[name, vector_set.name]
        if done is None:
            done = _write_one(name, vector_set)
            write_finished(run.root, name, vector_set.name, made_from[name], done)
        else:
            log.info("export %s as %s: already done", vector_set.name, name)
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
        prior=config.export.prior,
        aligned=aligned,
        map=mapped,
        tables=[_describe(vector_set, formats) for vector_set in vector_sets if vector_set.relation is None],
        relations=_write_relations(run),
        formats=formats,
        pq_metrics=compare(run, formats["pq"]) if "pq" in formats else None,
    )


def _aligned(run: TrainedRun, made_from: str) -> tuple[TrainedRun, Aligned | None]:
    """The run with its vectors rotated if `export.align` is set, and what the manifest says of it."""
    if run.config.export.align is None:
        return run, None
    aligned = alignment.align(run, made_from)
    return replace(run, rotation=alignment.read_rotation(run.root, aligned)), aligned


def _describe(vector_set: VectorSet, formats: dict[str, dict[str, FormatExport]]) -> TableExport:
    files = formats["parquet"][vector_set.name].files if "parquet" in formats else []
    priors = [vector_set.prior_of(end) for end in vector_set.prior_ends]
    return TableExport(
        name=vector_set.name, rows=vector_set.size, unnamed_rows=vector_set.unnamed, files=files, priors=priors
    )


def _remove_all_but(root: str, finished: dict[tuple[Format, str], FormatExport | None], others: list[str]) -> None:
    """Removes everything in `embeddings/` except finished files, their records, and the paths `others`."""
    kept = {
        path
        for (name, table), export in finished.items()
        if export is not None
        for path in [record_path(name, table), *(file.path for file in export.files)]
    }
    storage.remove_all_but(storage.join(root, FOLDER), [storage.join(root, path) for path in [*kept, *others]])


def _write_one(name: Format, vector_set: VectorSet) -> FormatExport:
    with Progress(f"export {vector_set.name} as {name}", vector_set.size, "rows") as progress:
        export = writer(name)(vector_set, progress)
    if export.figures:
        figures = ", ".join(f"{figure} {value}" for figure, value in export.figures.items())
        log.info("export %s as %s: %s", vector_set.name, name, figures)
    return export


def is_current(found: ExportManifest, config: Config, step: int) -> bool:
    """Whether `found` is an export of the checkpoint `step` with the settings of `config`."""
    return found.checkpoint == step and found.config == _digest(config)


def _digest(config: Config) -> str:
    return hashlib.sha256(config.export.model_dump_json().encode()).hexdigest()[:16]


def origin(run: TrainedRun) -> str:
    """What the vectors of a checkpoint are from, as records of finished files say it."""
    return f"{identify(run)}-{run.checkpoint.step}"


def with_rotation(vectors: str, aligned: Aligned | None) -> str:
    """What `vectors` are from, once they are rotated."""
    return vectors if aligned is None else f"{vectors}-{aligned.rotation.sha256}"


def identify(run: TrainedRun) -> str:
    """Digest of the settings and the graph that the vectors were learned from, wherever its raw files were."""
    config = run.config
    graph = {}
    if config.prepare is not None:
        graph = storage.read_json(storage.join(find_manifest(run.root).holder(run.root), GRAPH))
        for entry, relation in zip(graph["relations"], run.schema.relations, strict=True):
            entry |= {"operator": relation.operator, "weight": relation.weight}  # not those of the run that built it
    learned_from = {
        "model": config.model.model_dump(),
        "train_data": config.train_data.model_dump(),
        "training": config.training.model_dump(include={"seed", "initial_checkpoint_dir"})
        | config.training.model_dump(include={"warm_start", "anchor"}, exclude_none=True),
        "graph": {key: value for key, value in graph.items() if key != "raw_files"},
    }
    return hashlib.sha256(json.dumps(learned_from, sort_keys=True).encode()).hexdigest()[:16]


def _write_relations(run: TrainedRun) -> FileEntry:
    """Writes `embeddings/relations.parquet`: one row per relation, with the parameters of its inverse if it has one."""
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
    return write_part(table.to_batches(), table.schema, run.root, RELATIONS)


def _parameters(operators: RelationOperators, schema: Schema) -> pa.Array:
    """One list per relation: a translation's or diagonal's vector, a matrix row by row, empty for the identity."""
    rows = [operators.of(rel).detach().numpy() for rel in range(len(schema.relations))]
    return pa.array(rows, pa.list_(pa.float32()))
