"""Derived relations, compared with a plain Python implementation of docs/prepare.md#derived-relations."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.conftest import SmallConfig
from tests.graph import reading
from tests.graph.brute_force import SPLITS, Row
from tests.graph.test_forgotten import write_records
from tests.graph.test_properties import some, write
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.graph.forget import forget_nodes
from twhin_core.graph.forgotten import blocked_at
from twhin_core.graph.manifest import MANIFEST, Manifest
from twhin_core.stages.prepare import prepare

TABLES = {"follow": ("user", "user"), "fav": ("user", "tweet")}
IDS = ["a", "b", "c", "d", "é", "f", "g", "h"]
Edge = tuple[str, str, str]


class Case(NamedTuple):
    """Rows, the section `derive`, and which relations are symmetric."""

    rows: list[Row]
    derive: dict[str, dict[str, Any]]
    symmetric: set[str]
    split: dict[str, Any] | None


ROWS = st.builds(
    Row,
    lhs=st.sampled_from(IDS),
    relation=st.sampled_from(["follow", "fav", "fav"]),
    rhs=st.sampled_from(IDS),
    weight=st.sampled_from([0.25, 1.0, 2.5]),
    time=st.just(0),
    split=st.sampled_from(["train", *SPLITS]),
)
DERIVE = st.fixed_dictionaries(
    {
        "relation": st.sampled_from(["follow", "fav"]),
        "side": st.sampled_from(["lhs", "rhs"]),
        "top": st.sampled_from([1, 2, 3, 10]),
        "weight": st.sampled_from(["one", "log_degree"]),
        "normalize": st.sampled_from(["cosine", "none"]),
        "min_shared": st.sampled_from([1, 1, 2]),
        "max_degree": st.sampled_from([2, 3, 100]),
    }
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows = draw(st.lists(ROWS, min_size=40, max_size=90))
    rows += [Row("a", relation, "b", 1.0, 0, "train") for relation in TABLES]
    rows += [Row("b", relation, "c", 1.0, 0, split) for relation in TABLES for split in SPLITS]
    split = draw(st.none() | st.just({"by": "hash", "validation": 0.2, "test": 0.2, "seed": 3}))
    if split is not None:
        rows = [row._replace(split=None) for row in rows]
    derive = {name: draw(DERIVE) for name in ("near", "close")}
    names = [*derive, "follow"]
    within = {name for name in derive if len(set(table_of(derive, name))) == 1}
    return Case(rows, derive, {name for name in names if name in {*within, "follow"} and draw(st.booleans())}, split)


def table_of(derive: dict[str, dict[str, Any]], name: str) -> tuple[str, str]:
    if name in TABLES:
        return TABLES[name]
    of = derive[name]
    table = TABLES[of["relation"]][of["side"] == "rhs"]
    return table, table


def config_of(small_config: SmallConfig, case: Case, sources: list[dict[str, Any]], **prepare: Any) -> Config:
    relations = [
        {"name": name, "lhs": table_of(case.derive, name)[0], "rhs": table_of(case.derive, name)[1],
         "symmetric": name in case.symmetric}
        for name in ("near", "follow", "fav", "close") if name in TABLES or name in case.derive
    ]  # fmt: skip
    if prepare.get("repeats") != "count":
        sources = [{**source, "weight": "weight"} for source in sources]
    section = {"sources": sources, "split": case.split, "derive": case.derive, **prepare}
    return small_config(prepare=section, model={"relations": relations})


def expect(train: set[Edge], of: dict[str, Any], name: str, is_symmetric: bool) -> dict[Edge, float]:
    """The derived edges with their similarities."""
    neighbors, counts = shared(train, of)
    found = {}
    for one, mine in neighbors.items():
        similar = []
        for other, theirs in neighbors.items():
            similarity = sum(counts[hub] for hub in mine & theirs) / 2**32
            if of["normalize"] == "cosine":
                similarity /= math.sqrt(len(mine) * len(theirs))
            if one != other and len(mine & theirs) >= of["min_shared"]:
                similar.append((-similarity, key(one) ^ key(other), other))
        for similarity, _, other in sorted(similar)[: of["top"]]:
            found[one, name, other] = -similarity
            if is_symmetric:
                found[other, name, one] = -similarity
    return found


def shared(train: set[Edge], of: dict[str, Any]) -> tuple[dict[str, set[str]], dict[str, int]]:
    """The neighbors of each node, and what each of them counts, in integers so that no sum depends on its order."""
    side, other = (2, 0) if of["side"] == "rhs" else (0, 2)
    nodes_of: dict[str, set[str]] = defaultdict(set)
    for edge in train:
        if edge[1] == of["relation"]:
            nodes_of[edge[other]].add(edge[side])
    neighbors: dict[str, set[str]] = defaultdict(set)
    counts = {}
    for hub, nodes in nodes_of.items():
        counts[hub] = 2**32 if of["weight"] == "one" else round(2**32 / math.log(1 + len(nodes)))
        for node in sorted(nodes, key=lambda node: key(node) ^ key(hub))[: of["max_degree"]]:
            neighbors[node].add(hub)
    return neighbors, counts


def key(name: str) -> int:
    return int(hashlib.md5(name.encode()).hexdigest()[:12], 16)


def order(edge: Edge, seed: int) -> str:
    return hashlib.md5("\t".join([str(seed), *edge]).encode()).hexdigest()[:12]


def read(root: Path, manifest: Manifest, split: str) -> dict[Edge, float]:
    """The edges of a split with their weights, in the order of the files."""
    edges = reading.edges(root, manifest, split)
    weights = [row.get("weight", 1.0) for row in reading.rows(root / "graph/edges" / split)]
    found = dict(zip(edges, weights, strict=True))
    assert len(found) == len(edges)
    return found


def check(small_config: SmallConfig, case: Case, **engine: Any) -> None:
    """The graph is the one without `derive`, and the derived edges in train."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sources = write(case.rows, root / "raw", "parquet", files=2)
        plain = config_of(small_config, case._replace(derive={}), sources, **engine)
        try:
            without = prepare(plain, str(root / "plain"))
        except UserError as error:  # the hash has held out none of so few edges
            assume("split is empty" not in str(error))
            raise
        manifest = prepare(config_of(small_config, case, sources, **engine), str(root / "run"))
        for split in SPLITS:
            base = read(root / "plain", without, split)
            found = read(root / "run", manifest, split)
            assert [edge for edge in found if edge[1] not in case.derive] == list(base)
            assert {edge: weight for edge, weight in found.items() if edge[1] not in case.derive} == base
            derived = {edge: weight for edge, weight in found.items() if edge[1] in case.derive}
            expected = {}
            for name, of in case.derive.items() if split == "train" else ():
                expected |= expect(set(base), of, name, name in case.symmetric)
            assert derived == {edge: np.float32(weight) for edge, weight in expected.items()}
            seed = 0 if case.split is None else case.split["seed"]
            assert list(derived) == sorted(derived, key=lambda edge: order(edge, seed))
        for table in ("user", "tweet"):
            assert reading.rows(root / "run/graph/vocab" / table) == reading.rows(root / "plain/graph/vocab" / table)
        assert [entry.degrees for entry in manifest.tables] == [entry.degrees for entry in without.tables]
        assert manifest.rejected.by_reason == without.rejected.by_reason
        plain_of = {entry.name: entry for entry in without.relations}
        for entry in manifest.relations:
            if entry.name in case.derive:
                assert entry.derived is not None
                assert entry.derived.relation == case.derive[entry.name]["relation"]
                assert entry.edges["validation"] == entry.edges["test"] == 0
                assert entry.reversed == {}
            else:
                assert entry == plain_of[entry.name]


