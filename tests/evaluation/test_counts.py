"""Counts of nodes in files, against counters of Python's; and how candidates are drawn by them."""

from __future__ import annotations

from collections import Counter as PlainCounter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twhin_core.config import Evaluation, Relation
from twhin_core.data import frequencies
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import Counter, Run, StoredFrequencies
from twhin_core.errors import UserError
from twhin_core.ranking.candidates import CandidateSet, Sampler, check_candidates
from twhin_core.schema import Schema

SCHEMA = Schema(
    {"user": 700, "tweet": 900, "lonely": 50},
    [
        Relation(name="fav", lhs="user", rhs="tweet"),
        Relation(name="follow", lhs="user", rhs="user"),
        Relation(name="alone", lhs="lonely", rhs="lonely"),
    ],
)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that counts of some hundred nodes go to several files, and are read from them in several blocks."""
    monkeypatch.setattr(frequencies, "BLOCK", 100)
    monkeypatch.setattr(frequencies, "INDEX_STEP", 7)


def draw_edges(count: int) -> Edges:
    rng = np.random.default_rng(0)
    rel = rng.integers(2, size=count)
    rhs = (rng.random(count) ** 2 * np.where(rel == 0, 900, 700)).astype(np.int64)
    return Edges(rng.integers(700, size=count), rel, rhs, np.ones(count, np.float32))


def counted(edges: Edges, folder: Path) -> tuple[StoredFrequencies, StoredFrequencies]:
    counter = Counter(900, folder / "ends", memory=1)
    for start in range(0, len(edges), 300):
        counter.add_ends(edges.take(slice(start, start + 300)))
    ends = counter.stored()
    return ends, ends.regrouped(SCHEMA.ends, folder / "degrees", memory=1)


@pytest.mark.usefixtures("small_blocks")
def test_counts_in_files_are_those_of_a_plain_count(tmp_path: Path) -> None:
    edges = draw_edges(5000)
    ends, of_tables = counted(edges, tmp_path)
    plain = PlainCounter(zip((2 * edges.rel + 1).tolist(), edges.rhs.tolist(), strict=True))
    plain.update(zip((2 * edges.rel).tolist(), edges.lhs.tolist(), strict=True))
    found = {
        divmod(int(key), 900): int(count)
        for keys, counts in ends.blocks()
        for key, count in zip(keys, counts, strict=True)
    }
    assert found == plain
    group, node = np.random.default_rng(1).integers(0, [[6], [900]], size=(2, 500))
    expected = [plain[key] for key in zip(group.tolist(), node.tolist(), strict=True)]
    assert ends.of(group, node).tolist() == expected
    users = PlainCounter(edges.lhs.tolist()) + PlainCounter(edges.rhs[edges.rel == 1].tolist())
    assert of_tables.of(np.zeros(700, np.int64), np.arange(700)).tolist() == [users[node] for node in range(700)]
    nodes = np.concatenate([node for node, _ in of_tables.of_group(1)])
    assert nodes.tolist() == sorted(set(edges.rhs[edges.rel == 0].tolist()))


@pytest.mark.usefixtures("small_blocks")
def test_a_group_is_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, rng = 500, np.random.default_rng(2)
    keys = np.unique(rng.integers(groups * 900, size=20_000))
    counter = Counter(900, tmp_path / "ends", memory=1)
    counter.add(keys, keys + 1)
    stored, blocks, read = counter.stored(), frequencies._blocks, 0

    def counting(*arguments: Any) -> Iterator[Run]:
        nonlocal read
        for block in blocks(*arguments):
            read += len(block[0])
            yield block

    monkeypatch.setattr(frequencies, "_blocks", counting)
    for group in range(groups):
        nodes, counts = (np.concatenate(part) for part in zip(*stored.of_group(group), strict=True))
        mine = keys[keys // 900 == group]
        assert nodes.tolist() == (mine - group * 900).tolist()
        assert counts.tolist() == (mine + 1).tolist()
        assert stored.of(np.full(900, group), np.arange(900)).sum() == (mine + 1).sum()
    assert read <= 2 * (len(keys) + 2 * 7 * groups)  # not once per group


def test_no_edges_count_nothing(tmp_path: Path) -> None:
    ends, of_tables = counted(draw_edges(0), tmp_path)
    assert ends.of(np.array([0, 1]), np.array([3, 4])).tolist() == [0, 0]
    assert list(of_tables.of_group(0)) == []


def drawn(evaluation: Evaluation, counts: StoredFrequencies, table: str) -> np.ndarray:
    of = CandidateSet("rhs", table, np.array([0]), SCHEMA.tables[table])
    sampled = Sampler(evaluation, SCHEMA, counts).sample(of)
    assert sampled.size == evaluation.candidates
    assert sampled.drawn is not None
    assert (np.diff(sampled.drawn) >= 0).all()
    return sampled.drawn


@pytest.mark.usefixtures("small_blocks")
def test_candidates_are_drawn_by_the_power_of_their_degree(tmp_path: Path) -> None:
    """Many draws: each node as often as its share, within four standard deviations of a binomial law."""
    _, counts = counted(draw_edges(5000), tmp_path)
    count = 600_000
    rows = drawn(Evaluation(candidates=count, candidates_power=0.5), counts, "tweet")
    share = counts.of(np.ones(900, np.int64), np.arange(900)) ** 0.5
    expected = count * share / share.sum()
    found = np.bincount(rows, minlength=900)
    assert (found[expected == 0] == 0).all()
    assert (abs(found - expected) <= 5 * np.sqrt(expected)).all()
    lonely = drawn(Evaluation(candidates=40, candidates_power=0.5), counts, "lonely")
    assert len(np.unique(lonely)) > 10, "no node has an edge: uniform"


def test_uniform_candidates_are_different_nodes_and_follow_the_seed(tmp_path: Path) -> None:
    _, counts = counted(draw_edges(100), tmp_path)
    rows = drawn(Evaluation(candidates=300), counts, "tweet")
    assert len(np.unique(rows)) == 300
    assert np.array_equal(rows, drawn(Evaluation(candidates=300), counts, "tweet"))
    assert not np.array_equal(rows, drawn(Evaluation(candidates=300, seed=1), counts, "tweet"))
    assert rows.mean() == pytest.approx(450, abs=60)


def test_more_candidates_than_nodes_are_refused() -> None:
    check_candidates(Evaluation(candidates=50), SCHEMA)
    with pytest.raises(UserError, match="51 are more than the 50 nodes of table lonely, an end of relation alone"):
        check_candidates(Evaluation(candidates=51), SCHEMA)


def test_candidates_have_columns_wherever_they_were_drawn() -> None:
    of = CandidateSet("rhs", "tweet", np.array([0]), 6, np.array([2, 5, 5, 5, 7, 9]))
    columns, index = of.columns(np.array([5, 1, 9, 2]))
    assert list(zip(columns.tolist(), index.tolist(), strict=True)) == [(1, 0), (2, 0), (3, 0), (5, 2), (0, 3)]
