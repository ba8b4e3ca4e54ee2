"""What is held in order to be served answers as the run that it was read from, whatever the model."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import small_configs
from tests.embeddings.test_embeddings import OPERATORS
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.schema import Side
from twhin_core.serving.version import Question, Version, load
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "reciprocal cosine": ({"comparator": "cos", "reciprocal": True, "relations": OPERATORS}, {}),
    "normalized cosine": ({"comparator": "cos"}, {"normalize": True}),
    "distance": ({"comparator": "l2"}, {}),
    "prior": ({"prior": {"sides": ["rhs"]}}, {}),
    "bias": ({"relations": [{**of, "operator": "affine"} for of in OPERATORS]}, {}),
}
ASKED: list[tuple[str, str, str | None, Side | None]] = [
    ("user", "u3", None, None), ("user", "u3", "fav", None), ("tweet", "t4", "fav", "lhs"),
    ("user", "u3", "follow", None), ("user", "u3", "follow", "lhs"),
]  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    model, settings = MODELS[request.param]
    config = small_configs(folder)(
        model=model, export={"formats": ["parquet", "faiss"], **settings}, training={"num_epochs": 1}
    )
    for stage in (prepare, train, export):
        stage(config, str(folder / "run"))
    return str(folder / "run")


def found(
    version: Version, table: str, node: str, relation: str | None, side: Side | None, by_index: bool
) -> list[tuple[str, float]]:
    query = version.query(table, relation, side)
    position = version.vectors.ids(table).find(node)
    assert position is not None
    question = Question(query, version.candidates(query), by_index)
    (one, other) = version.search(question, version.nodes(table, np.array([position] * 2)))  # as of two requests
    assert (one[0], one[1].tolist()) == (pytest.approx(other[0]), other[1].tolist())
    return list(zip(version.vectors.ids(query.candidates).at(one[1]), one[0], strict=True))


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoint kept", "checkpoint gone"])
def test_it_finds_and_scores_as_the_run_does(root: str, kept: bool, tmp_path: Path) -> None:
    if not kept:
        root = str(shutil.copytree(root, tmp_path / "run"))
        shutil.rmtree(f"{root}/checkpoints")
    embeddings, version = Embeddings.load(root), load(root)
    compared = 0
    for (table, node, relation, side), by_index in itertools.product(ASKED, [False, True]):
        try:
            expected = embeddings[table].neighbors(node, relation, 100, side, by_index)
        except UserError as error:
            with pytest.raises(UserError, match=re.escape(str(error))):
                found(version, table, node, relation, side, by_index)
            continue
        answer = found(version, table, node, relation, side, by_index)
        assert dict(answer) == pytest.approx(dict(expected), abs=1e-5)
        assert [score for _, score in answer] == sorted((score for _, score in answer), reverse=True)
        by = version.words(version.query(table, relation, side), by_index)
        assert embeddings[table].describe(relation, side, by_index) == f"by {by}, step {version.step}"
        compared += 1
    assert compared >= 2
    version.close()


def test_scores_are_those_of_the_end_that_is_asked_for(root: str) -> None:
    embeddings, version = Embeddings.load(root), load(root)
    for relation, rhs in (("fav", ["t4", "t0", "t29"]), ("follow", ["u5", "u9", "u0"])):
        rel = version.schema.names.index(relation)
        table = version.schema.table_of(rel, "rhs")
        edges = [embeddings.score(relation, lhs, name) for lhs, name in zip(["u3", "u17", "u39"], rhs, strict=True)]
        lhs_at = np.array([version.vectors.ids("user").find(name) for name in ("u3", "u17", "u39")])
        rhs_at = np.array([version.vectors.ids(table).find(name) for name in rhs])
        for side in ("lhs", "rhs"):
            query = version.query("user" if side == "rhs" else table, relation, side)  # type: ignore[arg-type]
            scores = version.vectors.scores(query, lhs_at, rhs_at)
            assert scores == pytest.approx([getattr(edge, side).score for edge in edges], abs=1e-5)


def test_without_being_asked_for_an_index_answers_only_where_it_ranks_as_the_comparison_does(root: str) -> None:
    embeddings, version = Embeddings.load(root), load(root)
    for table, node, relation, side in ASKED:
        query = version.query(table, relation, side)
        if not version.uses_index(query, None):
            assert not version.uses_index(query, False)
            continue
        assert version.uses_index(query, True)
        exact = embeddings[table].neighbors(node, relation, 100, side)
        answer = found(version, table, node, relation, side, by_index=True)
        assert dict(answer) == pytest.approx(dict(exact), abs=1e-5)