@some(4)
@given(case=cases())
def test_derived_edges_lead_to_the_most_similar_nodes(small_config: SmallConfig, case: Case) -> None:
    check(small_config, case)


@pytest.mark.slow
@some(10)
@given(case=cases())
def test_derived_edges_lead_to_the_most_similar_nodes_in_many_cases(small_config: SmallConfig, case: Case) -> None:
    check(small_config, case)


def rows_of(text: str, relation: str = "fav") -> list[Row]:
    """`train: a-x b-x; test: c-x` as rows."""
    rows = []
    for part in text.split(";"):
        split, _, edges = part.partition(":")
        for edge in edges.split():
            lhs, rhs = edge.split("-")
            rows.append(Row(lhs, relation, rhs, 1.0, 0, split.strip()))
    return rows


FOLLOWS = rows_of("train: a-b b-c; validation: c-d; test: d-e", "follow")


def of_rows(small_config: SmallConfig, folder: Path, rows: list[Row], **near: Any) -> dict[Edge, float]:
    """The edges of `near`, derived from fav."""
    case = Case([*rows, *FOLLOWS], {"near": {"relation": "fav", **near}}, set(), None)
    config = config_of(small_config, case, write(case.rows, folder / "raw", "parquet", files=1))
    manifest = prepare(config, str(folder / "run"))
    of_splits = [read(folder / "run", manifest, split) for split in SPLITS]
    assert not any(edge[1] == "near" for of in of_splits[1:] for edge in of)
    return {edge: weight for edge, weight in of_splits[0].items() if edge[1] == "near"}


