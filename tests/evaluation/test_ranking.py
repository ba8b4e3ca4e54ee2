"""Ranks and metrics against the definition in plain loops, and by hand."""

from __future__ import annotations

import math
from collections import Counter as PlainCounter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation.brute_force import BruteForce, Triple
from tests.evaluation.graphs import TableCheckpoint, model_config, random_graph, schema_of
from tests.evaluation.rankers import (
    LARGE,
    ByMatrix,
    apart,
    ends_of,
    figures,
    large_model,
    model_ranker,
    rank_graph,
    sets_of,
)
from twhin_core.config import Evaluation, Relation
from twhin_core.data.edges import Edges
from twhin_core.errors import UserError
from twhin_core.evaluation.baselines import Popularity, rank_at_random
from twhin_core.evaluation.task import RankingResult
from twhin_core.ranking import compare
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.products import Precision
from twhin_core.ranking.queries import Split, held_out
from twhin_core.schema import SIDES, Schema, Side

HITS_AT, RECALL_AT = [1, 3, 10], [1, 2, 5, 20]
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


RELATIONS = {"all": None, "fav": 0, "follow": 1, "of": 2}


def evaluation_of(split: Split) -> Evaluation:
    return Evaluation(split=split, hits_at=HITS_AT, recall_at=RECALL_AT)


