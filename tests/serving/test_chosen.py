"""The server's recommendations are the lists of the section `recommend`: their candidates, pairs and rules."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command_line import ROOT
from tests.conftest import small_configs
from tests.recommend.test_lists import read_lists
from tests.serving.running import Exported, Server, best, serving
from twhin_core.errors import UserError
from twhin_core.serving.version import load
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.recommend import recommend
from twhin_core.stages.train import train

RULES = """
import pyarrow as pa
import pyarrow.compute as pc


def not_seventh(relation, candidates):
    assert relation == "follow" and candidates.schema.names == ["user", "id", "score", "source"]
    assert set(candidates["source"].to_pylist()) <= {"index", "vector"}
    return pa.array([int(name[1:]) % 7 != 0 for name in candidates["id"].to_pylist()])


def broken(relation, candidates):
    return pa.array([True])
"""
K = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where rules are installed, as pip would."""
    folder = tmp_path_factory.mktemp("chosen")
    information = folder / "site/follow_rules-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "site/follow_rules.py").write_text(RULES)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: follow-rules\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[twhin.rules]\nnot-seventh = follow_rules:not_seventh\nbroken = follow_rules:broken\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "site"))
        yield folder


@pytest.fixture(scope="module")
def root(folder: Path) -> str:
    """A run with lists of both relations, whose answers are chosen by all means."""
    rows = [
        {"id": f"t{number}", "stock": number % 4, "day": datetime.date(2026, 3, 1 + number % 20)}
        for number in range(30)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")
    shown = [(f"u{user}", f"u{(user + step) % 40}") for user in range(0, 40, 3) for step in range(1, 9)]
    lhs, rhs = map(list, zip(*shown, strict=True))
    pq.write_table(pa.table({"lhs": [*lhs, "nobody"], "rhs": [*rhs, "u1"]}), folder / "shown.parquet")
    catalog = {"path": str(folder / "items.parquet"), "where": "stock > 0", "timestamp": "day", "max_age": "14d"}
    lists = {
        "fav": {"k": K, "candidates": catalog, "min_degree": 1},
        "follow": {"k": K, "exclude": ["follow"], "exclude_edges": str(folder / "shown.parquet"),
                   "rule": {"name": "not-seventh", "fetch": 9}},
    }  # fmt: skip
    config = small_configs(folder)(export={"formats": ["parquet", "faiss"]}, recommend=lists)
    root = str(folder / "run")
    for stage in (prepare, train, export, recommend):
        stage(config, root)
    return root


@pytest.fixture(scope="module")
def server(folder: Path, root: str) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder / 'site'}:{ROOT}")
        with serving(root) as server:
            yield server


@pytest.mark.parametrize("relation", ["fav", "follow"])
def test_recommendations_are_the_lists_of_the_stage(server: Server, root: str, relation: str) -> None:
    lists = read_lists(Path(root, "recommendations", relation))
    assert sum(map(len, lists.values())) > 100
    for some in (list(lists)[:1], list(lists)):
        status, answer = server.post("/recommend", {"relation": relation, "ids": some, "k": K})
        assert status == 200
        assert ("index" in answer["by"]) == (relation == "follow")  # which searches all nodes
        assert [of["id"] for of in answer["answers"]] == some
        for of in answer["answers"]:
            assert [one["id"] for one in of["found"]] == [name for name, _ in lists[of["id"]]]
            assert [one["score"] for one in of["found"]] == pytest.approx([of for _, of in lists[of["id"]]], abs=1e-5)


def test_more_than_a_list_has_and_no_exclusions_keep_the_candidates(server: Server, root: str) -> None:
    files = Exported(root)
    _, answer = server.post("/recommend", {"relation": "fav", "ids": ["u3"], "k": 100, "exclude": []})
    chosen = {f"t{number}" for number in range(30) if number % 4 and number % 20 >= 5} & set(files.ids["tweet"])
    found = [of["id"] for of in answer["answers"][0]["found"]]
    assert found == [name for name, _ in best(files.scores("u3", "fav"), 100, set(files.ids["tweet"]) - chosen)]


def test_new_users_get_candidates_too(server: Server, root: str) -> None:
    edges = [{"lhs": "new", "relation": "fav", "rhs": rhs} for rhs in ("t6", "t7", "t9")]
    status, answer = server.post("/recommend", {"relation": "fav", "edges": edges, "k": 100})
    assert status == 200
    chosen = {f"t{number}" for number in range(30) if number % 4 and number % 20 >= 5} & set(
        Exported(root).ids["tweet"]
    )
    assert {of["id"] for of in answer["answers"][0]["found"]} == chosen - {"t6", "t7", "t9"}


def test_neighbors_are_among_all_nodes(server: Server, root: str) -> None:
    _, answer = server.post("/neighbors", {"table": "user", "ids": ["u3"], "relation": "fav", "k": 100})
    assert {of["id"] for of in answer["answers"][0]["found"]} == set(Exported(root).ids["tweet"])


def test_an_index_cannot_be_asked_among_some(server: Server) -> None:
    status, answer = server.post("/recommend", {"relation": "fav", "ids": ["u3"], "index": True})
    assert (status, answer) == (
        422, {"error": "index: searches all nodes, but the run's section `recommend` chooses some; leave it out"}
    )  # fmt: skip


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"fav": {"candidates": "none.txt"}}, "none.txt: no file matches"),
    ({"fav": {"min_degree": 1000}}, "recommend.fav: no node of table tweet is a candidate"),
    ({"favs": {}}, "recommend: no relation named 'favs'; there are fav, follow"),
    ({"fav": {"exclude_edges": "none.parquet"}}, "none.parquet: no file matches"),
]


@pytest.mark.parametrize(("lists", "message"), CHANGES)
def test_what_cannot_be_chosen_is_refused_when_the_run_is_read(
    root: str, tmp_path: Path, lists: dict[str, Any], message: str
) -> None:
    copy = with_lists(root, tmp_path, lists)
    with pytest.raises(UserError) as raised:
        load(copy)
    assert message in str(raised.value)


def test_a_rule_that_breaks_its_contract_is_a_fault_of_the_server(root: str, folder: Path, tmp_path: Path) -> None:
    copy = with_lists(root, tmp_path, {"fav": {"k": 3, "rule": {"name": "broken", "fetch": 9}}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder / 'site'}:{ROOT}")
        with serving(copy) as server:
            status, answer = server.get("/recommend", relation="fav", ids="u3")
    assert status == 500
    assert answer["error"].startswith("recommend.fav.rule: broken returned bool [1]; it must say true or false for")


def with_lists(root: str, tmp_path: Path, lists: dict[str, Any]) -> str:
    """A copy of the run whose config has another section `recommend`."""
    import yaml

    copy = shutil.copytree(root, tmp_path / "run")
    tree = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**tree, "recommend": lists}))
    return str(copy)
