"""Nodes that the earlier version knows without a training edge are as good as new: against a loop over the edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig, small_configs
from tests.training.test_warm_start import Array, saved, state
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.earlier import ANCHOR, EARLIER, START

Edge = tuple[str, str, str]
TABLES = {"follow": ("user", "user"), "fav": ("user", "tweet")}


class Days:
    """Two days of drawn edges. The first knows some nodes from held-out edges alone."""

    def __init__(self, folder: Path, seed: int) -> None:
        rng, self._folder = np.random.default_rng(seed), folder
        users, tweets = [f"u{n}" for n in range(20)], [f"t{n}" for n in range(15)]
        cold = {"user": [f"c{n}" for n in range(6)], "tweet": [f"d{n}" for n in range(4)]}
        self.train = self._draw(rng, users, tweets, 90)
        self.test = self._draw(rng, [*users[:5], *cold["user"]], [*tweets[:5], *cold["tweet"]], 80)
        # Half of the cold nodes get edges, among them such to each other, as do new ones.
        users = [*users[3:], *cold["user"][:3], "n0", "n1"]
        tweets = [*tweets[2:], *cold["tweet"][:2], "n2"]
        self.second = self._draw(rng, users, tweets, 120)
        self.second += [("c5", "follow", "c4")]  # both cold: neither says anything of the other

    @staticmethod
    def _draw(rng: np.random.Generator, users: list[str], tweets: list[str], count: int) -> list[Edge]:
        drawn = {(str(rng.choice(users)), "fav", str(rng.choice(tweets))) for _ in range(count // 2)}
        pairs = (rng.choice(users, 2, replace=False).tolist() for _ in range(count // 2))
        return sorted(drawn | {(lhs, "follow", rhs) for lhs, rhs in pairs})

    def sources(self, **of_splits: list[Edge]) -> list[dict[str, Any]]:
        found = []
        for split, edges in of_splits.items():
            path = self._folder / f"{len(edges)}-{split}.parquet"
            columns = map(list, zip(*edges, strict=True))
            pq.write_table(pa.table(dict(zip(("lhs", "relation", "rhs"), columns, strict=True))), path)
            found.append({"path": str(path), "relation_column": "relation", "split": split})
        return found


def config_of(small_config: SmallConfig, sources: list[dict[str, Any]], **sections: Any) -> Config:
    return small_config(prepare={"sources": sources, "split": None}, **sections)


@pytest.fixture(scope="module", params=range(3))
def days(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Days:
    return Days(tmp_path_factory.mktemp("days"), request.param)


@pytest.fixture(scope="module")
def before(days: Days, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The root of the first day's run, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("first")
    config, root = config_of(small_configs(folder), days.sources(train=days.train, test=days.test)), str(folder / "run")
    prepare(config, root)
    train(config, root)
    return root


def ids(root: str, table: str) -> list[str]:
    folder = Path(root, "graph/vocab", table)
    names: list[str] = pq.read_table(folder).sort_by("index")["id"].to_pylist()
    return names


def nodes(edges: list[Edge], table: str) -> set[str]:
    ends = [(TABLES[name], (lhs, rhs)) for lhs, name, rhs in edges]
    return {node for of, pair in ends for kind, node in zip(of, pair, strict=True) if kind == table}


def vectors(root: str, table: str) -> dict[str, Array]:
    return dict(zip(ids(root, table), saved(root, f"tables.embeddings.{table}.weight"), strict=True))


def predicted(days: Days, before: str, known: dict[str, set[str]]) -> dict[tuple[str, str], Array]:
    """By table and node, the mean of what its edges of the second day to `known` nodes predict, for the others."""
    earlier = {table: vectors(before, table) for table in ("user", "tweet")}
    moves = dict(zip(("follow", "fav"), saved(before, "scorer.operator.translation"), strict=True))
    found: dict[tuple[str, str], list[Array]] = {}
    for lhs, name, rhs in days.second:
        lhs_table, rhs_table = TABLES[name]
        if lhs in known[lhs_table] and rhs not in known[rhs_table]:
            found.setdefault((rhs_table, rhs), []).append(earlier[lhs_table][lhs] + moves[name])
        if rhs in known[rhs_table] and lhs not in known[lhs_table]:
            found.setdefault((lhs_table, lhs), []).append(earlier[rhs_table][rhs] - moves[name])
    return {node: np.mean(values, axis=0) for node, values in found.items()}


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_they_start_from_their_neighbors(
    days: Days, before: str, small_config: SmallConfig, tmp_path: Path, ranks: int
) -> None:
    root = str(tmp_path / "second")
    config = config_of(small_config, days.sources(train=days.second), training={"warm_start": {"from": before}})
    prepare(config, root)
    found = state(config, root, ranks)
    trained = {table: nodes(days.train, table) for table in ("user", "tweet")}
    expected = predicted(days, before, trained)
    tables = storage.read_json(storage.join(root, EARLIER))[START]["tables"]
    for table, counts in tables.items():
        earlier, here = vectors(before, table), ids(root, table)
        momentum = dict(
            zip(ids(before, table), saved(before, f"optimizer.tables.embeddings.{table}.weight.{table}.momentum1"),
                strict=True)
        )  # fmt: skip
        rows = found[f"tables.embeddings.{table}.weight"]
        states = found[f"optimizer.tables.embeddings.{table}.weight.{table}.momentum1"]
        for name, row, own in zip(here, rows, states, strict=True):
            if name in trained[table]:
                assert np.array_equal(row, earlier[name])
                assert np.array_equal(own, momentum[name])
                continue
            assert not own.any(), "the optimizer begins anew"
            if (table, name) in expected:
                assert row == pytest.approx(expected[table, name], rel=1e-4, abs=1e-6)
            elif name in earlier:
                assert np.array_equal(row, earlier[name]), "nothing better is known"
        matched = set(here) & set(earlier)
        assert counts == {
            "matched": len(matched),
            "untrained": len(matched - trained[table]),
            "new": len(set(here) - set(earlier)),
            "from_neighbors": len([name for name in here if (table, name) in expected]),
            "gone": len(set(earlier) - set(here)),
        }
    assert tables["user"]["untrained"] > 2


def test_they_are_not_anchored(days: Days, before: str, small_config: SmallConfig, tmp_path: Path) -> None:
    root = str(tmp_path / "second")
    training = {"anchor": {"to": before, "weight": 0.1}, "num_epochs": 1}
    config = config_of(small_config, days.sources(train=days.second), training=training)
    prepare(config, root)
    train(config, root)
    held = storage.read_json(storage.join(root, EARLIER))[ANCHOR]["tables"]
    assert held == {table: len(nodes(days.train, table) & set(ids(root, table))) for table in ("user", "tweet")}


def test_they_are_no_drift(days: Days, before: str, small_config: SmallConfig, tmp_path: Path) -> None:
    root = str(tmp_path / "second")
    sources = days.sources(train=days.second, test=days.test)
    config = config_of(small_config, sources, training={"num_epochs": 1}, evaluation={"previous": before})
    prepare(config, root)
    train(config, root)
    tables = evaluate(config, root)["drift"]["tables"]
    for table in ("user", "tweet"):
        shared = nodes(days.train, table) & set(ids(root, table))
        assert tables[table]["all"]["nodes"] == len(shared)
        now, old = vectors(root, table), vectors(before, table)
        cosines = [now[name] @ old[name] / np.linalg.norm(now[name]) / np.linalg.norm(old[name]) for name in shared]
        assert tables[table]["all"]["cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)


def test_they_are_embedded_like_new_nodes(days: Days, before: str) -> None:
    trained = {table: nodes(days.train, table) for table in ("user", "tweet")}
    expected = predicted(days, before, trained)
    edges = pa.table(dict(zip(("lhs", "relation", "rhs"), map(list, zip(*days.second, strict=True)), strict=True)))
    for table in ("user", "tweet"):
        found = Embeddings.load(before).embed(table, edges, "mean")
        assert found["id"].to_pylist() == sorted(name for of, name in expected if of == table)
        for name, vector in zip(found["id"].to_pylist(), found["embedding"].to_pylist(), strict=True):
            assert vector == pytest.approx(expected[table, name], rel=1e-4, abs=1e-5)
