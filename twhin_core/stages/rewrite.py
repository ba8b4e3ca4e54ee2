"""Writes a version again, without nodes that its series has forgotten."""

from __future__ import annotations

from typing import get_args

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.durations import FOLDER as DURATIONS
from twhin_core.evaluation.kept_ranks import copy_ranks
from twhin_core.evaluation.result import folder
from twhin_core.export.manifest import read_export_manifest
from twhin_core.graph.compared import CHANGES
from twhin_core.graph.copies import copy_file
from twhin_core.graph.forget import forget_nodes
from twhin_core.graph.forgotten import Blocked
from twhin_core.graph.manifest import MANIFEST, read_schema, relations_of
from twhin_core.ranking.queries import Split
from twhin_core.run import CONFIG, saved_config
from twhin_core.stages import report
from twhin_core.stages.export import export
from twhin_core.stages.recommend import recommend

TRAINING = "training"


def rewrite(source: str, root: str, blocked: Blocked) -> int:
    """Writes the version at `source` under `root` without the blocked nodes: the graph, checkpoints, ranks, exports
    and lists of candidates.

    Other nodes keep their rows and vectors, bit by bit. Metrics stay those that were measured with the nodes. Only what
    this function knows is carried over.

    Returns:
        How many edges the nodes had.

    Raises:
        UserError: a file is damaged, or a format cannot hold a table with so few rows.
    """
    from twhin_core.checkpoints.checkpoint import complete
    from twhin_core.checkpoints.erased import copy_erased

    config = saved_config(source)
    storage.remove(root)
    _copy(source, root, [CONFIG, CHANGES])
    forgot = forget_nodes(config, source, root, blocked)
    for checkpoint in complete(source):
        copy_erased(checkpoint, root, forgot.rows)
    relations = relations_of(config, forgot.manifest)
    for split in get_args(Split):
        copy_ranks(source, root, split, relations, forgot.rows)
    _copy(source, root, [*_below(source, TRAINING), *_below(source, DURATIONS), *_metrics(source)])
    storage.publish_json(storage.join(root, MANIFEST), forgot.manifest.model_dump())
    _keep_matrices(config, source, root)
    step = export(config, root).checkpoint
    if config.recommend:
        recommend(config, root)
    for split in get_args(Split):
        evaluation = config.evaluation.model_copy(update={"split": split})
        report.draw_missing(config.model_copy(update={"evaluation": evaluation}), root, step)
    return forgot.edges


def _keep_matrices(config: Config, source: str, root: str) -> None:
    """The vectors of other nodes stay as they were exported, and the versions that they were aligned with or mapped to
    may be gone.
    """
    from twhin_core.checkpoints.checkpoint import at_step
    from twhin_core.export import alignment, maps
    from twhin_core.export.vector_set import TrainedRun
    from twhin_core.export.write import origin, with_rotation

    exported = read_export_manifest(source)
    if exported is None:
        return
    checkpoint = at_step(root, exported.checkpoint)
    assert checkpoint is not None
    run = TrainedRun(config, root, checkpoint, read_schema(config, root))
    if exported.aligned is not None and config.export.align is not None:
        alignment.adopt(run, origin(run), source, exported.aligned)
    if exported.map is not None and config.export.map is not None:
        maps.adopt(run, with_rotation(origin(run), exported.aligned), source, exported.map)


def _metrics(root: str) -> list[str]:
    """The files of evaluation that name no nodes."""
    steps = [name for name in storage.list_folders(storage.join(root, "evaluation")) if name.isdigit()]
    of_splits = [f"{folder(split)}/{name}" for split in get_args(Split) for name in ("metrics.json", "gates.json")]
    return [*of_splits, *(f"evaluation/{step}/metrics.json" for step in steps)]


def _below(root: str, folder: str) -> list[str]:
    """The files of a folder of the run."""
    fs, path = storage.filesystem(storage.join(root, folder))
    return [f"{folder}/{str(name).removeprefix(path).lstrip('/')}" for name in fs.find(path)]


def _copy(source: str, root: str, paths: list[str]) -> None:
    for path in paths:
        if storage.exists(storage.join(source, path)):
            copy_file(storage.join(source, path), storage.join(root, path))