class FewScores(ByMatrix):
    """Scores from a small set of values: most of them tie."""

    def __init__(self, seed: int, values: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.matrices = {
            (side, rel): torch.randint(values, (20, SIZES[side][rel]), generator=generator).float()
            for side in SIDES
            for rel in range(4)
        }
        super().__init__(lambda side, rel: self.matrices[side, rel])

    def __call__(self, side: str, edge: Triple) -> float:
        lhs, rel, rhs = edge
        given, wanted = (lhs, rhs) if side == "rhs" else (rhs, lhs)
        return float(self.matrices["rhs" if side == "rhs" else "lhs", rel][given, wanted])


@pytest.mark.parametrize("evaluated", ["test", "validation"])
@pytest.mark.parametrize("seed", range(8))
def test_metrics_equal_brute_force_under_ties(seed: int, evaluated: Split) -> None:
    splits, scores = random_graph(SCHEMA, seed), FewScores(seed, values=2 + seed)
    found = figures(scores, splits, evaluation_of(evaluated), SCHEMA)
    expected = BruteForce(splits, evaluated, SIZES, scores)
    assert list(found) == list(RELATIONS)
    for name, rel in RELATIONS.items():
        assert found[name] == pytest.approx(expected.figures(rel, HITS_AT, RECALL_AT), abs=1e-12)


@pytest.fixture(params=["torch", "kernel"])
def counted_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How scores are counted: as on a CPU, or as on a GPU."""
    if request.param == "kernel":
        pytest.importorskip("tests.kernels")
    monkeypatch.setattr(compare, "has_kernel", lambda _: request.param == "kernel")
    return str(request.param)


def test_rank_of_each_edge_equals_brute_force(counted_by: str) -> None:
    splits, scores = random_graph(SCHEMA, 3), FewScores(3, values=4)
    expected = BruteForce(splits, "test", SIZES, scores)
    held, results = rank_graph(scores, splits, "test", SCHEMA)
    for side in SIDES:
        of, result = held[side], results[side]
        ends = (of.node, of.answer) if side == "rhs" else (of.answer, of.node)
        edges = list(zip(ends[0].tolist(), of.rel.tolist(), ends[1].tolist(), strict=True))
        assert set(edges) == set(splits["test"])
        for row, edge in enumerate(edges):
            assert (result.ranks["model"].rank[row], result.negatives[row]) == expected.rank_and_negatives(side, edge)
            assert of.edges[row] == splits["test"].count(edge)


def test_many_held_out_answers_of_a_query_are_each_compared(counted_by: str) -> None:
    """More than are compared beside other queries', and more than the lines of a product."""
    schema = Schema({"node": 700}, [Relation(name="to", lhs="node", rhs="node")])
    rng = np.random.default_rng(0)
    many = [(0, 0, int(node)) for node in rng.choice(700, 400, replace=False)]
    some = [(int(rng.integers(1, 4)), 0, int(node)) for node in rng.choice(700, 90, replace=False)]
    splits = {"train": [(0, 0, 1), (1, 0, 2)], "test": many + some}
    values = torch.randint(50, (700, 700), generator=torch.Generator().manual_seed(0)).float()
    expected = BruteForce(splits, "test", {"lhs": [700], "rhs": [700]}, lambda _, edge: float(values[edge[0], edge[2]]))
    scores = ByMatrix(lambda side, _: values if side == "rhs" else values.T)
    held, results = rank_graph(scores, splits, "test", schema)
    of, result = held["rhs"], results["rhs"]
    for row in range(len(of)):
        edge = (int(of.node[row]), 0, int(of.answer[row]))
        assert (result.ranks["model"].rank[row], result.negatives[row]) == expected.rank_and_negatives("rhs", edge)


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("comparator", ["dot", "cos", "l2", "squared_l2"])
def test_a_model_is_ranked_by_the_score_of_its_definition(comparator: str, reciprocal: bool) -> None:
    relations = [(relation.name, relation.lhs, relation.rhs) for relation in SCHEMA.relations]
    config = model_config(SCHEMA.tables, relations, dim=4, comparator=comparator, reciprocal=reciprocal)
    generator = torch.Generator().manual_seed(1)

    def draw(rows: int) -> Tensor:
        """Multiples of 1/4: inner products are exact, equal ones tie. For cosines no two are equal but to rounding."""
        if comparator == "cos":
            return torch.randn(rows, 4, generator=generator)
        return torch.randint(-2, 3, (rows, 4), generator=generator) / 4

    tables = {name: draw(rows) for name, rows in SCHEMA.tables.items()}
    checkpoint = TableCheckpoint(tables, draw(4), draw(4) if reciprocal else None)

    def score(side: str, edge: Triple) -> float:
        lhs, rel, rhs = edge
        head, tail = tables[SCHEMA.relations[rel].lhs][lhs].double(), tables[SCHEMA.relations[rel].rhs][rhs].double()
        if side == "lhs" and checkpoint.inverse is not None:
            tail = tail + checkpoint.inverse[rel]
        else:
            head = head + checkpoint.translation[rel]
        if comparator in ("l2", "squared_l2"):
            return -float((head - tail).square().sum())
        length = math.sqrt(float(head @ head) * float(tail @ tail)) if comparator == "cos" else 1.0
        return float(head @ tail) / length

    splits = random_graph(SCHEMA, 5)
    expected = BruteForce(splits, "test", SIZES, score)
    sets = sets_of(config.model, SCHEMA)
    found = figures(model_ranker(config, checkpoint), splits, evaluation_of("test"), SCHEMA, sets)
    for name, rel in RELATIONS.items():
        assert found[name] == pytest.approx(expected.figures(rel, HITS_AT, RECALL_AT), abs=1e-12)


@pytest.mark.parametrize("model", [{}, {"comparator": "cos"}])
def test_in_little_memory_the_ranks_are_the_same(model: dict[str, object]) -> None:
    """Tables streamed and queries in chunks, against all in memory."""
    config, checkpoint, splits = large_model(**model)
    schema, sets = schema_of(config), sets_of(config.model, schema_of(config))
    _, whole = rank_graph(model_ranker(config, checkpoint), splits, "validation", schema, sets)
    _, streamed = rank_graph(model_ranker(config, checkpoint, 1000), splits, "validation", schema, sets, memory=50_000)
    for side in SIDES:
        one, other = whole[side], streamed[side]
        np.testing.assert_array_equal(one.ranks["model"].rank, other.ranks["model"].rank)
        np.testing.assert_array_equal(one.ranks["model"].list_rank, other.ranks["model"].list_rank)
        np.testing.assert_array_equal(one.negatives, other.negatives)


@pytest.mark.parametrize("evaluated", ["test", "validation"])
@pytest.mark.parametrize("seed", range(4))
def test_sampled_ranks_are_among_the_drawn(seed: int, evaluated: Split, tmp_path: Path) -> None:
    """Some drawn twice; known ones are filtered wherever they are."""
    splits, scores = random_graph(SCHEMA, seed), FewScores(seed, values=4)
    rng = np.random.default_rng(seed)
    drawn = {(side, rel): np.sort(rng.integers(SIZES[side][rel], size=7)) for side in SIDES for rel in range(4)}

    def sets(side: Side) -> list[CandidateSet]:
        return [replace(of, size=7, drawn=drawn[side, int(of.relations[0])]) for of in apart(SCHEMA, side)]

    popular = {
        side: [
            PlainCounter(edge[2 if side == "rhs" else 0] for edge in splits["train"] if edge[1] == rel)
            for rel in range(4)
        ]
        for side in SIDES
    }
    known = {edge for edges in splits.values() for edge in edges}
    by_count = Popularity(ends_of(splits["train"], SCHEMA, tmp_path))
    for ranker, score in (
        (scores, scores),
        (by_count, lambda side, edge: popular[side][edge[1]][edge[2 if side == "rhs" else 0]]),
    ):
        held, results = rank_graph(ranker, splits, evaluated, SCHEMA, sets)
        for side in SIDES:
            of, result = held[side], results[side]
            for row in range(len(of)):
                given, rel, answer = int(of.node[row]), int(of.rel[row]), int(of.answer[row])

                def edge(node: int, side: str = side, given: int = given, rel: int = rel) -> Triple:
                    return (given, rel, node) if side == "rhs" else (node, rel, given)

                own = score(side, edge(answer))
                negatives = [score(side, edge(n)) for n in drawn[side, rel].tolist() if edge(n) not in known]
                rank = (
                    1
                    + sum(negative > own for negative in negatives)
                    + sum(negative == own for negative in negatives) / 2
                )
                assert (result.ranks["model"].rank[row], result.negatives[row]) == (rank, len(negatives))


def test_a_sampled_rank_is_that_among_all_in_proportion() -> None:
    """The share of negatives above an answer, against that among all, within a sample mean's standard deviations."""
    config, checkpoint, splits = large_model()
    schema, all_of = schema_of(config), sets_of(config.model, schema_of(config))
    generator = np.random.default_rng(0)
    count = 1000

    def sets(side: Side) -> list[CandidateSet]:
        return [replace(of, size=count, drawn=np.sort(generator.integers(of.size, size=count))) for of in all_of(side)]

    ranker = model_ranker(config, checkpoint)
    (_, exact), (_, sampled) = (rank_graph(ranker, splits, "test", schema, of) for of in (all_of, sets))
    for side in SIDES:
        share, estimate = ((of[side].ranks["model"].rank - 1) / of[side].negatives for of in (exact, sampled))
        deviation = np.sqrt(share * (1 - share) / count) + 1e-3
        assert (abs(estimate - share) < 5 * deviation).all()
        assert abs((estimate - share) / deviation).mean() == pytest.approx(math.sqrt(2 / math.pi), rel=0.3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dim", [4, 8, 52, 200])
def test_equal_vectors_tie_wherever_they_stand(precision: Precision, dim: int) -> None:
    """All candidates of a table are one vector: whatever its score, each answer stands in the middle."""
    config, _, splits = large_model()
    config = model_config(LARGE, [("fav", "user", "tweet"), ("follow", "user", "user"), ("of", "tweet", "user")], dim)
    generator = torch.Generator().manual_seed(dim)
    tables = {name: torch.randn(1, dim, generator=generator).repeat(rows, 1) for name, rows in LARGE.items()}
    checkpoint = TableCheckpoint(tables, torch.randn(3, dim, generator=generator))
    schema = schema_of(config)
    ranker = model_ranker(config, checkpoint, precision=precision)
    _, results = rank_graph(ranker, splits, "test", schema, sets_of(config.model, schema))
    for side in SIDES:
        np.testing.assert_array_equal(results[side].ranks["model"].rank, 1 + results[side].negatives / 2)


def test_bf16_ranks_by_vectors_of_eight_bits() -> None:
    """Vectors that bf16 holds exactly are ranked as in fp32; others by what they are rounded to."""
    config, checkpoint, splits = large_model()
    sets, schema = sets_of(config.model, schema_of(config)), schema_of(config)
    checkpoint.tables = {name: of.bfloat16().float() for name, of in checkpoint.tables.items()}
    checkpoint.translation.zero_()
    ranks = []
    for precision in ("fp32", "bf16"):
        _, results = rank_graph(model_ranker(config, checkpoint, precision=precision), splits, "test", schema, sets)
        ranks.append(results["rhs"].ranks["model"].rank)
    np.testing.assert_array_equal(ranks[0], ranks[1])
    checkpoint.tables["tweet"] = checkpoint.tables["tweet"] * (1 + 2**-12)
    _, results = rank_graph(model_ranker(config, checkpoint, precision="bf16"), splits, "test", schema, sets)
    np.testing.assert_array_equal(results["rhs"].ranks["model"].rank, ranks[0])


class FromMatrix(ByMatrix):
    def __init__(self, rows: list[list[float]]) -> None:
        self.rows = torch.tensor(rows)
        super().__init__(lambda side, _: self.rows if side == "rhs" else self.rows.T)


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
    found = figures(FIVE_SCORES, FIVE_SPLITS, evaluation, FIVE)
    # Tails. (0, ?): 1, 2, 3, 4 are known, so 0 is the only negative: ranks 1 (0.8 > 0.7) and 2 (0.5 < 0.7).
    #        (1, ?): negatives 1, 2, 3, 4; 0 is behind 3 and tied with 2: rank 2.5.
    # Heads. (?, 2): column 2 is .8 .4 .1 .9 .3; negatives 1, 2, 3, 4; 0 is behind 3: rank 2.
    #        (?, 3): column 3 is .5 .7 0 .5 .1; 0 is behind 1 and tied with 3: rank 2.5.
    #        (?, 0): column 0 is .7 .4 0 0 0; negatives 0, 2, 3, 4; 1 is behind 0: rank 2.
    tails, heads = [1, 2, 2.5], [2, 2.5, 2]
    tail_mrr, head_mrr = (sum(1 / rank for rank in ranks) / 3 for ranks in (tails, heads))
    # Sets of tails. (0, ?): 1 and 4 are removed, left are 2 (.8), 0 (.7), 3 (.5): places 1 and 3 of the two held out.
    #                (1, ?): place 2.5 of one.
    # Sets of heads. None is removed, and each query has one: places 2, 2.5 and 2.
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    assert found["to"] == found["all"]
    for name in ("recall@1", "recall@2", "recall@3", "ndcg@1", "ndcg@2", "ndcg@3"):
        assert found["all"].pop(f"{name}_rhs") == found["all"][name]
    assert found["all"] == pytest.approx(
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
            "recall@1_lhs": 0,
            "recall@2_lhs": 2 / 3,
            "recall@3_lhs": 1,
            "ndcg@1_lhs": 0,
            "ndcg@2_lhs": 2 * second / 3,
            "ndcg@3_lhs": (2 * second + 1 / math.log2(3.5)) / 3,
            # Above their first ranks: 0, 1, 1.5 and 1, 1.5, 1; by chance .5, .5, 2 and three times 2.
            "amri": 1 - 6 / 9,
            "amri_rhs": 1 - 2.5 / 3,
            "amri_lhs": 1 - 3.5 / 6,
            # Tails: 1 of 1 outscored, 0 of 1, 2.5 of 4; heads: 3 of 4, 2.5 of 4, 3 of 4.
            "auc": (1 + 0 + 2.5 / 4 + 3 / 4 + 2.5 / 4 + 3 / 4) / 6,
            "edges": 3,
        }
    )


def test_validation_keeps_the_test_tails_as_candidates() -> None:
    evaluation = Evaluation(split="validation", hits_at=[1], recall_at=[1, 2, 3])
    found = figures(FIVE_SCORES, FIVE_SPLITS, evaluation, FIVE)["all"]
    # (0, ?) → 4: only train's 1 is removed; 2 (.8) and 0 (.7) are before 4 (.6), 3 (.5) behind it: place 3.
    assert [found[f"recall@{k}"] for k in (1, 2, 3)] == [0, 0, 1]
    assert found["ndcg@3"] == pytest.approx(1 / math.log2(4))
    assert found["mrr_rhs"] == 1 / 2  # the rank is filtered by all that is known: only 0 is a negative


def test_an_answer_without_negatives_has_rank_1_and_no_opinion_in_auc() -> None:
    splits = {"train": [(0, 0, node) for node in range(4)], "test": [(0, 0, 4)]}
    _, results = rank_graph(FIVE_SCORES, splits, "test", FIVE)
    assert (results["rhs"].ranks["model"].rank.tolist(), results["rhs"].negatives.tolist()) == ([1.0], [0])
    found = figures(FIVE_SCORES, splits, Evaluation(hits_at=[1], recall_at=[1]), FIVE)["all"]
    head_rank = 2  # column 4 is .6 .2 0 0 0: node 0 is before all
    assert found["auc"] == (0.5 + (1 - (head_rank - 2) / 4)) / 2


def test_a_query_whose_held_out_tails_were_trained_on_is_not_averaged() -> None:
    splits = {"train": [(0, 0, 2)], "test": [(0, 0, 2), (1, 0, 3)]}
    found = figures(FIVE_SCORES, splits, Evaluation(hits_at=[1], recall_at=[1]), FIVE)
    assert found["all"]["recall@1"] == 1.0  # of (1, ?) alone, where 3 is first
    splits = {"train": [(0, 0, 2)], "test": [(0, 0, 2)]}
    found = figures(FIVE_SCORES, splits, Evaluation(hits_at=[1], recall_at=[1]), FIVE)
    assert (found["all"]["recall@1"], found["all"]["ndcg@1"]) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    rows = FIVE_SCORES.rows.clone()
    rows[0, 4] = bad
    with pytest.raises(UserError, match="scores are not finite: the model diverged"):
        rank_graph(FromMatrix(rows.tolist()), FIVE_SPLITS, "test", FIVE)


@pytest.mark.parametrize("evaluated", ["test", "validation"])
@pytest.mark.parametrize("seed", range(3))
def test_popularity_ranks_by_training_edges_of_the_side_and_relation(
    seed: int, evaluated: Split, tmp_path: Path
) -> None:
    splits = random_graph(SCHEMA, seed)

    def score(side: str, edge: Triple) -> float:
        lhs, rel, rhs = edge
        return sum((r, n) == ((rel, rhs) if side == "rhs" else (rel, lhs)) for r, n in ends[side])

    ends = {
        "lhs": [(rel, lhs) for lhs, rel, _ in splits["train"]],
        "rhs": [(rel, rhs) for _, rel, rhs in splits["train"]],
    }
    expected = BruteForce(splits, evaluated, SIZES, score)
    popularity = Popularity(ends_of(splits["train"], SCHEMA, tmp_path))
    found = figures(popularity, splits, evaluation_of(evaluated), SCHEMA)
    for name, rel in RELATIONS.items():
        assert found[name] == pytest.approx(expected.figures(rel, HITS_AT, RECALL_AT), abs=1e-12)


def test_popularity_ranks_by_hand(tmp_path: Path) -> None:
    train = [(1, 0, 2), (3, 0, 2), (4, 0, 2), (3, 0, 3), (4, 0, 0)]
    splits = {"train": train, "test": [(0, 0, 3), (0, 0, 2)]}
    held, results = rank_graph(Popularity(ends_of(train, FIVE, tmp_path)), splits, "test", FIVE)
    # Tails by train degree: 2: 3, 3: 1, 0: 1, 1: 0, 4: 0. Of (0, ?), the other answer is filtered.
    assert held["rhs"].answer.tolist() == [2, 3]
    assert results["rhs"].ranks["model"].rank.tolist() == [1.0, 1.5]


def test_chance_ranks_uniformly_and_follows_the_seed() -> None:
    """4,000 queries of three held-out answers and 96 negatives, and two known answers that are candidates."""
    rows = np.repeat(np.arange(4000), 3)
    held = held_out(Edges(rows, np.zeros_like(rows), np.arange(12_000) % 3, np.ones(12_000, np.float32)), "rhs")
    result = RankingResult(np.full(12_000, 96), np.full(12_000, 2), np.zeros(12_000, np.bool_), {})
    ranks = rank_at_random(held, result, 1)
    assert np.array_equal(ranks.rank, rank_at_random(held, result, 1).rank)
    assert not np.array_equal(ranks.rank, rank_at_random(held, result, 2).rank)
    assert set(ranks.rank.tolist()) == set(range(1, 98))
    # Uniform on 1 … 97, and the position on 1 … 101: mean (n + 1) / 2, standard deviation √((n² - 1) / 12).
    for values, n in ((ranks.rank, 97), (ranks.list_rank, 101)):
        deviation = math.sqrt((n * n - 1) / 12)
        assert values.mean() == pytest.approx((n + 1) / 2, abs=4 * deviation / math.sqrt(12_000))
        assert values.std() == pytest.approx(deviation, rel=0.03)
