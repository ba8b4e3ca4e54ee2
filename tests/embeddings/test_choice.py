"""Which nodes an answer of `neighbors` may have, against scores and edges that are read from the run's own files."""

from __future__ import annotations

import datetime
import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.command_line import twhin
from tests.embeddings.test_embeddings import cosine
from tests.recommend.test_lists import Graph, Trained, read_lists
from tests.recommend.test_rule import plugin
from twhin.pipelines.options import choice_settings
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.schema import Side
from twhin_core.stages.recommend import recommend_once

__all__ = ["plugin"]

NO_ONE = "x"


def all_scores(graph: Graph, table: str, node: str, relation: str | None, side: str | None) -> dict[str, float]:
    """Of the candidates, without the node itself."""
    if relation is None:
        names, vectors = zip(*graph.tables[table].items(), strict=True)
        scores = dict(zip(names, cosine(graph.tables[table][node], np.stack(vectors)).tolist(), strict=True))
    elif side == "lhs":
        rhs = graph.tables[table][node]
        scores = {name: float((of + graph.moved[relation]) @ rhs) for name, of in graph.tables["user"].items()}
    else:
        query = graph.tables[table][node] + graph.moved[relation]
        other = "tweet" if relation == "fav" else "user"
        scores = {name: float(query @ vector) for name, vector in graph.tables[other].items()}
    candidates = table if relation is None else "user" if side == "lhs" or relation == "follow" else "tweet"
    return {name: score for name, score in scores.items() if (table, name) != (candidates, node)}


@pytest.fixture
def graph(trained: Trained) -> Graph:
    return Graph(*trained)


ASKED: list[tuple[str, str | None, Side | None]] = [
    ("user", "fav", None), ("user", "follow", "rhs"), ("user", "follow", "lhs"), ("tweet", "fav", "lhs"),
    ("user", None, None), ("tweet", None, None),
]  # fmt: skip


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_drawn_questions_and_choices(trained: Trained, graph: Graph, tmp_path: Path, data: st.DataObject) -> None:
    table, relation, side = data.draw(st.sampled_from(ASKED))
    node = data.draw(st.sampled_from(sorted(graph.tables[table])))
    scores = all_scores(graph, table, node, relation, side)
    names = sorted(scores)
    k, given, left_out = data.draw(st.integers(1, 45)), dict[str, Any](), {node}
    given["exclude"] = data.draw(st.sampled_from([[], [relation]])) if relation is not None else []
    if given["exclude"]:
        known = graph.known(relation or "")
        left_out |= (
            {lhs for lhs, rhs in known if rhs == node} if side == "lhs" else {r for lhs, r in known if lhs == node}
        )
    among = {*names} if relation == "fav" else {*names, node}
    wanted = data.draw(st.none() | st.lists(st.sampled_from([*names, node]), min_size=2, unique=True))
    if wanted is not None:
        (tmp_path / "items.txt").write_text("\n".join(wanted))
        given["candidates"], among = str(tmp_path / "items.txt"), among & {*wanted}
    least = data.draw(st.integers(0, 6)) if relation is not None else 0
    if least:
        ends = [edge[side != "lhs"] for edge in graph.known(relation or "", ("train",))]
        given["min_degree"] = least
        among = {name for name in among if ends.count(name) >= least}
    pairs = data.draw(
        st.none() | st.lists(st.tuples(st.sampled_from([node, NO_ONE]), st.sampled_from([*names, NO_ONE])))
    )
    if pairs:
        lhs, rhs = map(list, zip(*pairs, strict=True))
        if side == "lhs":
            lhs, rhs = rhs, lhs
        pq.write_table(pa.table({"lhs": lhs, "rhs": rhs}), tmp_path / "pairs.parquet")
        given["exclude_edges"] = str(tmp_path / "pairs.parquet")
        left_out |= {other for own, other in pairs if own == node}
    users = Embeddings.load(trained[1])[table]
    if not among:
        with pytest.raises(UserError, match=r"^candidates: no node of table .* is a candidate"):
            users.neighbors(node, relation, k, side, **given)
        return
    found = users.neighbors(node, relation, k, side, **given)
    expected = sorted(((name, of) for name, of in scores.items() if name in among - left_out), key=lambda of: -of[1])
    assert [one.id for one in found] == [name for name, _ in expected[:k]]
    assert [one.score for one in found] == pytest.approx([of for _, of in expected[:k]], abs=1e-5)


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoint kept", "checkpoint gone"])
def test_the_answers_for_a_user_are_its_list(trained: Trained, graph: Graph, tmp_path: Path, kept: bool) -> None:
    _, root = trained
    rows = [
        {"item": name, "stock": int(name[1:]) % 4, "day": f"2026-03-{1 + int(name[1:]) % 20:02}"}
        for name in graph.tables["tweet"]
    ]
    pa.csv.write_csv(pa.Table.from_pylist(rows), tmp_path / "items.csv")
    catalog = {
        "path": str(tmp_path / "items.csv"), "id": "item", "where": "stock > 0", "timestamp": "day", "max_age": "12d"
    }  # fmt: skip
    choice: dict[str, Any] = {
        "candidates": catalog, "min_degree": 2, "exclude": ["fav"], "rule": {"name": "two-of-a-kind", "fetch": 9}
    }  # fmt: skip
    recommend_once(root, "fav", {**choice, "k": 6}, str(tmp_path / "lists"))
    if not kept:
        shutil.rmtree(f"{root}/checkpoints")
    users, found = Embeddings.load(root)["user"], read_lists(tmp_path / "lists")
    assert sum(map(len, found.values())) > 40
    for user, candidates in found.items():
        answer = users.neighbors(user, "fav", 6, **choice)
        assert [one.id for one in answer] == [name for name, _ in candidates]
        assert [one.score for one in answer] == pytest.approx([of for _, of in candidates], abs=1e-5)


