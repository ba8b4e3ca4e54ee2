"""Lists of candidates, against scores and known edges that are read from the run's own files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from tests.embeddings.test_embeddings import read
from tests.ranks import run_ranks
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.parquet import write_part
from twhin_core.recommend import users as finding
from twhin_core.recommend import write as writing
from twhin_core.recommend.manifest import read_lists_manifest
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.recommend import recommend, recommend_once
from twhin_core.stages.train import train

Trained = tuple[Config, str]
Lists = dict[str, list[tuple[str, float]]]


def with_lists(config: Config, **relations: dict[str, Any]) -> Config:
    return config_file.validate(Config, config.model_dump() | {"recommend": relations}, "changed")


def read_lists(folder: str | Path, sources: Collection[str] = ("vector",)) -> Lists:
    manifest = read_lists_manifest(str(folder))
    assert manifest is not None
    rows = [row for file in manifest.files for row in pq.read_table(Path(folder, file.path)).to_pylist()]
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert {of["source"] for row in rows for of in row["candidates"]} <= {*sources}
    return {row["id"]: [(of["id"], of["score"]) for of in row["candidates"]] for row in rows}


class Graph:
    """The run's vectors and edges by id."""

    def __init__(self, config: Config, root: str) -> None:
        export(config, root)
        self.tables = {name: dict(zip(*read(root, name), strict=True)) for name in ("user", "tweet")}
        relations = pq.read_table(f"{root}/embeddings/relations.parquet").to_pylist()
        self.moved = {relation["name"]: np.array(relation["embedding"]) for relation in relations}
        names = {name: read(root, name)[0] for name in self.tables}
        ends = {"follow": ("user", "user"), "fav": ("user", "tweet")}
        self.edges = {
            split: [
                (relations[row["rel"]]["name"], row["lhs"], row["rhs"])
                for path in sorted(Path(root, "graph/edges", split).glob("*.parquet"))
                for row in pq.read_table(path).to_pylist()
            ]
            for split in ("train", "validation", "test")
        }
        self.edges = {
            split: [(rel, names[ends[rel][0]][lhs], names[ends[rel][1]][rhs]) for rel, lhs, rhs in of]
            for split, of in self.edges.items()
        }

    def known(self, relation: str, splits: tuple[str, ...] = ("train", "validation", "test")) -> set[tuple[str, str]]:
        return {(lhs, rhs) for split in splits for rel, lhs, rhs in self.edges[split] if rel == relation}

    def best(
        self, relation: str, table: str, user: str, left_out: set[tuple[str, str]], k: int, among: set[str]
    ) -> list[tuple[str, float]]:
        query = self.tables["user"][user] + self.moved[relation]
        scored = [
            (name, float(query @ vector))
            for name, vector in self.tables[table].items()
            if name in among and (user, name) not in left_out
        ]
        return sorted(scored, key=lambda of: -of[1])[:k]


def assert_lists(found: Lists, expected: Lists) -> None:
    assert list(found) == list(expected)
    for user, candidates in expected.items():
        assert [name for name, _ in found[user]] == [name for name, _ in candidates]
        np.testing.assert_allclose([of for _, of in found[user]], [of for _, of in candidates], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("relation", "table", "k"), [("fav", "tweet", 5), ("follow", "user", 7), ("fav", "tweet", 1000)]
)
def test_each_user_gets_the_best_without_what_it_knows(trained: Trained, relation: str, table: str, k: int) -> None:
    config, root = trained
    graph = Graph(config, root)
    recommend(with_lists(config, **{relation: {"k": k, "users_per_file": 7}}), root)
    left_out = graph.known(relation)
    if table == "user":
        left_out |= {(user, user) for user in graph.tables["user"]}
    everyone = sorted(graph.tables["user"])
    expected = {user: graph.best(relation, table, user, left_out, k, set(graph.tables[table])) for user in everyone}
    assert_lists(read_lists(f"{root}/recommendations/{relation}"), expected)
    manifest = read_lists_manifest(f"{root}/recommendations/{relation}")
    assert manifest is not None
    assert (manifest.users, len(manifest.files), manifest.candidates) == (40, 6, len(graph.tables[table]))


