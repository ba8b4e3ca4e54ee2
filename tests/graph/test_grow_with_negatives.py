"""A graph with explicit negatives that grows by a day's files is the graph of all days at once.

Where it cannot be, since rows have no times, come late or name several splits, a day still makes what its rows and the
edges of the day before make at once.
"""

from __future__ import annotations

import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SmallConfig
from tests.graph import reading
from tests.graph.brute_force import NEGATIVES, SPLITS, Expected, Row, expect, newest_of
from tests.graph.test_grow import (
    assert_conserved,
    assert_edges,
    assert_indices_kept,
    assert_relation_degrees,
    assert_reversed,
    split_of,
)
from tests.graph.test_properties import is_refused, some, write
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare


def relation(name: str, rhs: str, negatives: str | None = None, symmetric: bool = False) -> dict[str, Any]:
    held = {} if negatives is None else {"negatives": {"relation": negatives}}
    return {"name": name, "lhs": "user", "rhs": rhs, "symmetric": symmetric, **held}


FAV, DISLIKE = relation("fav", "tweet", "dislike"), relation("dislike", "tweet")
GRAPHS = {
    "shared": [FAV, relation("click", "tweet", "dislike"), DISLIKE],
    "symmetric": [FAV, DISLIKE, relation("friend", "user", "block", True), relation("block", "user", None, True)],
    "directed": [FAV, DISLIKE, relation("follow", "user", "mute"), relation("mute", "user")],
}
DAY = 4
OPTIONS: dict[str, Any] = {
    "time_window": None, "self_loops": "keep", "sampling": {}, "repeats": "last", "min_degree": {},
    "min_degree_rounds": None, "split": None, "cold_nodes": "keep", "window": None, "edge_decay": None,
}  # fmt: skip


