"""An earlier version as a baseline, on real runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig, write_raw
from tests.evaluation.brute_force import BruteForce, Triple
from tests.full_disk import small_files
from tests.ranks import run_ranks
from tests.stages.test_evaluate import RELATIONS, TABLES, brute_force, changed
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config, Relation
from twhin_core.errors import UserError
from twhin_core.evaluation.previous import Previous
from twhin_core.graph.manifest import read_schema
from twhin_core.schema import Schema
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.vectors import matching

UNKNOWN = -1e30


def test_a_copy_of_the_run_as_the_previous_one_has_its_figures(trained: tuple[Config, str], tmp_path: Path) -> None:
    config, root = trained
    shutil.copytree(root, tmp_path / "before")
    metrics = evaluate(changed(config, previous=str(tmp_path / "before")), root)
    del metrics["test"]["all"]["auc_reference"]  # of the model alone
    for relation, figures in metrics["test"].items():
        assert metrics["baselines"]["previous"][relation] == pytest.approx(figures, abs=1e-12)
        assert metrics["differences"][relation] == {name: [0, 0, 0] for name in figures if name != "edges"}
    for kind, of_kind in metrics["degrees"]["model"].items():
        for bucket, figures in of_kind.items():
            assert metrics["degrees"]["previous"][kind][bucket] == pytest.approx(figures, abs=1e-12)


@pytest.fixture
def smaller(small_config: SmallConfig, tmp_path: Path) -> tuple[Config, str]:
    """A run on other edges of fewer nodes, and of one relation only: its rows are numbered otherwise."""
    write_raw(tmp_path / "smaller.parquet", users=30, tweets=22, edges=400)
    config = small_config(
        prepare={"sources": [{"path": str(tmp_path / "smaller.parquet"), "relation_column": "relation"}]},
        model={"relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}]},
    )
    root = str(tmp_path / "smaller-run")
    prepare(config, root)
    train(config, root)
    return config, root


def names(root: str, table: str) -> list[str]:
    return pq.read_table(Path(root, "graph/vocab", table)).sort_by("index")["id"].to_pylist()


def test_nodes_are_matched_by_id_and_unknown_ones_score_below_all(
    trained: tuple[Config, str], smaller: tuple[Config, str]
) -> None:
    config, root = trained
    before, before_root = smaller
    checkpoint = newest(before_root)
    assert checkpoint is not None
    scorer = checkpoint.scorer(before.model, before.model.relations)
    translation = scorer.operator.translation.detach().double()[0]
    vectors = {}
    for table in ("user", "tweet"):
        rows = checkpoint.rows(table)
        vectors[table] = dict(zip(names(before_root, table), rows.read(0, rows.size).double(), strict=True))
    ids = {table: names(root, table) for table in ("user", "tweet")}
    assert set(ids["user"]) - set(vectors["user"]), "some are unknown"
    assert set(ids["user"]) & set(vectors["user"]), "some are known"

    def score(side: str, edge: Triple) -> float:
        lhs, rel, rhs = edge
        head = vectors[TABLES[rel][0]].get(ids[TABLES[rel][0]][lhs])
        tail = vectors[TABLES[rel][1]].get(ids[TABLES[rel][1]][rhs])
        asked, given = (tail, head) if side == "rhs" else (head, tail)
        if asked is None:
            return UNKNOWN
        if given is None or RELATIONS["fav"] != rel:
            return 0.0
        return float((head + translation) @ tail)

    now = brute_force(config, root, "test")
    expected = BruteForce(now.splits, "test", now.sizes, score)
    metrics = evaluate(changed(config, previous=before_root), root)
    figures = expected.figures(RELATIONS["fav"], [1, 3, 10], [10, 20, 50])
    assert set(metrics["baselines"]["previous"]) == set(metrics["differences"]) == {"all", "fav"}, "it has no follow"
    for name in ("all", "fav"):
        assert metrics["baselines"]["previous"][name] == pytest.approx(figures, abs=1e-9)
        for metric, (difference, low, high) in metrics["differences"][name].items():
            assert difference == pytest.approx(metrics["test"]["fav"][metric] - figures[metric], abs=1e-9)
            assert low <= difference <= high
    assert metrics["differences"]["fav"]["mrr"][2] - metrics["differences"]["fav"]["mrr"][1] > 0.01
    # The degrees' figures are of all relations, and what the earlier version lacks ties.
    ties = expected.figures(None, [1, 3, 10], [10, 20, 50])["mrr"]
    queries = metrics["degrees"]["previous"]["query"].values()
    assert sum(of["mrr"] * of["edges"] for of in queries) / sum(of["edges"] for of in queries) == pytest.approx(ties)
    assert {name: set(of) for name, of in metrics["degrees"].items()} == {
        name: {"query", "answer"} for name in ("model", "popularity", "previous")
    }


def test_two_ranks_compare_with_the_previous_as_one_does(
    trained: tuple[Config, str], smaller: tuple[Config, str]
) -> None:
    config, root = trained
    config = changed(config, previous=smaller[1], candidates=12)
    alone = evaluate(config, root)
    shutil.rmtree(Path(root, "evaluation"))
    first, second = run_ranks(2, evaluate, config, root)
    assert first == second == alone


def test_nodes_that_need_more_memory_to_match_are_named(
    trained: tuple[Config, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    shutil.copytree(root, tmp_path / "before")
    monkeypatch.setattr(matching, "LEAST_MEGABYTES", 1)
    message = "evaluation.memory_limit: too small to match 40 nodes of table user with .*before; raise it"
    with pytest.raises(UserError, match=message):
        evaluate(changed(config, previous=str(tmp_path / "before"), memory_limit="1MB"), root)


def test_a_relation_between_other_tables_is_another_one(smaller: tuple[Config, str]) -> None:
    ends = [("fav", "tweet", "user"), ("fav", "user", "user"), ("favs", "user", "tweet"), ("fav", "user", "tweet")]
    tables = {"user": 40, "tweet": 30}
    schema = Schema(tables, [Relation(name=name, lhs=lhs, rhs=rhs) for name, lhs, rhs in ends])
    before = Previous(smaller[1], schema)
    assert before.known.tolist() == [3]
    before.check_relations(np.array([0, 1, 3, 3]))
    with pytest.raises(UserError, match=r"evaluation.previous: .*smaller-run has none of the relations"):
        before.check_relations(np.array([0, 1, 2]))


def _flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


@pytest.mark.parametrize("where", ["here", "there"])
@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"", lambda _: b"PAR1", lambda content: content[:-1], lambda content: content[:40],
        lambda content: content + b"x", lambda content: bytes(len(content)), lambda content: _flip(content, 90),
        lambda content: _flip(content, 150), lambda content: _flip(content, len(content) - 30),
        lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2), None,
    ],
)  # fmt: skip
def test_a_vocabulary_that_cannot_be_read_is_named(
    trained: tuple[Config, str], tmp_path: Path, where: str, change: Callable[[bytes], bytes] | None
) -> None:
    config, root = trained
    roots = {"here": root, "there": str(shutil.copytree(root, tmp_path / "before"))}
    schema = read_schema(config, root)
    before = Previous(roots["there"], schema)
    (file,) = Path(roots[where], "graph/vocab/tweet").iterdir()
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=re.escape(str(file))) as error:
        before.match_tables(config, root, schema, tmp_path / "matched", 1 << 27)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 100, 1000, 5000])
def test_a_full_disk_is_named(trained: tuple[Config, str], tmp_path: Path, size: int) -> None:
    config, root = trained
    schema = read_schema(config, root)
    before = Previous(root, schema)
    with small_files(size), pytest.raises(UserError, match=r"is full or fails: .*; set TMPDIR to another folder"):
        before.match_tables(config, root, schema, tmp_path / "matched", 1 << 27)


@pytest.mark.parametrize(
    "error",
    [
        duckdb.IOException("IO Error: x\nmore"), duckdb.InternalException("assertion"), duckdb.ConversionException("c"),
        duckdb.InvalidInputException("i"), duckdb.HTTPException("h"), duckdb.FatalException("f"), pa.ArrowInvalid("a"),
        pa.ArrowKeyError("k"), pa.ArrowNotImplementedError("n"), OSError("o"), PermissionError(13, "p"),
    ],
)  # fmt: skip
def test_no_failure_of_an_engine_is_a_traceback(
    trained: tuple[Config, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    config, root = trained
    schema = read_schema(config, root)
    before = Previous(root, schema)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(matching, "_join", fail)
    expected = f"evaluation.previous: 40 nodes of table user cannot be matched with {re.escape(root)}: "
    with pytest.raises(UserError, match=expected) as found:
        before.match_tables(config, root, schema, tmp_path / "matched", 1 << 27)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("what", ["nothing", "untrained"])
def test_a_previous_run_that_is_none_is_named(trained: tuple[Config, str], tmp_path: Path, what: str) -> None:
    config, root = trained
    before = tmp_path / "before"
    if what == "untrained":
        shutil.copytree(root, before)
        shutil.rmtree(before / "checkpoints")
    message = "is not a run root" if what == "nothing" else "there is no complete checkpoint at"
    with pytest.raises(UserError, match=f"evaluation.previous: .*{message}"):
        evaluate(changed(config, previous=str(before)), root)