@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_drawn_users_candidates_degrees_and_exclusions(trained: Trained, tmp_path: Path, data: st.DataObject) -> None:
    config, root = trained
    graph = Graph(config, root)
    names = {table: sorted(of) for table, of in graph.tables.items()}
    given: dict[str, Any] = {"k": data.draw(st.integers(1, 40))}
    asked = data.draw(st.none() | st.lists(st.sampled_from([*names["user"], "nobody"]), min_size=1))
    wanted = data.draw(st.none() | st.lists(st.sampled_from(names["tweet"]), min_size=3, unique=True))
    exclude = data.draw(st.sampled_from([None, [], ["fav"]]))
    pairs = data.draw(
        st.none() | st.lists(st.tuples(*(st.sampled_from([*names[of], "x"]) for of in ("user", "tweet"))), min_size=1)
    )
    given["min_degree"] = data.draw(st.integers(0, 8))
    for key, ids in (("users", asked), ("candidates", wanted)):
        if ids is not None:
            (tmp_path / f"{key}.txt").write_text("\n".join(ids))
            given[key] = str(tmp_path / f"{key}.txt")
    if exclude is not None:
        given["exclude"] = exclude
    if pairs is not None:
        given["exclude_edges"] = str(tmp_path / "pairs.parquet")
        lhs, rhs = map(list, zip(*pairs, strict=True))
        pq.write_table(pa.table({"lhs": lhs, "rhs": rhs}), given["exclude_edges"])
    degree = [rhs for _, rhs in graph.known("fav", ("train",))]  # the raw edges are distinct
    among = {name for name in wanted or names["tweet"] if degree.count(name) >= given["min_degree"]}
    output = tmp_path / "lists"
    if not among:
        with pytest.raises(UserError, match=r"recommend.fav: no node of table tweet is a candidate"):
            recommend_once(root, "fav", given, str(output))
        return
    manifest = recommend_once(root, "fav", given, str(output))
    left_out = (set() if exclude == [] else graph.known("fav")) | set(pairs or [])
    everyone = names["user"] if asked is None else sorted(set(asked) - {"nobody"})
    expected = {user: graph.best("fav", "tweet", user, left_out, given["k"], among) for user in everyone}
    assert_lists(read_lists(output), expected)
    assert manifest.unknown_users == ("nobody" in (asked or []))


MODELS = {
    "reciprocal cosine with a prior": {"reciprocal": True, "comparator": "cos", "prior": {}, "temperature": 0.2},
    "distance": {"comparator": "l2"},
    "operators": {
        "relations": [
            {"name": "follow", "lhs": "user", "rhs": "user", "operator": "complex_diagonal"},
            {"name": "fav", "lhs": "user", "rhs": "tweet", "operator": "affine"},
        ]
    },
}


