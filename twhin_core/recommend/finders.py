"""Makes the finder that the settings of a relation ask for."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from twhin_core import sizes
from twhin_core.config.recommend import Recommend
from twhin_core.data.splits import open_split
from twhin_core.embeddings.result import open_result
from twhin_core.errors import UserError
from twhin_core.export.vector_set import TrainedRun
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.products import Arithmetic
from twhin_core.ranking.projections import Projections
from twhin_core.recommend.candidates import query_of
from twhin_core.recommend.cluster_search import ClusterSearch
from twhin_core.recommend.clusters import find_clusters
from twhin_core.recommend.finder import ExactFinder, Finder
from twhin_core.recommend.histories import Histories
from twhin_core.recommend.index_finder import open_finder
from twhin_core.recommend.mixture import Mixtures
from twhin_core.recommend.mixture_finder import MixtureFinder
from twhin_core.scratch import scratch
from twhin_core.vectors.adjacency import End, read_adjacencies
from twhin_core.vectors.prior import Prior


def make_finder(
    run: TrainedRun, settings: Recommend, of: CandidateSet, device: torch.device, prior: Prior | None
) -> Finder:
    """What finds `settings.fetched` of the candidates `of` a relation for each of its users.

    Args:
        prior: is part of the scores.

    Raises:
        UserError: no index was exported, mixtures need faiss, more clusters are asked for than nodes, or a number is
            not finite.
    """
    scorer, arithmetic = run.scorer(), Arithmetic("fp32", device)
    memory = sizes.in_bytes(run.config.evaluation.memory_limit) // 4
    tables = {name: run.checkpoint.rows(name) for name in run.schema.tables}
    mixture, rel = settings.mixture, int(of.relations[0])

    def projections() -> Projections:
        return Projections(scorer, run.schema, tables, arithmetic, memory, prior)

    exact = ExactFinder(scorer, projections(), of, settings.fetched)
    if settings.index:
        weight = run.config.prior_of_lists(run.schema.names[rel])
        return open_finder(exact, open_result(run.root), replace(query_of(run.schema, rel), prior=weight))
    if mixture is None:
        return exact
    users, items = tables[run.schema.table_of(rel, "lhs")], tables[of.table]
    if mixture.clusters > items.size:
        raise UserError(
            f"recommend.{run.schema.names[rel]}.mixture.clusters: {mixture.clusters:,} are more than the "
            f"{items.size:,} nodes of table {of.table}"
        )

    @torch.no_grad()
    def point(vectors: Tensor) -> Tensor:
        return scorer.answer_points("rhs", torch.full((1, len(vectors)), rel), vectors[None])[0]

    cluster = find_clusters(items, point, mixture.clusters, run.config.model.comparator == "cos")
    train = open_split(run.config, run.root, run.schema, "train")
    of_users: End = (rel, "lhs")
    with scratch("recommend") as folder:
        edges = read_adjacencies([train], run.schema, [of_users], folder)[of_users]
    mixtures = Mixtures(Histories(edges), users, cluster, mixture, arithmetic, memory)
    # Projections of their own, since those of the exact finder keep its candidates.
    return MixtureFinder(exact, ClusterSearch(scorer, projections(), items, rel), mixtures, users)
