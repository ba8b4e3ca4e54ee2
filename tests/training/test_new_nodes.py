"""New nodes start where their edges to known nodes predict them: against a loop over the edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.test_warm_start import BY, FAV, FOLLOW, Array, Graph, saved, state
from twhin_core import storage
from twhin_core.stages.train import train
from twhin_core.training import new_nodes
from twhin_core.training.earlier import EARLIER, START

# A relation that the earlier version has, of each kind, and one that it does not have, which predicts as the identity.
RELATIONS = [
    {**FOLLOW, "operator": "translation", "weight": 3.0},
    {**FAV, "operator": "diagonal"},
    {**BY, "operator": "linear", "weight": 0.5},
]
LATE = {**FAV, "name": "late", "operator": "translation"}


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Graph, Graph]:
    rng = np.random.default_rng(11)
    users, tweets = [f"u{n}" for n in range(15)], [f"t{n}" for n in range(12)]

    def draw(users: list[str], tweets: list[str], relations: list[dict[str, Any]], count: int) -> list[Any]:
        tables = {"user": users, "tweet": tweets}
        drawn = {
            (str(rng.choice(tables[of["lhs"]])), of["name"], str(rng.choice(tables[of["rhs"]])))
            for of in relations
            for _ in range(count)
        }
        return [(*edge, float(rng.uniform(0.5, 2))) for edge in sorted(drawn)]

    first = Graph(users, tweets, draw(users, tweets, RELATIONS, 40), RELATIONS)
    users, tweets = [*rng.permutation(users).tolist(), "n0", "n1", "n2"], [*tweets[1:], "n5", "n6"]
    edges = draw(users, tweets, [*RELATIONS, LATE], 50)
    second = Graph([*users, "alone"], [*tweets, "far"], [*edges, ("n0", "fav", "far", 1.0)], [LATE, *RELATIONS[::-1]])
    first.write(tmp_path / "first")
    second.write(tmp_path / "second")
    return first, second


def predicted(side: str, kind: str, values: Array, known: Array, comparator: str) -> Array:
    """What an edge says of its node on `side`, by the textbook."""
    if kind == "translation":
        return known + values if side == "rhs" else known - values
    if kind == "diagonal":
        return known * values if side == "rhs" or comparator == "dot" else known / values
    if side == "rhs":
        return values @ known
    return values.T @ known if comparator == "dot" else np.linalg.solve(values, known)


def brute_force(before: str, first: Graph, second: Graph, cold: dict[str, Array], comparator: str) -> dict[str, Array]:
    """The tables that the second day should begin with."""
    old = {"user": first.users, "tweet": first.tweets}
    new = {"user": second.users, "tweet": second.tweets}
    earlier = {table: saved(before, f"tables.embeddings.{table}.weight").astype(np.float64) for table in old}
    sums: dict[tuple[str, str], Array] = {}
    weights: dict[tuple[str, str], float] = {}
    for lhs, name, rhs, weight in second.edges:
        relation = next(of for of in second.relations if of["name"] == name)
        kind, node = relation["operator"], {"lhs": lhs, "rhs": rhs}
        values = np.zeros(8) if name == "late" else saved(before, f"scorer.operator.{kind}")[0].astype(np.float64)
        for side, other in (("lhs", "rhs"), ("rhs", "lhs")):
            table, known_table = relation[side], relation[other]
            if node[side] not in old[table] and node[other] in old[known_table]:
                known = earlier[known_table][old[known_table].index(node[other])]
                key, w = (table, node[side]), weight * relation.get("weight", 1.0)
                sums[key] = sums.get(key, 0.0) + w * predicted(side, kind, values, known, comparator)
                weights[key] = weights.get(key, 0.0) + w
    found = {}
    for table, names in new.items():
        rows = [
            earlier[table][old[table].index(name)]
            if name in old[table]
            else sums[table, name] / weights[table, name]
            if (table, name) in sums
            else cold[f"tables.embeddings.{table}.weight"][row]
            for row, name in enumerate(names)
        ]
        found[table] = np.stack(rows)
    return found


def check(grown: tuple[Graph, Graph], tmp_path: Path, comparator: str, sharding: str = "auto", ranks: int = 1) -> None:
    first, second = grown
    before, root, model = str(tmp_path / "run1"), str(tmp_path / "run2"), {"comparator": comparator}
    train(first.config(tmp_path / "first", model=model, training={"num_epochs": 6}), before)
    settings: dict[str, Any] = {"model": model, "table": {"sharding": sharding}}
    cold = state(second.config(tmp_path / "second", **settings), str(tmp_path / "cold"), ranks)
    training = {"warm_start": {"from": before}}
    found = state(second.config(tmp_path / "second", training=training, **settings), root, ranks)
    for table, expected in brute_force(before, first, second, cold, comparator).items():
        assert found[f"tables.embeddings.{table}.weight"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    tables = storage.read_json(storage.join(root, EARLIER))[START]["tables"]
    assert {table: (of["new"], of["from_neighbors"]) for table, of in tables.items()} == {
        "user": (4, 3),
        "tweet": (3, 2),
    }


@pytest.mark.parametrize("comparator", ["dot", "cos", "l2"])
@pytest.mark.parametrize("at_once", [1 << 19, 7])
def test_a_new_node_is_the_mean_of_what_its_edges_predict(
    comparator: str, at_once: int, grown: tuple[Graph, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_nodes, "EDGES_AT_ONCE", at_once)
    monkeypatch.setattr(new_nodes, "PREDICTIONS_AT_ONCE", at_once)
    check(grown, tmp_path, comparator)


@pytest.mark.parametrize(
    ("sharding", "ranks"), [("row_wise", 2), pytest.param("data_parallel", 2, marks=pytest.mark.slow)]
)
def test_it_is_so_on_several_ranks(sharding: str, ranks: int, grown: tuple[Graph, Graph], tmp_path: Path) -> None:
    check(grown, tmp_path, "dot", sharding, 2)


def test_unit_rows_stay_of_length_1(grown: tuple[Graph, Graph], tmp_path: Path) -> None:
    first, second = grown
    before, unit = str(tmp_path / "run1"), {"table": {"optimizer": {"spherical_adagrad": {"lr": 0.1}}}}
    train(first.config(tmp_path / "first"), before)  # rows of any length
    training = {"warm_start": {"from": before, "optimizer_state": False}}
    found = state(second.config(tmp_path / "second", training=training, **unit), str(tmp_path / "run2"))
    for table in ("user", "tweet"):
        lengths = np.linalg.norm(found[f"tables.embeddings.{table}.weight"], axis=1)
        assert lengths == pytest.approx(np.ones(len(lengths)), abs=1e-5)
    known, row = saved(before, "tables.embeddings.user.weight")[3], second.users.index("u3")
    assert found["tables.embeddings.user.weight"][row] == pytest.approx(known / np.linalg.norm(known), abs=1e-6)