def test_users_that_are_all_unknown_get_no_list(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("nobody\n")
    manifest = recommend_once(trained[1], "fav", {"users": str(tmp_path / "users.txt")}, str(tmp_path / "lists"))
    assert (manifest.users, manifest.unknown_users) == (0, 1)
    assert read_lists(tmp_path / "lists") == {}


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_those_of_neighbors_for_every_kind_of_model(
    model: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    config, root = small_config(model=MODELS[model]), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    embeddings = Embeddings.load(root)
    for relation in ("fav", "follow"):
        recommend_once(root, relation, {"k": 9, "exclude": []}, str(tmp_path / relation))
        for user, found in read_lists(tmp_path / relation).items():
            expected = embeddings["user"].neighbors(user, relation, 9)
            np.testing.assert_allclose([of for _, of in found], [of.score for of in expected], rtol=1e-4, atol=1e-5)
            assert {name for name, _ in found} == {of.id for of in expected}


def test_edges_of_a_relation_in_the_other_direction_are_left_out(small_config: SmallConfig, tmp_path: Path) -> None:
    raw = pq.read_table(small_config().prepare.sources[0].path).to_pydict()  # type: ignore[union-attr]
    favs = [(user, tweet) for user, kind, tweet in zip(*raw.values(), strict=True) if kind == "fav"]
    shown = [(tweet, user) for user, tweet in favs[::3]]
    pq.write_table(
        pa.table(dict(zip(("lhs", "rhs"), map(list, zip(*favs, strict=True)), strict=True))), tmp_path / "f.parquet"
    )
    pq.write_table(
        pa.table(dict(zip(("lhs", "rhs"), map(list, zip(*shown, strict=True)), strict=True))), tmp_path / "s.parquet"
    )
    config = small_config(
        model={
            "relations": [
                {"name": "fav", "lhs": "user", "rhs": "tweet"},
                {"name": "shown", "lhs": "tweet", "rhs": "user"},
            ]
        },
        prepare={
            "sources": [
                {"path": str(tmp_path / f"{name}.parquet"), "relation": of}
                for name, of in (("f", "fav"), ("s", "shown"))
            ]
        },
    )
    root = str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    recommend_once(root, "fav", {"k": 30, "exclude": ["shown"]}, str(tmp_path / "lists"))
    found = read_lists(tmp_path / "lists")
    for user, candidates in found.items():
        assert {tweet for tweet, _ in candidates} == {tweet for _, tweet in favs} - {
            tweet for tweet, other in shown if other == user
        }


def test_an_unknown_relation_to_exclude_is_named_where_the_config_finds_them(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    favs = [(f"u{user}", f"t{(user + 7 * step) % 30}") for user in range(40) for step in range(4)]
    lhs, rhs = map(list, zip(*favs, strict=True))
    pq.write_table(pa.table({"lhs": lhs, "rhs": rhs, "kind": ["fav"] * len(favs)}), tmp_path / "favs.parquet")
    config = small_config(
        model={"relations": [{"name": "*", "lhs": "user", "rhs": "tweet"}]},
        prepare={"sources": [{"path": str(tmp_path / "favs.parquet"), "relation_column": "kind"}], "split": None},
    )
    root = str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    with pytest.raises(UserError, match=r"no relation named 'favs'; did you mean fav\?"):
        recommend_once(root, "fav", {"exclude": ["favs"]}, str(tmp_path / "lists"))


def test_a_call_that_was_stopped_goes_on_and_one_that_is_done_does_nothing(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, root = trained
    whole = with_lists(config, fav={"k": 3, "users_per_file": 6})
    recommend(whole, root)
    folder = Path(root, "recommendations/fav")
    expected = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    assert len(expected) == 7
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    recommend(whole, root)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times

    storage.remove(str(folder))
    written = list[str]()

    def stop_at_the_fourth(*arguments: Any) -> Any:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(arguments[3])
        return write_part(*arguments)

    monkeypatch.setattr(writing, "write_part", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        recommend(whole, root)
    assert read_lists_manifest(str(folder)) is None
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert len(kept) == 3
    monkeypatch.setattr(writing, "write_part", write_part)
    recommend(whole, root)
    assert {path.name: path.read_bytes() for path in folder.glob("*.parquet")} == expected
    assert {name: Path(folder, name).stat().st_mtime_ns for name in kept} == kept

    recommend(with_lists(config, fav={"k": 2, "users_per_file": 20}), root)
    assert len(list(folder.glob("*.parquet"))) == 2  # nothing of the former lists is left
    assert all(len(of) == 2 for of in read_lists(folder).values())


def test_ranks_that_share_the_users_write_the_same_files(trained: Trained, tmp_path: Path) -> None:
    config, root = trained
    config = with_lists(config, fav={"k": 4, "users_per_file": 9})
    alone = recommend(config, root)
    folder = Path(root, "recommendations/fav")
    expected = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    storage.remove(str(folder))
    first, second = run_ranks(2, recommend, config, root)
    assert first == second == alone
    assert {path.name: path.read_bytes() for path in folder.glob("*.parquet")} == expected


@given(count=st.integers(0, 50), per_part=st.integers(1, 20), at_once=st.integers(1, 9))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_divide_the_users_in_the_order_of_their_ids(
    count: int, per_part: int, at_once: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "IDS_PER_BATCH", at_once)
    from twhin_core.vectors.ids import NumberedIds

    users = finding.find_users(NumberedIds(count), count, None, per_part, tmp_path_factory.mktemp("users"), 1)
    expected = sorted(range(count), key=str)
    assert users.row.tolist() == expected
    assert [users.number[row] for row in expected] == list(range(count))
    parts = [users.ids(part).to_pylist() for part in range(users.parts)]
    assert [name for part in parts for name in part] == [str(row) for row in expected]
    assert [len(part) for part in parts] == [
        users.part(part).stop - users.part(part).start for part in range(users.parts)
    ]


def test_the_command_prints_what_it_wrote_and_refuses_in_one_line(trained: Trained, tmp_path: Path) -> None:
    _, root = trained
    lists = tmp_path / "lists"
    (tmp_path / "users.csv").write_text("id,name\nu3,a\nu1,b\nu77,c\n")
    done = twhin(
        "recommend", root, "--relation", "fav", "-k", "2", "--users", tmp_path / "users.csv", "--output", lists
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split("\t") == ["fav", "2", "1", "30", "2", "", "1", str(lists)]
    assert list(read_lists(lists)) == ["u1", "u3"]
    for arguments, message in (
        (["--relation", "fav"], "name the folder for the lists: --output"),
        (["-k", "3"], "name the relation: --relation"),
        ([], "recommend: names no relation; add one, such as `recommend: {fav: {k: 100}}`"),
        (["--relation", "favs", "--output", lists], "recommend: no relation named 'favs'"),
        (["--relation", "fav", "--output", lists, "--exclude", "follow"],
         "recommend.fav.exclude: relation follow does not lead between tables user and tweet"),
        (["--relation", "fav", "--output", lists, "-k", "0"], "recommend.fav.k: input should be greater than 0"),
        (["--relation", "fav", "--output", lists, "--users", tmp_path / "none"], "none: no file matches"),
        (["--relation", "fav", "--output", lists, "--min-degree", "1000"],
         "recommend.fav: no node of table tweet is a candidate"),
    ):  # fmt: skip
        assert_refused(twhin("recommend", root, *arguments), message)
