"""Measures the lists that `recommend` makes, by the held-out edges of their users.

Beside them are those without the prior, if the model has one, and those of the baselines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from twhin_core import sizes
from twhin_core.config import Config
from twhin_core.config.recommend import Recommend
from twhin_core.data.files import EdgeFiles
from twhin_core.data.splits import open_splits
from twhin_core.embeddings.rule import AppliedRule
from twhin_core.embeddings.search import relation_named
from twhin_core.evaluation.list_metrics import ACCURACY, CATALOG, DECILES, SHOWN, WITHOUT_PRIOR, Lists
from twhin_core.evaluation.metrics import MODEL, POPULARITY, RANDOM
from twhin_core.export.vector_set import TrainedRun
from twhin_core.progress import Progress, log
from twhin_core.recommend.baselines import PopularityFinder, RandomFinder
from twhin_core.recommend.finder import Finder
from twhin_core.recommend.finders import make_finder
from twhin_core.recommend.held_out import HeldOutLists, find_held_out, parts_of
from twhin_core.recommend.item_item import ITEM_ITEM, ItemItemFinder
from twhin_core.recommend.ruled import RuledFinder
from twhin_core.recommend.tally import Tally, summary
from twhin_core.recommend.write import identified
from twhin_core.schema import SIDES
from twhin_core.scratch import scratch
from twhin_core.vectors.rows import MappedRows, Rows, TensorRows

if TYPE_CHECKING:
    from twhin_core.distributed.ranks import Ranks


def measure_lists(run: TrainedRun, ranks: Ranks) -> Lists:
    """The figures of the lists of each relation of the section `recommend`, without their digest.

    A relation without held-out edges is left out. A collective: ranks share the users.

    Raises:
        UserError: as `recommend`, or a baseline needs more memory than there is.
    """
    config, found = run.config, {}
    splits = open_splits(config, run.root, run.schema, ("train", config.evaluation.split))
    for name in config.recommend:
        relation_named(run.schema, name, "recommend: ")  # refuses before any work
        with scratch("lists") as folder:
            measured = _measure(run, name, splits, ranks, folder)
        if measured is None:
            log.warning("evaluate: no lists of %s: no user has a held-out edge", name)
        else:
            found[name] = measured
    return {"relations": found}


def lists_digest(config: Config) -> str:
    """A digest of what the figures of lists depend on beside the checkpoint and the section `evaluation`.

    That includes which figures there are: those of an earlier release that lack some are measured again.

    Raises:
        UserError: a file that the settings name does not exist.
    """
    lists = config.evaluation.lists
    settings = {name: identified(of, config.prior_of_lists(name)) for name, of in config.recommend.items()}
    figures = [*ACCURACY, *SHOWN, *CATALOG, DECILES]
    content = [None if lists is None else lists.model_dump(), settings, figures]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _measure(run: TrainedRun, name: str, splits: dict[str, EdgeFiles], ranks: Ranks, folder: Path) -> Lists | None:
    rel, settings = run.schema.names.index(name), run.config.recommend[name]
    task = find_held_out(run, rel, settings, splits, (ranks.rank, ranks.world_size), folder)
    if task is None:
        return None
    units, tallies = _units(run, task.candidates.table), {}
    scores = len(task.users.row) * task.candidates.size * len(_sources(run.config)) // ranks.world_size
    with Progress(f"evaluate lists of {name}", scores, "scores", quiet=not ranks.is_first) as progress:
        for source, finder in _finders(run, task, splits["train"], ranks.device):
            tally = Tally(task, units)
            for part in parts_of(task.users, ranks.rank, ranks.world_size):
                tally.add(part, finder, progress)
            tallies[source] = tally.of_all(ranks)
    return summary(task, tallies, run.config.evaluation)


def _sources(config: Config) -> list[str]:
    """What makes lists."""
    assert config.evaluation.lists is not None
    without = [WITHOUT_PRIOR] if config.model.has_prior("rhs") else []
    return [MODEL, *without, *config.evaluation.lists.baselines]


def _finders(
    run: TrainedRun, task: HeldOutLists, train: EdgeFiles, device: torch.device
) -> Iterator[tuple[str, Finder]]:
    """The finder of each of `_sources`, all with the same rule."""
    relation = run.schema.names[task.rel]
    settings = run.config.recommend[relation]
    lhs, rhs = (run.ids(run.schema.table_of(task.rel, side)) for side in SIDES)
    for name in _sources(run.config):
        finder = _finder(name, run, settings, task, train, device)
        if settings.rule is not None:
            finder = RuledFinder(
                finder, AppliedRule(settings.rule.name, relation, f"recommend.{relation}.rule"), lhs, rhs, settings.k
            )
        yield name, finder


def _finder(
    name: str, run: TrainedRun, settings: Recommend, task: HeldOutLists, train: EdgeFiles, device: torch.device
) -> Finder:
    evaluation, of, k = run.config.evaluation, task.candidates, settings.fetched
    relation = run.schema.names[task.rel]
    if name in (MODEL, WITHOUT_PRIOR):
        exact = settings.model_copy(update={"index": False})  # which is exported after evaluation
        return make_finder(run, exact, of, device, run.prior_of_lists(relation) if name == MODEL else None)
    if name == POPULARITY:
        return PopularityFinder(of, task.edges, k, device)
    if name == RANDOM:
        return RandomFinder(of, k, evaluation.seed)
    assert name == ITEM_ITEM
    edges, limit = int(task.edges.sum()), evaluation.memory_limit
    return ItemItemFinder(train, run.schema, task.rel, of, edges, k, evaluation.seed, limit)


def _units(run: TrainedRun, table: str) -> Rows:
    """The vectors of a table, scaled to length 1 unless they are 0; in memory if they fit into a quarter of it."""
    rows = run.checkpoint.rows(table)
    if rows.size * rows.dim * 4 <= sizes.in_bytes(run.config.evaluation.memory_limit) // 4:
        return TensorRows(torch.nn.functional.normalize(rows.read(0, rows.size)))
    return MappedRows(rows, lambda vectors, _: torch.nn.functional.normalize(vectors))
