"""Content of nodes: what prepare writes of drawn rows, against plain Python."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command_line import twhin
from tests.conftest import SmallConfig
from tests.graph.reading import ids, rows
from twhin_core.errors import UserError
from twhin_core.graph.content import RARE
from twhin_core.graph.content_entry import ContentEntry
from twhin_core.graph.forget import forget_nodes
from twhin_core.graph.forgotten import Blocked, hashed
from twhin_core.stages.prepare import prepare
from twhin_core.stages.verify import verify

DIM = 3
Row = dict[str, Any]
BAD = [None, [1.0, 2.0], [1.0, math.nan, 2.0], [math.inf, 0.0, 0.0], [0.0, 1e39, 0.0], [0.0, None, 1.0], []]


def draw(seed: int, count: int = 220) -> list[Row]:
    """Of nodes with and without edges; some twice, some bad, some without a category."""
    rng = random.Random(seed)
    names = [*(f"t{at}" for at in range(40)), *(f"new{at}" for at in range(25)), "é", "", None]
    return [
        {
            "key": rng.choice(names),
            "embedding": rng.choice(BAD) if rng.random() < 0.2 else [rng.uniform(-9, 9) for _ in range(DIM)],
            "author": rng.choice([None, "", *(f"a{at}" for at in range(6))]),
            "language": rng.choice([None, 1, 2, *range(3, 30)]) if rng.random() < 0.7 else 1,
        }
        for _ in range(count)
    ]


def write(path: Path, given: list[Row]) -> None:
    kinds = {"key": pa.string(), "embedding": pa.list_(pa.float64()), "author": pa.string(), "language": pa.int32()}
    pq.write_table(pa.Table.from_pylist(given, pa.schema(list(kinds.items()))), path)


def settings(path: Path, /, **changes: Any) -> dict[str, Any]:
    return {
        "table": "tweet", "path": str(path), "id": "key", "column": "embedding", "categories": ["author", "language"]
    } | changes  # fmt: skip


def reason(row: Row) -> str | None:
    vector = row["embedding"]
    if not row["key"]:
        return "null_id"
    if vector is None:
        return "null_vector"
    if len(vector) != DIM:
        return "wrong_length"
    good = all(value is not None and math.isfinite(value) and abs(value) < 3.4e38 for value in vector)
    return None if good else "not_finite"


def expect(given: list[Row]) -> tuple[dict[str, Row], Counter[str]]:
    """The least good row of each node, and how many rows are left out."""
    rejected = Counter(found for row in given if (found := reason(row)) is not None)
    kept: dict[str, Row] = {}
    for row in given:
        if reason(row) is None:
            language = "" if row["language"] is None else str(row["language"])
            row = {**row, "order": (row["embedding"], row["author"] or "", language)}
            if row["key"] in kept:
                rejected["repeated_id"] += 1
            if row["key"] not in kept or row["order"] < kept[row["key"]]["order"]:
                kept[row["key"]] = row
    return kept, rejected


def check_written(root: Path, content: ContentEntry, kept: dict[str, Row]) -> None:
    """Compares the content of tweets under `root` with the rows of its nodes."""
    names = ids(root, "tweet")
    written = rows(root / "graph/features/tweet")
    assert [of["index"] for of in written] == sorted(of["index"] for of in written)
    found = {names[of["index"]]: of for of in written}
    assert set(found) == set(kept)
    assert content.nodes == len(kept)
    degrees = {of["id"]: of["degree"] for of in rows(root / "graph/vocab/tweet")}
    assert content.cold == sum(degrees[name] == 0 for name in kept) > 0
    counts = Counter((at, str(row[name])) for row in kept.values() for at, name in enumerate(("author", "language"))
                     if row[name] not in (None, ""))  # fmt: skip
    own = sorted(pair for pair, count in counts.items() if count >= RARE)
    codes = {pair: 3 + place for place, pair in enumerate(own)}
    assert len(own) < len(counts), "some are rare"
    for name, row in kept.items():
        of = found[name]
        assert of["vector"] == pytest.approx(row["embedding"], rel=1e-6)
        assert of["degree"] == degrees[name]
        for at, column in enumerate(("author", "language")):
            expected = 0 if row[column] in (None, "") else codes.get((at, str(row[column])), 1 + at)
            assert of[f"code_{at}"] == expected
            assert of[f"rare_{at}"] == (None if expected != 1 + at else str(row[column]))
    values = rows(root / "graph/categories/tweet")
    assert [of["code"] for of in values] == list(range(1, content.values + 1)) == list(range(1, 3 + len(own)))
    assert [(of["category"], of["value"]) for of in values[2:]] == [(("author", "language")[at], v) for at, v in own]
    assert [of["value"] for of in values[:2]] == [None, None]
    square = sum(value**2 for row in kept.values() for value in row["embedding"]) / len(kept)
    assert content.scale == 2.0 ** -round(math.log2(square) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_the_good_rows(small_config: SmallConfig, tmp_path: Path, seed: int) -> None:
    check_good_rows(small_config, tmp_path, seed)


def check_good_rows(small_config: SmallConfig, tmp_path: Path, seed: int, **engine: str) -> None:
    given, root = draw(seed), tmp_path / "run"
    write(tmp_path / "content.parquet", given)
    plain = prepare(small_config(prepare=engine), str(tmp_path / "plain"))
    features = [settings(tmp_path / "content.parquet")]
    manifest = prepare(small_config(prepare={"features": features, **engine}), str(root))
    kept, rejected = expect(given)
    content = next(of for of in manifest.tables if of.name == "tweet").content
    assert content is not None
    assert content.rejected == rejected
    assert set(rejected) == {"null_id", "null_vector", "wrong_length", "not_finite", "repeated_id"}
    names = ids(root, "tweet")
    assert set(names) == set(ids(tmp_path / "plain", "tweet")) | set(kept)
    assert {split: of.edges for split, of in manifest.splits.items()} == {
        split: of.edges for split, of in plain.splits.items()
    }
    check_written(root, content, kept)


def test_forgotten_nodes_leave_no_content(small_config: SmallConfig, tmp_path: Path) -> None:
    check_forgotten_nodes(small_config, tmp_path)


def check_forgotten_nodes(small_config: SmallConfig, tmp_path: Path, **engine: str) -> None:
    write(tmp_path / "content.parquet", draw(5))
    config = small_config(prepare={"features": [settings(tmp_path / "content.parquet")], **engine})
    before, after = str(tmp_path / "before"), str(tmp_path / "after")
    prepare(config, before)
    names, gone = ids(Path(before), "tweet"), ["t3", "t7", "new2", "u1"]
    blocked = Blocked("salt", {"tweet": {hashed("salt", name) for name in gone}}, ["record"])
    forgot = forget_nodes(config, before, after, blocked)
    then, now = (rows(Path(root) / "graph/features/tweet") for root in (before, after))
    kept = [of for of in then if names[of["index"]] not in gone]
    assert 0 < len(kept) < len(then)
    assert [{**of, "degree": 0} for of in now] == [{**of, "degree": 0} for of in kept]
    degrees = {of["index"]: of["degree"] for of in rows(Path(after) / "graph/vocab/tweet")}
    assert all(of["degree"] == degrees[of["index"]] for of in now)
    assert rows(Path(before) / "graph/categories/tweet") == rows(Path(after) / "graph/categories/tweet")
    content = forgot.manifest.tables[1].content
    assert content is not None
    assert content.nodes == len(now)


def test_both_are_there_alone(small_config: SmallConfig, tmp_path: Path) -> None:
    write(tmp_path / "content.parquet", draw(7))
    for number, changes in enumerate(({"column": None}, {"categories": []})):
        features = [settings(tmp_path / "content.parquet", **changes)]
        manifest = prepare(small_config(prepare={"features": features}), str(tmp_path / str(number)))
        content = manifest.tables[1].content
        assert content is not None
        assert (content.dim, content.values > 0) == ((0, True), (DIM, False))[number]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "page"}, "prepare.features: no table named 'page'"),
        ({"column": None, "categories": []}, "prepare.features.0: needs column, categories or both"),
        ({"categories": ["key"]}, "prepare.features.0.categories: columns must differ; repeated: key"),
        ({"column": "vector"}, "has no column 'vector' (prepare.features.0.column)"),
        ({"categories": ["topic"]}, "has no column 'topic' (prepare.features.0.categories)"),
        ({"id": "name"}, "has no column 'name' (prepare.features.0.id)"),
        ({"column": "author", "categories": []}, "column 'author' (prepare.features.0.column) is string, not a list"),
        ({"categories": ["embedding"], "column": None}, "(prepare.features.0.categories) is list<"),
        ({"path": "nowhere.parquet"}, "nowhere.parquet"),
    ],
)
def test_a_mistake_is_named(small_config: SmallConfig, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path / "content.parquet", draw(1, 20))
    with pytest.raises(UserError) as error:
        prepare(small_config(prepare={"features": [settings(tmp_path / "content.parquet", **changes)]}), str(tmp_path))
    assert message in str(error.value)


def test_a_table_that_is_listed_twice_is_refused(small_config: SmallConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"features\.1\.table: 'tweet' is listed twice"):
        small_config(prepare={"features": [settings(tmp_path / "content.parquet")] * 2})


def test_rows_that_are_all_bad_are_refused(small_config: SmallConfig, tmp_path: Path) -> None:
    for number, vector in enumerate((None, [], [math.nan])):
        path = tmp_path / f"{number}.parquet"
        write(path, [{"key": "t1", "embedding": vector, "author": "a", "language": 1}])
        with pytest.raises(UserError, match=r"prepare\.features\.0"):
            prepare(small_config(prepare={"features": [settings(path)]}), str(tmp_path / "run"))


def test_describe_and_verify_know_it(small_config: SmallConfig, tmp_path: Path) -> None:
    write(tmp_path / "content.parquet", draw(3))
    root = tmp_path / "run"
    prepare(small_config(prepare={"features": [settings(tmp_path / "content.parquet")]}), str(root))
    asked = twhin("describe", str(root), "--json")
    assert asked.returncode == 0
    listed = json.loads(asked.stdout)["features"]
    assert [(of["table"], of["dim"]) for of in listed] == [("tweet", DIM)]
    assert not any(of.faults for of in verify(str(root)))
    part = next((root / "graph/features/tweet").iterdir())
    part.write_bytes(part.read_bytes()[:-9])
    assert any(of.faults for of in verify(str(root)))