def test_by_hand(small_config: SmallConfig, tmp_path: Path) -> None:
    """x and y share a and b; y and z share c, who has the degree 2, as a and b have."""
    found = of_rows(small_config, tmp_path, rows_of("train: a-x a-y b-x b-y c-y c-z; test: a-z"), side="rhs", top=1)
    one = 1 / math.log(3)
    expected = {
        ("x", "near", "y"): 2 * one / math.sqrt(2 * 3),
        ("y", "near", "x"): 2 * one / math.sqrt(2 * 3),
        ("z", "near", "y"): one / math.sqrt(1 * 3),
    }
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_neighbor_shared_only_by_a_held_out_edge_makes_no_edge(
    small_config: SmallConfig, tmp_path: Path, split: str
) -> None:
    other = {"validation": "test", "test": "validation"}[split]
    text = "train: a-x b-y {}; " + f"{split}: b-x {{}}; {other}: b-z"
    held_out = of_rows(small_config, tmp_path / "1", rows_of(text.format("", "a-y")), side="rhs")
    assert held_out == {}
    trained = of_rows(small_config, tmp_path / "2", rows_of(text.format("a-y", "")), side="rhs")
    assert {edge[::2] for edge in trained} == {("x", "y"), ("y", "x")}


@pytest.mark.parametrize("seed", range(2))
def test_held_out_edges_change_nothing(small_config: SmallConfig, tmp_path: Path, seed: int) -> None:
    """Other held-out edges between the same nodes: the same derived edges, to the last byte of their files."""
    rng = np.random.default_rng(seed)
    pairs = [(lhs, rhs) for lhs in IDS for rhs in IDS]
    drawn = [pairs[place] for place in rng.permutation(len(pairs))]
    train = [Row(*pair[:1], "fav", pair[1], 1.0, 0, "train") for pair in drawn[:30]]
    nearest = []
    for run, held_out in enumerate((drawn[30:40], drawn[40:60])):
        splits = [SPLITS[1 + place % 2] for place in range(len(held_out))]
        rows = [Row(lhs, "fav", rhs, 1.0, 0, split) for (lhs, rhs), split in zip(held_out, splits, strict=True)]
        nearest.append(of_rows(small_config, tmp_path / str(run), [*train, *rows], side="lhs", top=3))
    assert nearest[0] == nearest[1] != {}


