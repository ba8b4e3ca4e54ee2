"""The generated network's properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from twhin_core.config.prepare import Generate
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


def test_pairs_are_drawn_at_their_rates() -> None:
    # Without repeats the drawn share of a pair in many draws is 1 - exp(-n · rate); summed over the pairs of a cell
    # (inside or outside the community) it must fit what was drawn, whatever the sampling does inside.
    settings = Generate(users=40, tweets=50, communities=5, edges_per_user=1)
    count, draws = 400, 300
    for planted in plant(settings, np.random.default_rng(1)):
        size = len(planted.popularity)
        lhs, rhs = np.arange(40)[:, None], np.arange(size)[None]
        inside = planted.lhs_community[lhs] == planted.rhs_community[rhs]
        # The definition, worked out by two sums over nodes instead of the class's stored ones.
        within = np.where(
            inside, planted.popularity[None] / (inside * planted.popularity[None]).sum(1, keepdims=True), 0
        )
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
        inside = (planted.lhs_community[lhs] == planted.rhs_community[rhs]).mean()
        # Outside ones fall into the community by chance too, once in 100, and repeats thin out the inside.
        assert planted.kind.within - 0.08 < inside < planted.kind.within + 0.03


def test_prepare_generates_the_network_into_the_run(small_config: SmallConfig, tmp_path: Path) -> None:
    relations = [{"name": kind.name, "lhs": "user", "rhs": kind.rhs} for kind in KINDS]
    config = small_config(prepare={"sources": [], "generate": SMALL.model_dump()}, model={"relations": relations})
    manifest = prepare(config, str(tmp_path / "run"))
    rows = pq.read_table(tmp_path / "run/raw/edges").num_rows
    assert sum(entry.edges for entry in manifest.splits.values()) == rows
    assert manifest.rejected.rows == 0
