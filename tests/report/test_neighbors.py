"""Neighbors in the report against scores worked out one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.evaluation.graphs import model_config, schema_of
from twhin_core.checkpoints.checkpoint import Checkpoint, newest
from twhin_core.config import Config
from twhin_core.graph.manifest import read_schema
from twhin_core.model.scorer import Scorer
from twhin_core.report import known, neighbors
from twhin_core.report.neighbors import Neighbors
from twhin_core.vectors.rows import Rows, TensorRows

SGD = {"sgd": {"lr": 0.1}}


def found_in(config: Config, root: str) -> tuple[Neighbors, Checkpoint, Scorer]:
    schema, checkpoint = read_schema(config, root), newest(root)
    assert checkpoint is not None
    scorer = checkpoint.scorer(config.model, schema.relations)
    tables: dict[str, Rows] = {name: checkpoint.rows(name) for name in schema.tables}
    return neighbors.collect(config, root, schema, tables, scorer), checkpoint, scorer


def vocabulary(root: str, table: str) -> dict[str, tuple[int, int]]:
    """id → (row, degree)."""
    columns = pq.read_table(Path(root, "graph/vocab", table)).to_pydict()
    return dict(zip(columns["id"], zip(columns["index"], columns["degree"], strict=True), strict=True))


def test_they_are_the_nearest_of_all(trained: tuple[Config, str]) -> None:
    config, root = trained
    found, checkpoint, scorer = found_in(config, root)
    rows = {name: checkpoint.rows(name).read_whole().double().numpy() for name in ("user", "tweet")}
    ids = {name: vocabulary(root, name) for name in rows}
    translation = scorer.operator.translation.detach().double().numpy()
    relations = [relation.name for relation in config.model.relations]
    assert [name for name, _ in found.tables] == ["user", "tweet"]
    assert found.sampled == []
    checked = 0
    for name, nodes in found.tables:
        assert len(nodes) == 4
        for node in nodes:
            own, degree = ids[name][node.name]
            assert node.degree == degree
            assert {near.of for near in node.lists} == ({"", "follow", "fav"} if name == "user" else {""})
            for near in node.lists:
                query, others = rows[name][own], rows[near.table]
                if near.of:
                    scores = others @ (query + translation[relations.index(near.of)])
                else:
                    scores = others @ query / np.linalg.norm(others, axis=1) / np.linalg.norm(query)
                if near.table == name:
                    scores[own] = -np.inf  # it is no neighbor of its own
                best = np.sort(scores)[::-1][: neighbors.K]
                assert [score for _, score in near.nodes] == pytest.approx(best, abs=1e-5)
                assert [scores[ids[near.table][other][0]] for other, _ in near.nodes] == pytest.approx(best, abs=1e-5)
                checked += 1
    assert checked == 4 * 3 + 4


def test_they_are_of_the_hottest_nodes_and_of_the_middle(trained: tuple[Config, str]) -> None:
    config, root = trained
    for name, nodes in found_in(config, root)[0].tables:
        degrees = sorted((degree for _, degree in vocabulary(root, name).values()), reverse=True)
        middle = sum(degree > 0 for degree in degrees) // 2
        assert [node.degree for node in nodes] == [*degrees[:2], *degrees[middle : middle + 2]]


def test_of_a_large_table_a_sample_is_searched(trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch) -> None:
    config, root = trained
    monkeypatch.setattr(neighbors, "SEARCHED", 31)
    monkeypatch.setattr(neighbors, "STRETCH", 10)
    found, checkpoint, _ = found_in(config, root)
    assert found.sampled == ["user"]
    for table in ("user", "tweet"):
        compared = {other for _, nodes in found.tables for node in nodes for near in node.lists if near.table == table
                    for other, _ in near.nodes}  # fmt: skip
        assert compared <= set(vocabulary(root, table))
    assert checkpoint.rows("user").size == 40
    for name, nodes in found.tables:
        for node in nodes:
            for near in node.lists:
                assert len(near.nodes) == neighbors.K
                assert name != near.table or node.name not in [other for other, _ in near.nodes]


def test_a_table_of_one_node_has_no_neighbors_and_names_are_numbers_without_a_vocabulary() -> None:
    relations = [("fav", "user", "tweet"), ("follow", "user", "user")]
    config = model_config({"user": 1, "tweet": 9}, relations, dim=4)
    schema = schema_of(config)
    tables: dict[str, Rows] = {"user": TensorRows(torch.ones(1, 4)), "tweet": TensorRows(torch.eye(9, 4))}
    found = neighbors.collect(config, "nowhere", schema, tables, Scorer(config.model, schema.relations))
    (user,) = dict(found.tables)["user"]
    assert (user.name, user.degree) == ("0", None)
    assert {near.of: len(near.nodes) for near in user.lists} == {"": 0, "follow": 0, "fav": 5}
    assert [node.name for node in dict(found.tables)["tweet"]] == ["0", "2", "5", "8"]


def test_rows_that_a_vocabulary_does_not_name_are_no_neighbors(tmp_path: Path) -> None:
    index = np.array([8, 1, 6, 3])
    pq.write_table(pa.table({"index": index, "id": [f"n{row}" for row in index]}), tmp_path / "vocab.parquet")
    table = {"name": "user", "num_embeddings": 9, "embedding_dim": 4, "vocab": str(tmp_path), "optimizer": SGD}
    config = model_config({}, [("follow", "user", "user")], dim=4, embeddings={"tables": [table]})
    schema = schema_of(config)
    vectors = torch.randn(9, 4, generator=torch.Generator().manual_seed(4))
    tables: dict[str, Rows] = {"user": TensorRows(vectors)}
    found = neighbors.collect(config, "nowhere", schema, tables, Scorer(config.model, schema.relations))
    nodes = dict(found.tables)["user"]
    assert [node.name for node in nodes] == ["n1", "n3", "n6", "n8"]
    unit = torch.nn.functional.normalize(vectors, dim=1)
    for node in nodes:
        own = int(node.name[1:])
        others = sorted(set(index.tolist()) - {own}, key=lambda row: -float(unit[own] @ unit[row]))
        assert [name for name, _ in node.lists[0].nodes] == [f"n{row}" for row in others]


def test_answers_that_are_edges_are_marked_by_their_split(
    trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    schema = read_schema(config, root)
    found = found_in(config, root)[0]
    edges = {
        (row["rel"], row["lhs"], row["rhs"]): split
        for split in ("test", "validation", "train")
        for row in pq.read_table(Path(root, "graph/edges", split)).to_pylist()
    }
    asked = [
        (near.of, schema.names.index(near.of), node.row, vocabulary(root, near.table)[name][0])
        for _, nodes in found.tables
        for node in nodes
        for near in node.lists
        if near.of
        for name, _ in near.nodes
    ]
    assert len(asked) > 20
    expected = {(of, lhs, rhs): edges[rel, lhs, rhs] for of, rel, lhs, rhs in asked if (rel, lhs, rhs) in edges}
    assert known.collect(config, root, schema, found.tables) == expected
    assert "train" in expected.values()
    assert len(expected) < len(asked)
    monkeypatch.setattr(known, "MOST_EDGES", 599)
    assert known.collect(config, root, schema, found.tables) is None


def test_without_relations_nothing_is_marked(trained: tuple[Config, str]) -> None:
    config, root = trained
    assert known.collect(config, root, read_schema(config, root), []) == {}