def test_hubs_are_cut(small_config: SmallConfig, tmp_path: Path) -> None:
    """A hub connects no more nodes than `max_degree`, and still counts with its whole degree."""
    text = "train: " + " ".join(f"u{number}-x" for number in range(50)) + "; validation: a-y; test: a-z"
    found = of_rows(small_config, tmp_path, rows_of(text), side="lhs", top=100, max_degree=7, normalize="none")
    assert len({edge[0] for edge in found}) == 7
    assert len(found) == 7 * 6
    assert set(found.values()) == {np.float32(1 / math.log(51))}


def days(seed: int, count: int = 3) -> list[list[Row]]:
    rng = np.random.default_rng(seed)
    return [
        [
            Row(str(rng.choice(IDS[: 4 + 2 * day])), relation, str(rng.choice(IDS[: 4 + 2 * day])), 1.0, day, split)
            for relation in TABLES
            for split in ["train"] * 20 + SPLITS[1:] * 3
        ]
        for day in range(count)
    ]


def in_every_split(root: Path, manifest: Manifest) -> dict[str, dict[Edge, float]]:
    return {split: read(root, manifest, split) for split in SPLITS}


@pytest.mark.parametrize(("repeats", "seed"), [("first", 0), ("count", 1)])
def test_a_grown_graph_derives_anew_from_all_days(
    small_config: SmallConfig, tmp_path: Path, seed: int, repeats: str
) -> None:
    """So that it has the edges of all days prepared at once. The hash splits, or edges would move between the two."""
    case = Case(
        [], {"near": {"relation": "follow", "side": "rhs", "top": 2}, "close": {"relation": "fav", "side": "rhs"}},
        {"near"}, {"by": "hash", "validation": 0.2, "test": 0.2},
    )  # fmt: skip
    rows = [[row._replace(split=None) for row in of] for of in days(seed)[:2]]
    for day, of_day in enumerate(rows):
        one, all_ = tmp_path / str(day), tmp_path / f"all-{day}"
        previous = {"previous": str(tmp_path / str(day - 1))} if day else {}
        grown, whole = (
            write(of, place / "raw", "parquet", files=1)
            for of, place in ((of_day, one), ([row for of in rows[: day + 1] for row in of], all_))
        )
        manifest = prepare(config_of(small_config, case, grown, repeats=repeats, **previous), str(one))
        expected = prepare(config_of(small_config, case, whole, repeats=repeats), str(all_))
        assert in_every_split(one, manifest) == in_every_split(all_, expected)
        assert [entry.edges for entry in manifest.relations] == [entry.edges for entry in expected.relations]
        for table in ("user", "tweet"):
            degrees = [
                {row["id"]: row["degree"] for row in reading.rows(of / "graph/vocab" / table)} for of in (one, all_)
            ]
            assert degrees[0] == degrees[1]
        if day:
            before = reading.ids(tmp_path / str(day - 1), "user")
            assert reading.ids(one, "user")[: len(before)] == before


def test_a_series_may_begin_and_end_to_derive(small_config: SmallConfig, tmp_path: Path) -> None:
    near = {"near": {"relation": "fav", "side": "rhs"}}
    plain = {"name": "near", "lhs": "tweet", "rhs": "tweet"}
    for day, (rows, derive) in enumerate(zip(days(7), ({}, near, {}), strict=True)):
        case = Case(rows, derive, set(), None)
        previous = {"previous": str(tmp_path / str(day - 1))} if day else {}
        sources = write(rows, tmp_path / f"raw-{day}", "parquet", files=1)
        tree = config_of(small_config, case, sources, **previous).model_dump(exclude_unset=True)
        if not derive:
            tree["model"]["relations"].insert(0, plain)
        manifest = prepare(Config.model_validate(tree), str(tmp_path / str(day)))
        found = read(tmp_path / str(day), manifest, "train")
        observed = {edge for edge in found if edge[1] != "near"}
        expected = expect(observed, case_of(near["near"]), "near", False) if derive else {}
        assert {edge for edge in found if edge[1] == "near"} == expected.keys()


