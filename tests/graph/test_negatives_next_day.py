"""What becomes of contrary edges and of explicit negatives in a graph that continues another one, by hand."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.graph import reading
from tests.graph.brute_force import Row, expect
from tests.graph.test_forgotten import write_records
from tests.graph.test_grow import assert_splits
from tests.graph.test_grow_with_negatives import DISLIKE, FAV, GRAPHS, OPTIONS, relation
from tests.graph.test_next_day import write
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.graph.compared import read_changes
from twhin_core.graph.forget import forget_nodes
from twhin_core.graph.forgotten import blocked_at
from twhin_core.graph.manifest import MANIFEST, Manifest
from twhin_core.stages.prepare import prepare
from twhin_core.stages.verify import verify

Edge = tuple[str, str, str]
TRAIN = {"validation": 0.0, "test": 0.0}
PLAIN = relation("fav", "tweet")


class Series:
    """Versions 1, 2 …, each of which continues the one before with the rows of its day."""

    def __init__(self, small_config: SmallConfig, folder: Path) -> None:
        self._small_config, self._folder, self.days = small_config, folder, 0

    def root(self, day: int) -> Path:
        return self._folder / "series/versions" / str(day)

    def config(self, relations: list[dict[str, Any]], **options: Any) -> Config:
        source = {"path": str(self._folder / "raw"), "relation_column": "relation", "timestamp": "time"}
        prepared = {"sources": [source], "repeats": "last", "split": TRAIN, **options}
        return self._small_config(prepare=prepared, model={"relations": relations})

    def add(self, *rows: tuple[str, str, str, int | None], relations: list[dict[str, Any]], **options: Any) -> Manifest:
        self.days += 1
        write(self._folder / f"raw/{self.days}.parquet", *rows, names="lhs relation rhs time")
        if self.days > 1:
            options = {"previous": str(self.root(self.days - 1)), **options}
        return prepare(self.config(relations, **options), str(self.root(self.days)))

    def edges(self, manifest: Manifest) -> tuple[set[Edge], set[Edge]]:
        """Those to train on, and the explicit negatives."""
        root = self.root(self.days)
        return set(reading.edges(root, manifest, "train")), set(reading.edges(root, manifest, "negatives/train"))

    def are_kept(self, split: str) -> bool:
        """Whether the files of the split are those of the day before, and newer ones."""
        old, new = (list((self.root(day) / "graph/edges" / split).iterdir()) for day in (self.days - 1, self.days))
        return all(any(one.samefile(other) for other in new) for one in old)


@pytest.fixture
def series(small_config: SmallConfig, tmp_path: Path) -> Series:
    return Series(small_config, tmp_path)


FIRST: list[tuple[str, str, str, int | None]] = [
    ("a", "fav", "t", 5), ("a", "fav", "s", 5), ("b", "fav", "t", 5), ("b", "dislike", "s", 5)
]  # fmt: skip
ALL_FAVS = {("a", "fav", "t"), ("a", "fav", "s"), ("b", "fav", "t")}


def test_a_later_day_s_dislike_takes_a_fav_and_a_fav_of_the_next_day_takes_it_back(series: Series) -> None:
    relations = [FAV, DISLIKE]
    series.add(*FIRST, relations=relations)
    second = series.add(("a", "dislike", "t", 6), relations=relations)
    assert series.edges(second) == (ALL_FAVS - {("a", "fav", "t")}, {("b", "dislike", "s"), ("a", "dislike", "t")})
    assert second.rejected.by_reason == {"later_negative": 1}
    assert second.rejected.edges_before == 1
    (row,) = reading.rows(series.root(2) / "graph/rejected")
    assert row == {
        "source": str(series.root(1)), "lhs": "a", "relation": "fav", "rhs": "t", "reason": "later_negative"
    }  # fmt: skip
    for table in ("user", "tweet"):
        assert {row["degree"] for row in reading.rows(series.root(2) / "graph/vocab" / table)} == {1}
    figures = read_changes(str(series.root(2)))
    assert figures is not None
    assert (figures["edges"], figures["dislike.edges"], figures["rejected"]) == ((2, 3), (2, 1), (0, 0))
    assert figures["psi"].now == 0, "explicit negatives are no share of the edges"
    third = series.add(("a", "fav", "t", 6), relations=relations)
    assert series.edges(third) == (ALL_FAVS, {("b", "dislike", "s")})
    assert third.rejected.by_reason == {"also_positive": 1}
    assert third.rejected.edges_before == 1
    assert {part.state for part in verify(str(series.root(3)))} == {"whole"}


def test_edges_that_overrule_a_new_row_stay_in_their_files(series: Series) -> None:
    series.add(*FIRST, relations=[FAV, DISLIKE])
    rows: list[tuple[str, str, str, int | None]] = [
        ("a", "dislike", "t", 5), ("a", "dislike", "s", None), ("b", "fav", "s", 4), ("c", "fav", "t", 9)
    ]  # fmt: skip
    second = series.add(*rows, relations=[FAV, DISLIKE])
    assert series.edges(second) == (ALL_FAVS | {("c", "fav", "t")}, {("b", "dislike", "s")})
    assert second.rejected.by_reason == {"also_positive": 2, "later_negative": 1}
    assert second.rejected.edges_before == 0
    assert series.are_kept("train")
    assert series.are_kept("negatives/train")


@pytest.mark.parametrize("takes_a_fav", [False, True])
def test_a_new_relation_may_hold_the_negatives_of_an_old_one(series: Series, takes_a_fav: bool) -> None:
    series.add(*FIRST[:3], relations=[PLAIN])
    dislike = ("a", "dislike", "t", 6) if takes_a_fav else ("b", "dislike", "s", 6)
    second = series.add(dislike, relations=[FAV, DISLIKE])
    assert series.edges(second) == (ALL_FAVS - ({("a", "fav", "t")} if takes_a_fav else set()), {dislike[:3]})
    assert second.all_splits["negatives/train"].edges == 1
    assert series.are_kept("train") != takes_a_fav
    assert {part.state for part in verify(str(series.root(2)))} == {"whole"}
    clicks: list[tuple[str, str, str, int | None]] = [("b", "click", "t", 7), ("b", "click", "s", 5)]
    third = series.add(*clicks, relations=[FAV, DISLIKE, relation("click", "tweet", "dislike")])
    found = {edge for edge in series.edges(third)[0] if edge[1] == "click"}
    assert found == ({("b", "click", "t"), ("b", "click", "s")} if takes_a_fav else {("b", "click", "t")})


CLICK, CLICK_ALONE = relation("click", "tweet", "dislike"), relation("click", "tweet")
HIDE = relation("hide", "tweet")
WERE = "negatives of {} were {} and are {}".format
HELD = "{} held edges to train on and holds negatives".format
REFUSED: list[tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]] = [
    ([FAV, DISLIKE], [PLAIN, DISLIKE], [WERE("fav", "'dislike'", "none")]),
    ([FAV, DISLIKE], [relation("fav", "tweet", "hide"), DISLIKE, HIDE], [WERE("fav", "'dislike'", "'hide'")]),
    ([FAV, CLICK, DISLIKE], [FAV, CLICK_ALONE, DISLIKE], [WERE("click", "'dislike'", "none")]),
    ([FAV, CLICK_ALONE, DISLIKE], [FAV, CLICK, DISLIKE], [WERE("click", "none", "'dislike'")]),
    ([FAV, DISLIKE, HIDE], [FAV, DISLIKE, HIDE, relation("click", "tweet", "hide")], [HELD("hide")]),
    ([PLAIN, DISLIKE], [FAV, DISLIKE], [WERE("fav", "none", "'dislike'"), HELD("dislike")]),
]


@pytest.mark.parametrize(("before", "now", "named"), REFUSED)
def test_relations_that_exchange_edges_and_negatives_are_refused(
    series: Series, before: list[dict[str, Any]], now: list[dict[str, Any]], named: list[str]
) -> None:
    series.add(*FIRST, relations=before)
    with pytest.raises(UserError) as caught:
        series.add(("a", "dislike", "t", 6), relations=now)
    start = f"prepare.previous: {series.root(1)} cannot be continued: "
    assert str(caught.value) == start + "; ".join(f"model.relations: {line}" for line in named)


def test_a_series_begun_with_other_repeats_says_so(series: Series) -> None:
    series.add(*FIRST, relations=[FAV, DISLIKE], repeats="first")
    with pytest.raises(UserError, match=r"cannot be continued: prepare\.repeats was 'first' and is 'last'$"):
        series.add(("a", "dislike", "t", 6), relations=[FAV, DISLIKE])


@pytest.mark.parametrize("rolled_back", [False, True])
def test_days_after_nodes_were_forgotten(series: Series, rolled_back: bool) -> None:
    """In a window that some edges leave."""
    split = {"by": "hash", "validation": 0.2, "test": 0.2, "seed": 1, "relations": None}
    rng, relations, options = random.Random(3), GRAPHS["shared"], {"window": 9, "split": split}

    def rows(times: range) -> list[Row]:
        names = [of["name"] for of in relations]
        return [
            Row(f"u{rng.randrange(6)}", rng.choice(names), f"t{rng.randrange(5)}", 1.0, rng.choice(times))
            for _ in range(70)
        ]

    def add(rows: list[Row], **more: Any) -> Manifest:
        values = [(str(of.lhs), str(of.relation), str(of.rhs), of.time) for of in rows]
        return series.add(*values, relations=relations, **options, **more)

    first, second = rows(range(8)), rows(range(7, 15))
    add(first)
    write_records(str(series.root(1).parent.parent), {("user", "u1"), ("tweet", "t2")})
    blocked = blocked_at(str(series.root(2)))
    assert blocked is not None
    forgot = forget_nodes(series.config(relations, **options), str(series.root(1)), str(series.root(2)), blocked)
    storage.publish_json(str(series.root(2) / MANIFEST), forgot.manifest.model_dump())
    series.days = 2
    third = add(second, **({"previous": str(series.root(1))} if rolled_back else {}))
    left = [row for row in first + second if row.lhs != "u1" and row.rhs != "t2"]
    assert_splits(
        series.root(3), third, expect(left, OPTIONS | options, negatives=dict.fromkeys(["fav", "click"], "dislike"))
    )
