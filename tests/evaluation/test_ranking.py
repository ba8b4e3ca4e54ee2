"""Ranks and metrics against the definition in plain loops, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation.brute_force import BruteForce, Triple
from tests.evaluation.graphs import TableCheckpoint, model_config, random_graph, schema_of, to_edges
from twhin_core.config import Evaluation, Relation
from twhin_core.errors import UserError
from twhin_core.evaluation.baselines import Popularity, Random
from twhin_core.evaluation.metrics import compute
from twhin_core.evaluation.queries import Split, group
from twhin_core.evaluation.ranking import Ranks, rank
from twhin_core.evaluation.scores import ModelScores, Scores
from twhin_core.graph.manifest import Schema
from twhin_core.model.scorer import SIDES, Side
from twhin_core.progress import Progress

HITS_AT, RECALL_AT = [1, 3, 10], [1, 2, 5, 20]
EVALUATION = Evaluation(hits_at=HITS_AT, recall_at=RECALL_AT)
SCHEMA = Schema(
    {"user": 9, "tweet": 12},
    [
        Relation(name="fav", lhs="user", rhs="tweet"),
        Relation(name="follow", lhs="user", rhs="user"),
        Relation(name="of", lhs="tweet", rhs="user"),
        Relation(name="unseen", lhs="user", rhs="tweet"),
    ],
)
SIZES = {side: [SCHEMA.tables[SCHEMA.table_of(rel, side)] for rel in range(4)] for side in ("lhs", "rhs")}


class FewScores:
    """Scores from a small set of values: most of them tie."""

    def __init__(self, seed: int, values: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.matrix = {
            (side, rel): torch.randint(values, (20, SIZES[side][rel]), generator=generator).float()
            for side in SIDES
            for rel in range(4)
        }

    def scores(self, side: Side, rel: int, given: Tensor) -> Tensor:
        return self.matrix[side, rel][given]

    def __call__(self, side: str, edge: Triple) -> float:
        lhs, rel, rhs = edge
        given, wanted = (lhs, rhs) if side == "rhs" else (rhs, lhs)
        return float(self.matrix["rhs" if side == "rhs" else "lhs", rel][given, wanted])


def ranks_of(
    scores: Scores, splits: dict[str, list[Triple]], evaluated: Split, schema: Schema, block_mb: int = 1
) -> dict[Side, Ranks]:
    edges = {name: to_edges(triples) for name, triples in splits.items()}
    with Progress("test", 1, "queries", quiet=True) as progress:
        return {side: rank(scores, group(edges, evaluated, side), schema, block_mb, progress) for side in SIDES}


@pytest.mark.parametrize("evaluated", ["test", "validation"])
@pytest.mark.parametrize("seed", range(8))
def test_metrics_equal_brute_force_under_ties(seed: int, evaluated: Split) -> None:
    splits, scores = random_graph(SCHEMA, seed), FewScores(seed, values=2 + seed)
    ranks = ranks_of(scores, splits, evaluated, SCHEMA)
    figures = compute(ranks, [relation.name for relation in SCHEMA.relations], EVALUATION)
    expected = BruteForce(splits, evaluated, SIZES, scores)
    assert list(figures) == ["all", "fav", "follow", "of"]
    for name, rel in {"all": None, "fav": 0, "follow": 1, "of": 2}.items():
        assert figures[name] == pytest.approx(expected.figures(rel, HITS_AT, RECALL_AT), abs=1e-12)


def test_rank_of_each_edge_equals_brute_force() -> None:
    splits, scores = random_graph(SCHEMA, 3), FewScores(3, values=4)
    expected = BruteForce(splits, "test", SIZES, scores)
    edges = {name: to_edges(triples) for name, triples in splits.items()}
    for side, ranks in ranks_of(scores, splits, "test", SCHEMA).items():
        queries = group(edges, "test", side)
        entry = {}
        for position in np.flatnonzero(queries.edges):
            rel, given = queries.rel[queries.query[position]], queries.given[queries.query[position]]
            ends = (given, queries.answer[position])
            lhs, rhs = ends if side == "rhs" else ends[::-1]
            entry[int(lhs), int(rel), int(rhs)] = len(entry)
        assert set(entry) == set(splits["test"])
        for edge, row in entry.items():
            assert (ranks.rank[row], ranks.rivals[row]) == expected.rank_and_rivals(side, edge)
            assert ranks.edges[row] == splits["test"].count(edge)


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("comparator", ["dot", "cos"])
def test_a_model_is_ranked_by_the_score_of_its_definition(comparator: str, reciprocal: bool) -> None:
    relations = [(relation.name, relation.lhs, relation.rhs) for relation in SCHEMA.relations]
    config = model_config(SCHEMA.tables, relations, dim=4, comparator=comparator, reciprocal=reciprocal)
    generator = torch.Generator().manual_seed(1)

    def draw(rows: int) -> Tensor:  # multiples of 1/4: inner products are exact, equal ones tie
        return torch.randint(-2, 3, (rows, 4), generator=generator) / 4 + torch.tensor([0, 0, 0, 0.25])

    tables = {name: draw(rows) for name, rows in SCHEMA.tables.items()}
    checkpoint = TableCheckpoint(tables, draw(4), draw(4) if reciprocal else None)

    def score(side: str, edge: Triple) -> float:
        lhs, rel, rhs = edge
        head, tail = tables[SCHEMA.relations[rel].lhs][lhs].double(), tables[SCHEMA.relations[rel].rhs][rhs].double()
        if side == "lhs" and checkpoint.inverse is not None:
            tail = tail + checkpoint.inverse[rel]
        else:
            head = head + checkpoint.translation[rel]
        inner = float(head @ tail)
        length = math.sqrt(float(head @ head) * float(tail @ tail)) if comparator == "cos" else 1.0
        return round(inner / length, 5) if length else 0.0

    splits = random_graph(SCHEMA, 5)
    expected = BruteForce(splits, "test", SIZES, score)
    model = ModelScores(config, schema_of(config), checkpoint)
    if comparator == "cos":  # rounding tells equal cosines apart; take that away on both sides
        model = Rounded(model)
    figures = compute(ranks_of(model, splits, "test", SCHEMA), [name for name, _, _ in relations], EVALUATION)
    for name, rel in {"all": None, "fav": 0, "follow": 1, "of": 2}.items():
        assert figures[name] == pytest.approx(expected.figures(rel, HITS_AT, RECALL_AT), abs=1e-12)


class Rounded:
    def __init__(self, of: Scores) -> None:
        self.of = of

    def scores(self, side: Side, rel: int, given: Tensor) -> Tensor:
        return self.of.scores(side, rel, given).round(decimals=5) + 0.0


def test_the_size_of_a_block_changes_nothing() -> None:
    """Tables large enough that 1 MiB holds 3, 4 and 26 queries, and a block larger than all."""
    schema = Schema({"user": 10_000, "tweet": 80_000}, SCHEMA.relations)
    rng = np.random.default_rng(0)
    splits = {
        name: [(int(rng.integers(9)), rel, int(rng.integers(9))) for rel in rng.integers(3, size=count).tolist()]
        for name, count in (("train", 200), ("test", 60))
    }
    small, large = (ranks_of(Random(schema, 0), splits, "test", schema, block_mb) for block_mb in (1, 1000))
    for side in SIDES:
        assert len(small[side].rank) > 30
        np.testing.assert_array_equal(small[side].rank, large[side].rank)
        np.testing.assert_array_equal(small[side].position, large[side].position)


class FromMatrix:
    def __init__(self, matrix: list[list[float]]) -> None:
        self.matrix = torch.tensor(matrix)

    def scores(self, side: Side, rel: int, given: Tensor) -> Tensor:
        return (self.matrix if side == "rhs" else self.matrix.T)[given]


FIVE = Schema({"node": 5}, [Relation(name="to", lhs="node", rhs="node")])
FIVE_SPLITS = {"train": [(0, 0, 1)], "validation": [(0, 0, 4)], "test": [(0, 0, 2), (0, 0, 3), (1, 0, 0)]}
FIVE_SCORES = FromMatrix(
    [
        [0.7, 0.9, 0.8, 0.5, 0.6],  # 2 beats all that is left; 3 is behind 0
        [0.4, 0.1, 0.4, 0.7, 0.2],  # 0 is behind 3, tied with 2, before 1 and 4
        [0.0, 0.0, 0.1, 0.0, 0.0],
        [0.0, 0.0, 0.9, 0.5, 0.0],
        [0.0, 0.0, 0.3, 0.1, 0.0],
    ]
)


def test_figures_of_a_graph_of_five_nodes_by_hand() -> None:
    evaluation = Evaluation(hits_at=[1, 2], recall_at=[1, 2, 3])
    figures = compute(ranks_of(FIVE_SCORES, FIVE_SPLITS, "test", FIVE), ["to"], evaluation)
    # Tails. (0, ?): 1, 2, 3, 4 are known, so 0 is the only rival: ranks 1 (0.8 > 0.7) and 2 (0.5 < 0.7).
    #        (1, ?): rivals 1, 2, 3, 4; 0 is behind 3 and tied with 2: rank 2.5.
    # Heads. (?, 2): column 2 is .8 .4 .1 .9 .3; rivals 1, 2, 3, 4; 0 is behind 3: rank 2.
    #        (?, 3): column 3 is .5 .7 0 .5 .1; 0 is behind 1 and tied with 3: rank 2.5.
    #        (?, 0): column 0 is .7 .4 0 0 0; rivals 0, 2, 3, 4; 1 is behind 0: rank 2.
    tails, heads = [1, 2, 2.5], [2, 2.5, 2]
    tail_mrr, head_mrr = (sum(1 / rank for rank in ranks) / 3 for ranks in (tails, heads))
    # Sets of tails. (0, ?): 1 and 4 are removed, left are 2 (.8), 0 (.7), 3 (.5): places 1 and 3 of the two held out.
    #                (1, ?): place 2.5 of one.
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    assert figures["to"] == figures["all"]
    assert figures["all"] == pytest.approx(
        {
            "mrr": (tail_mrr + head_mrr) / 2,
            "hits@1": 1 / 6,
            "hits@2": 4 / 6,
            "mrr_lhs": head_mrr,
            "hits@1_lhs": 0,
            "hits@2_lhs": 2 / 3,
            "mrr_rhs": tail_mrr,
            "hits@1_rhs": 1 / 3,
            "hits@2_rhs": 2 / 3,
            "recall@1": (1 / 2 + 0) / 2,
            "recall@2": (1 / 2 + 0) / 2,
            "recall@3": (1 + 1) / 2,
            "ndcg@1": (1 + 0) / 2,
            "ndcg@2": (1 / (1 + second) + 0) / 2,
            "ndcg@3": ((1 + third) / (1 + second) + 1 / math.log2(3.5)) / 2,
            # Tails: 1 of 1 outscored, 0 of 1, 2.5 of 4; heads: 3 of 4, 2.5 of 4, 3 of 4.
            "auc": (1 + 0 + 2.5 / 4 + 3 / 4 + 2.5 / 4 + 3 / 4) / 6,
            "edges": 3,
        }
    )


def test_validation_keeps_the_test_tails_as_candidates() -> None:
    evaluation = Evaluation(split="validation", hits_at=[1], recall_at=[1, 2, 3])
    figures = compute(ranks_of(FIVE_SCORES, FIVE_SPLITS, "validation", FIVE), ["to"], evaluation)["all"]
    # (0, ?) → 4: only train's 1 is removed; 2 (.8) and 0 (.7) are before 4 (.6), 3 (.5) behind it: place 3.
    assert [figures[f"recall@{k}"] for k in (1, 2, 3)] == [0, 0, 1]
    assert figures["ndcg@3"] == pytest.approx(1 / math.log2(4))
    assert figures["mrr_rhs"] == 1 / 2  # the rank is filtered by all that is known: only 0 is a rival


def test_an_answer_without_rivals_has_rank_1_and_no_opinion_in_auc() -> None:
    splits = {"train": [(0, 0, node) for node in range(4)], "test": [(0, 0, 4)]}
    ranks = ranks_of(FIVE_SCORES, splits, "test", FIVE)
    assert (ranks["rhs"].rank.tolist(), ranks["rhs"].rivals.tolist()) == ([1.0], [0])
    figures = compute(ranks, ["to"], Evaluation(hits_at=[1], recall_at=[1]))["all"]
    head_rank = 2  # column 4 is .6 .2 0 0 0: node 0 is before all
    assert figures["auc"] == (0.5 + (1 - (head_rank - 2) / 4)) / 2


def test_a_query_whose_held_out_tails_were_trained_on_is_not_averaged() -> None:
    splits = {"train": [(0, 0, 2)], "test": [(0, 0, 2), (1, 0, 3)]}
    figures = compute(ranks_of(FIVE_SCORES, splits, "test", FIVE), ["to"], Evaluation(hits_at=[1], recall_at=[1]))
    assert figures["all"]["recall@1"] == 1.0  # of (1, ?) alone, where 3 is first
    splits = {"train": [(0, 0, 2)], "test": [(0, 0, 2)]}
    figures = compute(ranks_of(FIVE_SCORES, splits, "test", FIVE), ["to"], Evaluation(hits_at=[1], recall_at=[1]))
    assert (figures["all"]["recall@1"], figures["all"]["ndcg@1"]) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    matrix = FIVE_SCORES.matrix.clone()
    matrix[0, 4] = bad
    with pytest.raises(UserError, match="scores of relation to are not finite"):
        ranks_of(FromMatrix(matrix.tolist()), FIVE_SPLITS, "test", FIVE)


def test_popularity_counts_training_edges_of_the_side_and_relation() -> None:
    train = to_edges([(0, 0, 1), (2, 0, 1), (0, 0, 3), (5, 1, 1), (8, 2, 8)])
    popularity = Popularity(SCHEMA, train)
    given = torch.tensor([3, 4])
    assert popularity.scores("rhs", 0, given).tolist() == [[0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert popularity.scores("lhs", 0, given).tolist() == [[2, 0, 1, 0, 0, 0, 0, 0, 0]]
    assert popularity.scores("rhs", 1, given).tolist() == [[0, 1, 0, 0, 0, 0, 0, 0, 0]]
    assert popularity.scores("lhs", 3, given).tolist() == [[0] * 9]


def test_popularity_ranks_by_hand() -> None:
    train = [(1, 0, 2), (3, 0, 2), (4, 0, 2), (3, 0, 3), (4, 0, 0)]
    splits = {"train": train, "test": [(0, 0, 3), (0, 0, 2)]}
    ranks = ranks_of(Popularity(FIVE, to_edges(train)), splits, "test", FIVE)
    # Tails by train degree: 2: 3, 3: 1, 0: 1, 1: 0, 4: 0. Of (0, ?), the other answer is filtered.
    assert ranks["rhs"].rank.tolist() == [1.0, 1.5]


def test_random_scores_are_uniform_and_follow_the_seed() -> None:
    schema = Schema({"node": 1000}, [Relation(name="to", lhs="node", rhs="node")])
    given = torch.arange(1000)
    scores = Random(schema, 1).scores("rhs", 0, given)
    assert scores.shape == (1000, 1000)
    assert torch.equal(scores, Random(schema, 1).scores("rhs", 0, given))
    assert not torch.equal(scores, Random(schema, 2).scores("rhs", 0, given))
    assert not torch.equal(scores, Random(schema, 1).scores("lhs", 0, given))
    assert torch.equal(scores[10:20], Random(schema, 1).scores("rhs", 0, given[10:20]))  # whatever the block
    beaten = (scores < scores[:, :1]).float().mean(1)  # the share that node 0 outscores: uniform over queries
    assert beaten.mean().item() == pytest.approx(0.5, abs=0.05)
    assert beaten.std().item() == pytest.approx(1 / math.sqrt(12), abs=0.05)