def case_of(given: dict[str, Any]) -> dict[str, Any]:
    return {"top": 5, "weight": "log_degree", "normalize": "cosine", "min_shared": 1, "max_degree": 100, **given}


def test_a_relation_of_rows_cannot_become_a_derived_one(small_config: SmallConfig, tmp_path: Path) -> None:
    first, second, _ = days(1)
    renamed = [row._replace(relation="near") if row.relation == "fav" else row for row in first]
    tree = config_of(small_config, Case([], {}, set(), None), write(renamed + first, tmp_path / "raw", "csv", 1))
    tree = tree.model_dump(exclude_unset=True)
    tree["model"]["relations"].append({"name": "near", "lhs": "user", "rhs": "user"})
    prepare(Config.model_validate(tree), str(tmp_path / "1"))
    tree["prepare"]["sources"] = write(second, tmp_path / "raw-2", "csv", 1)
    tree["prepare"] |= {"previous": str(tmp_path / "1"), "derive": {"near": {"relation": "follow", "side": "rhs"}}}
    with pytest.raises(UserError, match=r"prepare\.derive: near was read from rows and is derived"):
        prepare(Config.model_validate(tree), str(tmp_path / "2"))


@pytest.mark.parametrize("seed", range(2))
def test_edges_by_way_of_a_forgotten_node_vanish(small_config: SmallConfig, tmp_path: Path, seed: int) -> None:
    """What is left is what the other rows make."""
    rows = days(seed)[2]
    nodes = {("user", "b"), ("tweet", "a")}
    case = Case(
        rows, {"near": {"relation": "fav", "side": "rhs"}, "close": {"relation": "fav", "side": "lhs"}}, set(), None
    )
    versions = tmp_path / "series/versions"
    config = config_of(small_config, case, write(rows, tmp_path / "raw", "parquet", files=1))
    prepare(config, str(versions / "1"))
    write_records(str(versions.parent), nodes)
    blocked = blocked_at(str(versions / "2"))
    assert blocked is not None
    forgot = forget_nodes(config, str(versions / "1"), str(versions / "2"), blocked)
    storage.publish_json(str(versions / "2" / MANIFEST), forgot.manifest.model_dump())
    left = [row for row in rows if row.lhs != "b" and (row.relation, row.rhs) not in {("follow", "b"), ("fav", "a")}]
    expected = prepare(
        config_of(small_config, case, write(left, tmp_path / "left", "parquet", files=1)), str(tmp_path / "3")
    )
    assert in_every_split(versions / "2", forgot.manifest) == in_every_split(tmp_path / "3", expected)
    gone = {(row.lhs, row.relation, row.rhs) for row in rows} - {(row.lhs, row.relation, row.rhs) for row in left}
    assert forgot.edges == len(gone)


FAV = {"relation": "fav", "side": "rhs"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown relation": ({"near": {**FAV, "relation": "poke"}}, "near.relation: no relation named 'poke'"),
    "no entry": ({"far": FAV}, "far: needs an entry in model.relations: {name: far, lhs: tweet, rhs: tweet}"),
    "other table": (
        {"near": {**FAV, "side": "lhs"}},
        "near: connects nodes of the table user, the lhs of fav; its entry in model.relations leads from tweet to ",
    ),
    "two tables": ({"fav": {"relation": "follow", "side": "lhs"}}, "fav: connects nodes of the table user"),
    "of itself": ({"near": {"relation": "near", "side": "lhs"}}, "near.relation: 'near' is derived"),
    "of another": (
        {"near": {"relation": "close", "side": "lhs"}, "close": {"relation": "near", "side": "lhs"}},
        "near.relation: 'close' is derived",
    ),
    "other side": ({"near": {**FAV, "side": "tweet"}}, "near.side: input should be 'lhs' or 'rhs'"),
    "no side": ({"near": {"relation": "fav"}}, "near.side: is required"),
    "top 0": ({"near": {**FAV, "top": 0}}, "near.top: input should be greater"),
    "max_degree 1": ({"near": {**FAV, "max_degree": 1}}, "near.max_degree: input should be greater"),
    "unknown weight": ({"near": {**FAV, "weight": "tfidf"}}, "near.weight: input should be"),
    "unknown key": ({"near": {**FAV, "tops": 5}}, "near.tops: unknown key; did you mean top?"),
}