class Case(NamedTuple):
    """`graph`: of `GRAPHS`; `whole`: whether the days are to make what all of them make at once."""

    graph: str
    rows: list[list[Row]]
    options: dict[str, Any]
    whole: bool

    @property
    def negatives(self) -> dict[str, str]:
        return {of["name"]: of["negatives"]["relation"] for of in GRAPHS[self.graph] if "negatives" in of}

    @property
    def symmetric(self) -> list[str]:
        return [of["name"] for of in GRAPHS[self.graph] if of["symmetric"]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    graph, whole = draw(st.sampled_from(sorted(GRAPHS))), draw(st.booleans())
    is_late = draw(st.booleans()) and not (whole and graph == "shared")
    shares = st.sampled_from([0.0, 0.3])
    splits = st.fixed_dictionaries({"by": st.just("hash"), "validation": shares, "test": shares, "seed": st.just(1)})
    options = OPTIONS | {
        "self_loops": draw(st.sampled_from(["keep", "drop"])),
        "sampling": draw(st.just({}) | st.just({"fav": 0.8, "dislike": 0.7})),
        "split": (split := draw(st.none() | splits)),
        # Or an edge that left the window might come back in another split.
        "window": draw(st.none() | st.integers(2, 3 * DAY)) if whole or split else None,
        "edge_decay": {"half_life": draw(st.integers(2, 9))} if whole and draw(st.booleans()) else None,
    }

    def row(day: int) -> Row:
        of = draw(st.sampled_from(GRAPHS[graph]))
        names = [f"u{at}" for at in range(4 + day)], [f"{of['rhs'][0]}{at}" for at in range(3 + day)]
        lhs, rhs = (draw(st.sampled_from(of)) for of in names)
        times = st.integers(0 if is_late else DAY * day, DAY * (day + 1))
        return Row(
            lhs=lhs,
            relation=of["name"],
            rhs=rhs,
            weight=draw(st.sampled_from([0.25, 1.0, 2.5])),
            time=draw(times if whole else st.none() | times),
            split=None if options["split"] else draw(st.sampled_from(["train", *SPLITS])),
        )

    rows = [[row(day) for _ in range(draw(st.integers(*of)))] for day, of in enumerate([(40, 60), (12, 25), (12, 25)])]
    rows[0] += [  # so that no split is empty
        Row(f"u{at}", of["name"], f"{of['rhs'][0]}-{split}", 1.0, DAY, None if options["split"] else split)
        for at, of in enumerate(GRAPHS[graph])
        for split in SPLITS
    ]
    if whole and not options["split"]:
        rows = [[of._replace(split=fixed_split(of)) for of in of_day] for of_day in rows]
    return Case(graph, rows, options, whole)


def fixed_split(row: Row) -> str:
    """The same for all rows of an edge, in either direction."""
    digest = zlib.crc32(" ".join(sorted([str(row.lhs), str(row.relation), str(row.rhs)])).encode())
    return ["train", "train", "validation", "test"][digest % 4]


@some(3)
@given(case=cases())
def test_days_one_by_one_are_all_days_at_once(small_config: SmallConfig, case: Case) -> None:
    check(small_config, case)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@some(10)
@given(case=cases())
def test_days_one_by_one_are_all_days_at_once_in_many_cases(small_config: SmallConfig, case: Case) -> None:
    check(small_config, case)


def test_an_explicit_negative_stays_in_the_split_that_it_had(small_config: SmallConfig) -> None:
    first = [Row("a", "fav", "t", 1.0, 1, split) for split in SPLITS]
    first += [Row("b", "fav", f"t{split}", 1.0, 1, split) for split in SPLITS]
    first += [Row("a", "dislike", f"t{split}", 1.0, 1, split) for split in SPLITS]
    second = [Row("a", "dislike", f"t{split}", 2.5, 2, "validation") for split in SPLITS]
    second.append(Row("b", "dislike", "ttrain", 1.0, 2, "validation"))
    assert check(small_config, Case("shared", [first, second], OPTIONS, whole=False)) == 2


def check(small_config: SmallConfig, case: Case, **engine: Any) -> int:
    """After each day, compares the graph with `brute_force`. Returns the number of days."""
    options, symmetric = case.options, case.symmetric
    expected, rejected = Expected(), Counter[tuple[Any, ...]]()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for day, of_day in enumerate(case.rows):
            until = [row for of in case.rows[: day + 1] for row in of]
            now = newest_of(until, options)
            splits = split_of(expected) if options["split"] is None else {}
            as_rows = edges_of(expected, symmetric, with_split=options["split"] is None)
            of_edges = expect(as_rows + of_day, options, symmetric, splits, now, case.negatives)
            before, expected = expected, of_edges
            if case.whole:
                expected = expect(until, options, symmetric, splits, now, case.negatives)
                if options["edge_decay"] is None:
                    assert (of_edges.edges, of_edges.times) == (expected.edges, expected.times)
            sources = write(of_day, root / f"raw-{day}", "parquet", files=2)
            asked = {**options, **engine} | ({"previous": str(root / str(day - 1))} if day else {})
            config = config_of(small_config, case.graph, sources, asked)
            if is_refused(expected, until, options) or not all_held(expected, case.negatives):
                with pytest.raises(UserError, match=r"split is empty|no edges are left|no edge has a|have no edges"):
                    prepare(config, str(root / str(day)))
                return day
            manifest = prepare(config, str(root / str(day)))
            assert_edges(root / str(day), manifest, expected)
            assert_reversed(manifest, expected, symmetric=False)
            assert_relation_degrees(manifest, expected)
            of_run = Counter(reading.rejected(root / str(day)))
            rejected += of_run
            if options["edge_decay"] is None:  # or the weights of edges would decay again as rows
                assert of_run == +of_edges.rejected
            if case.whole and options["window"] is None:
                assert rejected.total() == expected.rejected.total()
            if day:
                assert_indices_kept(root / str(day - 1), root / str(day))
                assert_conserved(before, expected, of_day, manifest, symmetric)
    return len(case.rows)


def config_of(
    small_config: SmallConfig, graph: str, sources: list[dict[str, Any]], options: dict[str, Any], **sections: Any
) -> Config:
    prepared = {"sources": [{**source, "weight": "weight"} for source in sources], **options}
    return small_config(prepare=prepared, model={"relations": GRAPHS[graph]}, **sections)


def edges_of(expected: Expected, symmetric: list[str], with_split: bool) -> list[Row]:
    """The edges as rows, each pair of a symmetric relation once."""
    return [
        Row(*edge, weight, expected.times[edge], split.removeprefix(NEGATIVES) if with_split else None)
        for split, edges in expected.edges.items()
        for edge, weight in edges.items()
        if edge[1] not in symmetric or edge[0] <= edge[2]
    ]


def all_held(expected: Expected, negatives: dict[str, str]) -> bool:
    return set(negatives.values()) <= {edge[1] for edge in expected.edges[f"{NEGATIVES}train"]}