@pytest.mark.usefixtures("graph")
def test_the_command_takes_what_recommend_takes(trained: Trained, tmp_path: Path) -> None:
    _, root = trained
    rows = [
        {"item": f"t{number}", "stock": number % 3, "day": datetime.date(2026, 3, 1 + number % 20)}
        for number in range(30)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    pq.write_table(pa.table({"lhs": ["u3", "u4"], "rhs": ["t1", "t4"]}), tmp_path / "shown.parquet")
    options: list[str | Path] = [
        "--relation", "fav", "-k", "5", "--exclude", "fav", "--exclude-edges", tmp_path / "shown.parquet",
        "--candidates", tmp_path / "items.parquet", "--candidates-id", "item", "--candidates-where", "stock > 0",
        "--candidates-timestamp", "day", "--max-age", "15d", "--min-degree", "1",
    ]  # fmt: skip
    done = twhin("recommend", root, *options, "--output", tmp_path / "lists")
    assert done.returncode == 0, done.stderr
    ran = twhin("neighbors", root, "user", "u3", *options)
    assert ran.returncode == 0, ran.stderr
    found = [line.split("\t")[0] for line in ran.stdout.splitlines()]
    assert found == [name for name, _ in read_lists(tmp_path / "lists")["u3"]]
    assert found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"candidates_where": "a > 1"}, "--candidates-where chooses from a file: --candidates"),
        ({"candidates_id": "item"}, "--candidates-id chooses from a file: --candidates"),
        ({"max_age": "3d", "candidates_timestamp": "day"}, "--max-age chooses from a file: --candidates"),
        ({"rule": "even"}, "--rule and --fetch go together"),
        ({"fetch": 3}, "--rule and --fetch go together"),
    ],
)
def test_options_that_need_another_are_refused(given: dict[str, Any], message: str) -> None:
    names = inspect.signature(choice_settings).parameters
    with pytest.raises(UserError, match=f"^{message}"):
        choice_settings(**{**dict.fromkeys(names), **given})


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"min_degree": -1}, "neighbors: min_degree: input should be greater than or equal to 0"),
        ({"min_degree": 1000}, "candidates: no node of table tweet is a candidate"),
        ({"min_degree": 1, "relation": None}, "min_degree: counts the training edges of a relation; name the relation"),
        ({"min_degree": 1, "index": True}, "index: searches all nodes by single vectors; leave out min_degree, or the"),
        ({"candidates": "none.txt", "index": True}, "leave out candidates, or the index"),
        ({"candidates": "none.txt"}, "none.txt: no file matches"),
        ({"candidates": {"path": "none.txt", "max_age": "3d"}}, "neighbors: candidates.timestamp: the age of a"),
        ({"candidates": {"file": "none.txt"}}, "neighbors: candidates.file"),
        ({"exclude_edges": "none.parquet"}, "none.parquet: no file matches"),
        ({"exclude": ["follow"]}, "exclude: relation follow does not lead between tables user and tweet"),
        ({"exclude": ["favs"]}, "no relation named 'favs'; did you mean fav?"),
        ({"rule": {"name": "odd", "fetch": 30}}, "neighbors: rule.name: input should be 'even', "),
        ({"rule": {"name": "even", "fetch": 5}}, "rule.fetch: 5 is less than k: 10"),
        (
            {"rule": {"name": "even", "fetch": 10}, "relation": None},
            "rule: goes through lists of a relation's rhs; name",
        ),
        ({"rule": {"name": "numbers", "fetch": 10}}, "rule: numbers returned float64 [10]; it must say true or false"),
    ],
)
def test_what_a_choice_must_be(trained: Trained, choice: dict[str, Any], message: str) -> None:
    users = Embeddings.load(trained[1])["user"]
    with pytest.raises(UserError) as raised:
        users.neighbors("u3", **{"relation": "fav", **choice})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