@pytest.mark.parametrize(("derive", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_any_work(small_config: SmallConfig, derive: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        small_config(prepare={"derive": derive}, model={"relations": WITH_NEAR})
    assert f"prepare.derive.{message}" in str(refused.value)


WITH_NEAR = [
    {"name": "follow", "lhs": "user", "rhs": "user"},
    {"name": "fav", "lhs": "user", "rhs": "tweet"},
    {"name": "near", "lhs": "tweet", "rhs": "tweet"},
]
NEAR = {"near": FAV}


@pytest.mark.parametrize(
    ("prepare_section", "message"),
    [
        ({"sources": [{"path": "x.csv", "relation": "near"}]}, "prepare.sources.0.relation: 'near' is derived"),
        ({"sampling": {"near": 0.5}}, "prepare.sampling: 'near' is derived"),
        ({"split": {"relations": ["fav", "near"]}}, "prepare.split.relations: 'near' is derived"),
    ],
)
def test_nothing_else_may_make_its_edges(
    small_config: SmallConfig, prepare_section: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        small_config(prepare={"derive": NEAR, **prepare_section}, model={"relations": WITH_NEAR})
    assert message in str(refused.value)


def test_rows_of_a_derived_relation_are_refused(small_config: SmallConfig, tmp_path: Path) -> None:
    rows = [*days(1)[0], Row("a", "near", "b", 1.0, 0, "train")]
    config = config_of(small_config, Case(rows, NEAR, set(), None), write(rows, tmp_path / "raw", "parquet", files=1))
    with pytest.raises(UserError, match=r"prepare\.derive\.near: .*parquet has rows of this relation; rename it"):
        prepare(config, str(tmp_path / "run"))


def test_a_base_that_only_the_rows_can_name(small_config: SmallConfig, tmp_path: Path) -> None:
    """With `*`, relations are known once the rows are."""
    relations = [*WITH_NEAR[:1], {"name": "*", "lhs": "user", "rhs": "tweet"}, WITH_NEAR[2]]
    manifest = prepare(small_config(prepare={"derive": NEAR}, model={"relations": relations}), str(tmp_path / "1"))
    assert {entry.name: bool(entry.edges["train"]) for entry in manifest.relations}["near"]
    derive = {"near": {"relation": "poke", "side": "rhs"}}
    config = small_config(prepare={"derive": derive}, model={"relations": relations})
    with pytest.raises(UserError, match=r"prepare\.derive\.near\.relation: no row has the relation 'poke'"):
        prepare(config, str(tmp_path / "2"))


def test_a_symmetric_one_leaves_the_order_of_other_edges(small_config: SmallConfig) -> None:
    derive = {"near": case_of({"relation": "follow", "side": "rhs", "top": 1})}
    check(small_config, Case(days(0)[2], derive, {"near"}, None))


def test_unweighted_edges_stay_unweighted(small_config: SmallConfig, tmp_path: Path) -> None:
    manifest = prepare(small_config(prepare={"derive": NEAR}, model={"relations": WITH_NEAR}), str(tmp_path))
    assert not manifest.weighted
    assert set(reading.rows(tmp_path / "graph/edges/train")[0]) == {"lhs", "rel", "rhs"}
    assert json.loads((tmp_path / MANIFEST).read_text())["relations"][2]["derived"]["relation"] == "fav"
