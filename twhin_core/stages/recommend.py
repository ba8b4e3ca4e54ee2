"""The recommend stage: writes lists of the best candidates for users, relation by relation."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from twhin_core import lease, storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.durations import measured
from twhin_core.errors import UserError
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import log, log_of
from twhin_core.published import find_root, is_version
from twhin_core.recommend.manifest import ListsManifest, path_of, read_lists_manifest
from twhin_core.run import saved_config, working
from twhin_core.series.reading import Reading
from twhin_core.stages import report
from twhin_core.stages.track import tracking

if TYPE_CHECKING:
    from twhin_core.distributed.ranks import Ranks
    from twhin_core.export.vector_set import TrainedRun


def recommend(config: Config, root: str) -> dict[str, ListsManifest]:
    """Writes `recommendations/<relation>/` for each relation of the section `recommend`, unless it is up to date.

    Uses the checkpoint that was exported or, before the first export, the newest one. Under torchrun the ranks share
    the users.

    Returns:
        The manifests by relation.

    Raises:
        UserError: the section is empty, nothing has been trained, the exported checkpoint no longer exists, or a
            setting does not fit the graph.
    """
    from twhin_core.distributed.ranks import joined

    log_of(run=root, stage="recommend")
    if not config.recommend:
        raise UserError("recommend: names no relation; add one, such as `recommend: {fav: {k: 100}}`")
    with joined() as ranks, working(config, root, "recommend") if ranks.is_first else contextlib.nullcontext():
        step = ranks.of_first(lambda: _scored_step(root))  # after the first rank has claimed the root
        with tracking(config, root) if ranks.is_first else contextlib.nullcontext():
            made = _write_all(config, root, step, ranks)
            if ranks.is_first and config.report.costs is not None:
                _redraw(config, root, step)
        ranks.wait()  # until the first rank has published
    return made


def recommend_once(root: str, relation: str, settings: dict[str, Any], output: str) -> ListsManifest:
    """Writes the lists of one relation to `output`, whatever the run's config says of lists.

    Args:
        root: of a run, or of a series: then of its published version.
        settings: those of `Recommend` that differ from its defaults.

    Raises:
        UserError: as `recommend`, or a setting is wrong.
    """
    from twhin_core.distributed.ranks import alone
    from twhin_core.recommend.write import write_lists

    root = find_root(root)
    tree = saved_config(root).model_dump(mode="json", exclude_unset=True) | {"recommend": {relation: settings}}
    config = config_file.validate(Config, tree, root)
    reading = Reading(root) if is_version(root) else None
    try:
        run = _open(config, root, _scored_step(root))
        return write_lists(run, relation, config.recommend[relation], output, alone())
    finally:
        if reading is not None:
            reading.close()


def _scored_step(root: str) -> int:
    """The step that was exported, or else that of the newest checkpoint."""
    from twhin_core.embeddings.result import open_result

    return open_result(root).scored.step


def _open(config: Config, root: str, step: int) -> TrainedRun:
    from twhin_core.checkpoints.checkpoint import at_step
    from twhin_core.embeddings.search import relation_named
    from twhin_core.export.vector_set import TrainedRun

    checkpoint = at_step(root, step)
    if checkpoint is None:
        raise UserError(f"{root}: the checkpoint of step {step}, which was exported, no longer exists")
    schema = read_schema(config, root)
    for name in config.recommend:
        relation_named(schema, name, "recommend: ")  # refuses before any work
    return TrainedRun(config, root, checkpoint, schema)


def _write_all(config: Config, root: str, step: int, ranks: Ranks) -> dict[str, ListsManifest]:
    from twhin_core.recommend.write import find_lists, write_lists

    run = _open(config, root, step)
    folders = {name: folder_of(root, name) for name in config.recommend}
    found = {
        name: ranks.of_first(partial(find_lists, run, name, settings, folders[name]))
        for name, settings in config.recommend.items()
    }
    missing = [name for name, manifest in found.items() if manifest is None]
    works = measured(root, "recommend", machines=ranks.machines) if missing and ranks.is_first else None
    with works or contextlib.nullcontext():
        made = {name: write_lists(run, name, config.recommend[name], folders[name], ranks) for name in missing}
    for name in set(found) - set(made):
        log.info("recommend %s: up to date: %s", name, folders[name])
    return {name: manifest or made[name] for name, manifest in found.items()}


def _redraw(config: Config, root: str, step: int) -> None:
    """Draws the report again, which shows what this stage cost."""
    with lease.hold(root, "publish"):
        report.remove_that_of(config, root, step)
    report.draw_missing(config, root, step)


def read_lists(config: Config, root: str) -> dict[str, ListsManifest]:
    """The manifests that `recommend` wrote, by relation."""
    found = {name: read_lists_manifest(folder_of(root, name)) for name in config.recommend}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def folder_of(root: str, relation: str) -> str:
    """Where the lists of a relation are."""
    return storage.join(root, path_of(relation))
