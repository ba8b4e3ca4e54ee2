"""The adjusted mean rank index: by hand, by its laws, and from the ranks that a run keeps."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stages.test_evaluate import changed
from twhin_core.config import Config, Evaluation
from twhin_core.evaluation.metrics import Figures, Ranking, of_relations, sum_up
from twhin_core.evaluation.task import RankingResult
from twhin_core.ranking.queries import HeldOut
from twhin_core.ranking.ranks import AnswerRanks
from twhin_core.schema import SIDES
from twhin_core.stages.evaluate import evaluate

ROWS = st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 50), st.integers(0, 2)), min_size=1, max_size=30)
"""(negatives, edges, relation) of held-out answers."""


def figures_of(
    negatives: list[int], ranks: list[float], edges: list[int] | None = None, rel: list[int] | None = None
) -> Figures:
    """The figures of held-out edges that each are a query, with the same ranks for both sides."""
    count = len(ranks)
    each = np.arange(count)
    times = np.array(edges if edges else [1] * count)
    of = AnswerRanks(np.array(ranks, float), np.array(ranks, float))
    held = {side: HeldOut(side, np.array(rel or [0] * count), each, each, times, each, each) for side in SIDES}
    nothing = np.zeros(count, np.int64)
    result = RankingResult(np.array(negatives), nothing, nothing > 0, {})
    ranking = Ranking(held, dict.fromkeys(SIDES, result), dict.fromkeys(SIDES, of))
    evaluation = Evaluation()
    sums = sum_up(ranking, evaluation, {side: held[side].rel for side in SIDES})
    return of_relations(sums, ["a", "b", "c"], evaluation)


def test_it_is_the_mean_rank_between_chance_and_the_first() -> None:
    """Ranks 2 of 10 and 4 of 4: the mean is 3, the expected one (5.5 + 2.5) / 2 = 4. With the first edge three times:
    (3 · 2 + 4) / 4 = 2.5 and (3 · 5.5 + 2.5) / 4 = 4.75."""
    assert figures_of([9, 3], [2, 4])["all"]["amri"] == pytest.approx(1 / 3)
    assert figures_of([9, 3], [2, 4], edges=[3, 1])["all"]["amri"] == pytest.approx(1 - 1.5 / 3.75)
    of = figures_of([9, 3], [2, 4], rel=[0, 2])
    assert of["a"]["amri"] == of["a"]["amri_rhs"] == pytest.approx(1 - 1 / 4.5)
    assert of["c"]["amri"] == of["c"]["amri_lhs"] == pytest.approx(-1)


@given(ROWS)
def test_perfect_ranks_have_1_ties_0_and_the_worst_minus_1(rows: list[tuple[int, int, int]]) -> None:
    negatives, edges, rel = map(list, zip(*rows, strict=True))
    for ranks, expected in (
        ([1.0] * len(rows), 1.0),
        ([1 + each / 2 for each in negatives], 0.0),
        ([1.0 + each for each in negatives], -1.0),
    ):
        for figures in figures_of(negatives, ranks, edges, rel).values():
            assert {figures[name] for name in ("amri", "amri_lhs", "amri_rhs")} == {expected}


@pytest.mark.parametrize("negatives", [1, 2, 10, 1000, 10**6])
def test_ranks_by_chance_have_about_0(negatives: int) -> None:
    """Within five standard deviations: a uniform rank on 1 … n + 1 has the variance n (n + 2) / 12."""
    ranks = np.random.default_rng(negatives).integers(1, negatives + 2, size=20_000)
    deviation = np.sqrt(negatives * (negatives + 2) / 12 / len(ranks)) / (negatives / 2)
    found = figures_of([negatives] * len(ranks), ranks.tolist())["all"]["amri"]
    assert abs(found) < 5 * deviation


@given(st.integers(1, 10**6), st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_with_as_many_candidates_for_all_it_is_twice_the_auc_minus_1(negatives: int, shares: list[float]) -> None:
    ranks = [1 + share * negatives for share in shares]
    figures = figures_of([negatives] * len(ranks), ranks)["all"]
    assert figures["amri"] == pytest.approx(2 * figures["auc"] - 1, abs=1e-9)


def test_without_negatives_there_is_nothing_to_say() -> None:
    assert figures_of([0, 0], [1, 1])["all"]["amri"] == 0
    assert figures_of([0, 4], [1, 2])["all"]["amri"] == pytest.approx(0.5), "only the second can be anywhere else"


@pytest.mark.parametrize("candidates", [{}, {"candidates": 15}, {"candidates": 15, "candidates_power": 0.75}])
def test_that_of_a_run_is_that_of_its_kept_ranks(trained: tuple[Config, str], candidates: dict[str, float]) -> None:
    config, root = trained
    metrics = evaluate(changed(config, **candidates), root)
    prefix = "sampled_" if candidates else ""
    rows = pq.read_table(f"{root}/evaluation/ranks.parquet")
    for relation in ("all", "fav", "follow"):
        for suffix in ("", "_lhs", "_rhs"):
            of = rows if relation == "all" else rows.filter(pc.field("relation") == relation)
            of = of.filter(pc.field("side") == suffix[1:]) if suffix else of
            rank, negatives, edges = (of[name].to_numpy() for name in ("rank", "negatives", "edges"))
            found, by_chance = (np.average(of, weights=edges) for of in (rank, (negatives + 2) / 2))
            expected = 1 - (found - 1) / (by_chance - 1)
            assert metrics["test"][relation][f"{prefix}amri{suffix}"] == pytest.approx(expected)
        assert abs(metrics["baselines"]["random"][relation][f"{prefix}amri"]) < 0.5
