"""The generated network's properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from twhin_core.config.generate import Generate
from twhin_core.stages.prepare import prepare
from twhin_core.synthetic.generate import generate
from twhin_core.synthetic.planted import KINDS, plant

SMALL = Generate(users=300, tweets=400, communities=10, edges_per_user=30, seed=5)


def test_edges_are_distinct_and_without_self_loops(tmp_path: Path) -> None:
    (source,) = generate(SMALL, str(tmp_path))
    rows = pq.read_table(source.path).to_pylist()
    assert len({(row["lhs"], row["relation"], row["rhs"]) for row in rows}) == len(rows)
    assert 0.6 * 300 * 30 < len(rows) < 300 * 30
    for row in rows:
        lhs_table, lhs = row["lhs"].split(":")
        rhs_table, rhs = row["rhs"].split(":")
        assert lhs_table == "user"
        assert rhs_table == ("user" if row["relation"] == "follow" else "tweet")
        assert 0 <= int(lhs) < 300
        assert 0 <= int(rhs) < (300 if rhs_table == "user" else 400)
        assert row["lhs"] != row["rhs"]
        assert row["time"].year == 2023
    assert {row["relation"] for row in rows} == {"follow", "fav", "reply", "retweet"}


def test_a_seed_reproduces_the_network(tmp_path: Path) -> None:
    other = SMALL.model_copy(update={"seed": 6})
    for name, settings in (("one", SMALL), ("two", SMALL), ("other", other)):
        generate(settings, str(tmp_path / name))
    content = {name: (tmp_path / name / "edges/part-00000.parquet").read_bytes() for name in ("one", "two", "other")}
    assert content["one"] == content["two"] != content["other"]


@pytest.mark.parametrize("interests", [1, 3])
def test_pairs_are_drawn_at_their_rates(interests: int) -> None:
    # Without repeats the drawn share of a pair in many draws is 1 - exp(-n · rate); summed over the pairs of a cell
    # (inside or outside the community) it must fit what was drawn, whatever the sampling does inside.
    settings = Generate(users=40, tweets=50, communities=5, edges_per_user=1, interests=interests)
    count, draws = 400, 300
    for planted in plant(settings, np.random.default_rng(1)):
        size = len(planted.popularity)
        lhs, rhs = np.arange(40)[:, None], np.arange(size)[None]
        # The definition: each interest alone, worked out by a sum over nodes instead of the class's stored ones.
        within = np.zeros((40, size))
        for number in range(interests):
            inside = planted.interests[:, number][lhs] == planted.rhs_community[rhs]
            of_interest = inside * planted.popularity[None]
            within += of_interest / of_interest.sum(1, keepdims=True) / interests
        rate = planted.activity[:, None] * (
            planted.kind.within * within + (1 - planted.kind.within) * planted.popularity
        )
        assert rate.sum() == pytest.approx(1)
        if planted.kind.rhs == "user":
            rate[np.arange(40), np.arange(40)] = 0
        np.testing.assert_allclose(planted.rates(lhs, rhs), rate, rtol=1e-12)
        seen = np.zeros((40, size))
        rng = np.random.default_rng(2)
        for _ in range(draws):
            seen[planted.draw(count, rng)] += 1
        expected = draws * (1 - (1 - rate) ** count)
        deviation = (seen - expected) / np.sqrt(np.maximum(expected * (1 - expected / draws), 1e-9))
        # A variance of 1 within the noise of its estimate, and no pair far out.
        assert np.mean(deviation[rate > 0] ** 2) == pytest.approx(1, abs=0.15)
        assert np.abs(deviation[rate > 0]).max() < 6
        assert not seen[rate == 0].any()


def test_most_interactions_stay_in_the_community() -> None:
    rng = np.random.default_rng(3)
    for planted in plant(Generate(), rng):
        lhs, rhs = planted.draw(20_000, rng)
        inside = (planted.interests[lhs, 0] == planted.rhs_community[rhs]).mean()
        # Outside ones fall into the community by chance too, once in 100, and repeats thin out the inside.
        assert planted.kind.within - 0.08 < inside < planted.kind.within + 0.03


def test_more_interests_change_neither_communities_nor_popularity() -> None:
    one, three = (plant(Generate(interests=count), np.random.default_rng(4)) for count in (1, 3))
    for alone, many in zip(one, three, strict=True):
        assert many.interests.shape == (8000, 3)
        for field in ("activity", "rhs_community", "popularity"):
            np.testing.assert_array_equal(getattr(alone, field), getattr(many, field))
        np.testing.assert_array_equal(alone.interests[:, 0], many.interests[:, 0])
        assert (np.stack([np.bincount(of) for of in many.interests.T]) == 80).all()  # 8,000 users, 100 communities


def test_a_network_with_one_interest_is_that_of_earlier_versions() -> None:
    rng = np.random.default_rng(5)
    follow, fav, *_ = plant(SMALL, rng)
    lhs, rhs = fav.draw(50, rng)
    drawn_before = [(3, 277), (4, 149), (6, 391), (13, 44), (16, 265)]
    assert list(zip(lhs.tolist(), rhs.tolist(), strict=True))[:5] == drawn_before
    assert follow.rates(np.array([3]), np.array([4]))[0] == pytest.approx(8.562731487855232e-07, rel=1e-12)


def test_prepare_generates_the_network_into_the_run(small_config: SmallConfig, tmp_path: Path) -> None:
    relations = [{"name": kind.name, "lhs": "user", "rhs": kind.rhs} for kind in KINDS]
    config = small_config(prepare={"sources": [], "generate": SMALL.model_dump()}, model={"relations": relations})
    manifest = prepare(config, str(tmp_path / "run"))
    rows = pq.read_table(tmp_path / "run/raw/edges").num_rows
    assert sum(entry.edges for entry in manifest.splits.values()) == rows
    assert manifest.rejected.rows == 0
