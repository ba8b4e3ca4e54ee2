"""Explicit negatives in prepare: apart from the edges, and no pair both positive and negative."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.graph import reading
from tests.graph.brute_force import SPLITS, Row
from tests.graph.test_forgotten import write_records
from tests.graph.test_properties import write
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.graph.forget import forget_nodes
from twhin_core.graph.forgotten import blocked_at
from twhin_core.graph.manifest import Manifest
from twhin_core.graph.show import list_graph
from twhin_core.stages.prepare import prepare
from twhin_core.stages.verify import verify

Triple = tuple[str, str, str]

RELATIONS: list[dict[str, Any]] = [
    {"name": "fav", "lhs": "user", "rhs": "tweet", "negatives": {"relation": "dislike"}},
    {"name": "click", "lhs": "user", "rhs": "tweet", "negatives": {"relation": "dislike"}},
    {"name": "dislike", "lhs": "user", "rhs": "tweet"},
]
OF = {"fav": "dislike", "click": "dislike"}


def rows_of(seed: int, timed: bool = True, split: bool = False) -> list[Row]:
    rng = random.Random(seed)
    return [
        Row(
            lhs=f"u{rng.randrange(8)}",
            relation=rng.choice(["fav", "click", "dislike"]),
            rhs=f"t{rng.randrange(8)}",
            time=rng.choice([None, *range(6)]) if timed else None,
            split=rng.choice(SPLITS) if split else None,
        )
        for _ in range(150)
    ]


def config_of(small_config: SmallConfig, folder: Path, rows: list[Row], **options: Any) -> Config:
    by_split = any(row.split for row in rows)
    sources = write(rows, folder / "raw", "parquet", files=2)
    split = None if by_split else {"by": "hash", "validation": 0.2, "test": 0.2}
    return small_config(model={"relations": RELATIONS}, prepare={"sources": sources, "split": split, **options})


def losers(rows: list[Row]) -> dict[Triple, str]:
    """The edges that a contrary one overrules, by one loop after another."""
    latest: dict[Triple, int | None] = {}
    for row in rows:
        edge = str(row.lhs), str(row.relation), str(row.rhs)
        times = [time for time in (latest.get(edge), row.time) if time is not None]
        latest[edge] = max(times, default=None)
    found: dict[Triple, str] = {}
    for (lhs, relation, rhs), time in latest.items():
        negative = lhs, OF.get(relation, ""), rhs
        if negative in latest:
            later = latest[negative]
            if later is not None and time is not None and later > time:
                found[lhs, relation, rhs] = "later_negative"
            else:
                found[negative] = "also_positive"
    return found


def everything(root: Path, manifest: Manifest, folders: Sequence[str]) -> list[Triple]:
    return [edge for folder in folders for edge in reading.edges(root, manifest, folder)]


NEGATIVES = [f"negatives/{split}" for split in SPLITS]


def check(small_config: SmallConfig, folder: Path, rows: list[Row], **options: Any) -> None:
    root = folder / "run"
    manifest = prepare(config_of(small_config, folder, rows, **options), str(root))
    gone, given = losers(rows), {(row.lhs, row.relation, row.rhs) for row in rows}
    left = given - gone.keys()
    positive, negative = (everything(root, manifest, folders) for folders in (SPLITS, NEGATIVES))
    assert sorted(positive) == sorted(edge for edge in left if edge[1] != "dislike")
    assert sorted(negative) == sorted(edge for edge in left if edge[1] == "dislike")
    assert not {(lhs, rhs) for lhs, _, rhs in positive} & {(lhs, rhs) for lhs, _, rhs in negative}
    expected = Counter(
        reason for row in rows if (reason := gone.get((str(row.lhs), str(row.relation), str(row.rhs)))) is not None
    )
    reasons = manifest.rejected.by_reason
    assert {reason: reasons.get(reason, 0) for reason in expected} == expected
    assert sum(reasons.values()) + len(left) == len(rows)
    trained = everything(root, manifest, ["train"])
    degrees = Counter([("user", lhs) for lhs, _, _ in trained] + [("tweet", rhs) for _, _, rhs in trained])
    for table in ("user", "tweet"):
        for row in reading.rows(root / "graph/vocab" / table):
            assert row["degree"] == degrees[table, row["id"]]
    dislike = manifest.relations[2]
    assert dislike.edges == {split: len(reading.edges(root, manifest, f"negatives/{split}")) for split in SPLITS}
    assert {split: entry.edges for split, entry in manifest.negatives.items()} == dislike.edges
    assert dislike.degrees["lhs"].nodes == 0
    assert dislike.edges["train"]
    (listed,) = (listing for listing in list_graph(manifest) if listing.name == "negatives")
    assert listed.rows == [[name, "dislike", *dislike.edges.values()] for name in ("fav", "click")]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("split", [False, True], ids=["by hash", "by sources"])
def test_the_later_of_two_contrary_edges_stays(
    small_config: SmallConfig, tmp_path: Path, seed: int, split: bool
) -> None:
    repeats = ["first", "last", "count", "sum"][seed]
    check(small_config, tmp_path, rows_of(seed, split=split), repeats=repeats)


def test_without_times_the_positive_stays(small_config: SmallConfig, tmp_path: Path) -> None:
    rows = rows_of(9, timed=False)
    assert set(losers(rows).values()) == {"also_positive"}
    check(small_config, tmp_path, rows)


def test_times_split_negatives_by_themselves(small_config: SmallConfig, tmp_path: Path) -> None:
    """The last edge of each user stays a favorite, however many dislikes come later."""
    rows = [Row("u0", "fav", f"t{time}", time=time) for time in range(5)]
    rows += [Row("u0", "dislike", f"t{time}", time=time) for time in range(5, 9)]
    config = config_of(small_config, tmp_path, rows, split={"by": "last", "validation": 1, "test": 1})
    manifest = prepare(config, str(tmp_path / "run"))
    found = {
        name: {rhs for _, _, rhs in reading.edges(tmp_path / "run", manifest, name)} for name in SPLITS + NEGATIVES
    }
    assert found == {
        "train": {"t0", "t1", "t2"}, "validation": {"t3"}, "test": {"t4"},
        "negatives/train": {"t5", "t6"}, "negatives/validation": {"t7"}, "negatives/test": {"t8"},
    }  # fmt: skip


def test_both_directions_of_a_symmetric_relation(small_config: SmallConfig, tmp_path: Path) -> None:
    relations = [
        {"name": "friend", "lhs": "user", "rhs": "user", "symmetric": True, "negatives": {"relation": "block"}},
        {"name": "block", "lhs": "user", "rhs": "user", "symmetric": True},
        {"name": "fav", "lhs": "user", "rhs": "tweet"},
    ]
    rows = [Row("a", "friend", "b", time=1), Row("b", "block", "a", time=2), Row("c", "friend", "a", time=3)]
    rows += [Row("b", "block", "c", time=0), Row("c", "friend", "b", time=0), Row("a", "fav", "t")]
    sources = write(rows, tmp_path / "raw", "parquet", files=1)
    split = {"by": "hash", "validation": 0, "test": 0}
    config = small_config(model={"relations": relations}, prepare={"sources": sources, "split": split})
    manifest = prepare(config, str(tmp_path / "run"))
    train, negatives = (set(reading.edges(tmp_path / "run", manifest, of)) for of in ("train", "negatives/train"))
    assert negatives == {("a", "block", "b"), ("b", "block", "a")}
    assert train == {
        ("a", "friend", "c"), ("c", "friend", "a"), ("b", "friend", "c"), ("c", "friend", "b"), ("a", "fav", "t")
    }  # fmt: skip
    assert manifest.rejected.by_reason == {"also_positive": 1, "later_negative": 1}


def test_every_file_of_explicit_negatives_is_verified(small_config: SmallConfig, tmp_path: Path) -> None:
    root = tmp_path / "run"
    prepare(config_of(small_config, tmp_path, rows_of(0)), str(root))
    (path,) = (root / "graph/edges/negatives/test").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert any("negatives/test" in str(line) for line in verify(str(root)))


def test_forgotten_nodes_leave_explicit_negatives_too(small_config: SmallConfig, tmp_path: Path) -> None:
    versions, nodes = tmp_path / "series/versions", {("user", "u1"), ("tweet", "t2")}
    config = config_of(small_config, tmp_path, rows_of(5))
    before = prepare(config, str(versions / "1"))
    write_records(str(versions.parent), nodes)
    blocked = blocked_at(str(versions / "2"))
    assert blocked is not None
    manifest = forget_nodes(config, str(versions / "1"), str(versions / "2"), blocked).manifest
    for name in SPLITS + NEGATIVES:
        kept = reading.edges(versions / "1", before, name)
        left = [(lhs, relation, rhs) for lhs, relation, rhs in kept if lhs != "u1" and rhs != "t2"]
        assert len(left) < len(kept) or name.endswith(("validation", "test"))
        assert reading.edges(versions / "2", manifest, name) == left
        assert manifest.all_splits[name].edges == len(left)


def test_negatives_without_training_edges_are_refused(small_config: SmallConfig, tmp_path: Path) -> None:
    rows = [row for row in rows_of(0) if row.relation != "dislike"]
    with pytest.raises(UserError, match=r"the negatives of fav, dislike, have no edges in train"):
        prepare(config_of(small_config, tmp_path, rows), str(tmp_path / "run"))


TABLES = [{"name": name, "embedding_dim": 4, "optimizer": {"adagrad": {"lr": 0.1}}} for name in ("user", "tweet")]
OTHERS = [{"name": name, "lhs": "user", "rhs": rhs} for name, rhs in (("dislike", "tweet"), ("block", "user"))]
FAV = {"name": "fav", "lhs": "user", "rhs": "tweet"}

REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"relation": "fav"}, {}, "model.relations.0.negatives.relation: fav cannot be its own negatives"),
    ({"relation": "dislikes"}, {}, "model.relations.0.negatives.relation: no relation named 'dislikes' has an entry"),
    ({"relation": "*"}, {}, "model.relations.0.negatives.relation: no relation named '*' has an entry of its own"),
    ({"relation": "block"}, {}, "block leads from user to user, but fav from user to tweet"),
    ({"relation": "dislike", "share": 1}, {}, "model.relations.0.negatives.share: input should be less than 1"),
    ({"relation": "dislike", "share": -0.1}, {}, "model.relations.0.negatives.share: input should be greater than or"),
    ({"relation": "dislike", "share": "half"}, {}, "model.relations.0.negatives.share: input should be a valid number"),
    ({"relation": "dislike", "per_positive": 0}, {}, "model.relations.0.negatives.per_positive: input should be great"),
    ({"relation": "dislike", "weight": 1}, {}, "model.relations.0.negatives.weight: unknown key"),
    ({}, {}, "model.relations.0.negatives.relation: is required"),
    *(
        (
            {"relation": "dislike"},
            {"prepare": {"previous": "/runs/1", "repeats": repeats}},
            f"prepare.repeats: {repeats} keeps no edge's latest time, which tells on a later day whether model",
        )
        for repeats in ("first", "count", "sum")
    ),
    (
        {"relation": "dislike"},
        {"prepare": {"previous": "/runs/1", "repeats": "last"}},
        "prepare.repeats: last needs a timestamp column in some source",
    ),
    (
        {"relation": "dislike"},
        {"recommend": {"dislike": {}}},
        "recommend.dislike: dislike has explicit negatives alone",
    ),
    ({"relation": "dislike"}, {"model": {"target": "dislike"}}, "model.target: dislike has explicit negatives alone"),
    (
        {"relation": "dislike"},
        {"model": {"relation_prediction": 0.1}},
        "model.relation_prediction: would predict dislike, which has explicit negatives alone",
    ),
    (
        {"relation": "dislike"},
        {"prepare": {"derive": {"block": {"relation": "dislike", "side": "lhs"}}}},
        "prepare.derive.block: dislike has explicit negatives alone",
    ),
    (
        {"relation": "dislike"},
        {"evaluation": {"gates": {"test.dislike.mrr": {"min": 0.1}}}},
        "evaluation.gates: test.dislike.mrr: dislike has explicit negatives alone",
    ),
]


@pytest.mark.parametrize(("negatives", "sections", "message"), REFUSED)
def test_a_mistake_is_one_line_before_any_work(
    small_config: SmallConfig, tmp_path: Path, negatives: dict[str, Any], sections: dict[str, Any], message: str
) -> None:
    model = {"embeddings": {"tables": TABLES}, "relations": [{**FAV, "negatives": negatives}, *OTHERS]}
    with pytest.raises(UserError) as refused:
        prepare(small_config(**{**sections, "model": model | sections.get("model", {})}), str(tmp_path / "run"))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_negatives_of_negatives_or_of_other_symmetry_are_refused(small_config: SmallConfig) -> None:
    chained = [{**FAV, "negatives": {"relation": "dislike"}}, {**OTHERS[0], "negatives": {"relation": "hide"}}]
    hide = {**OTHERS[0], "name": "hide"}
    with pytest.raises(UserError, match=r"relations\.0\.negatives\.relation: dislike has negatives itself"):
        small_config(model={"relations": [*chained, hide]})
    friend = {"name": "friend", "lhs": "user", "rhs": "user", "symmetric": True, "negatives": {"relation": "block"}}
    with pytest.raises(UserError, match=r"block and friend must both be symmetric or neither"):
        small_config(model={"relations": [friend, OTHERS[1]]})


def test_negatives_need_prepare(small_config: SmallConfig) -> None:
    tables = [{**table, "num_embeddings": 9} for table in TABLES]
    model = {"embeddings": {"tables": tables}, "relations": [{**FAV, "negatives": {"relation": "dislike"}}, *OTHERS]}
    with pytest.raises(UserError, match=r"model\.relations\.0\.negatives: needs a prepare section"):
        small_config(prepare=None, train_data={"data_root": "/edges"}, model=model)
