"""A graph that grows by a day's files is the graph of all days at once, but for indices and the order of edges."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SmallConfig
from tests.graph import reading
from tests.graph.brute_force import NEGATIVES, SPLITS, Expected, Row, expect
from tests.graph.test_properties import assert_reversed, config_of, is_refused, some, write
from twhin_core.errors import UserError
from twhin_core.graph.manifest import Manifest
from twhin_core.stages.prepare import prepare

IDS = ["a", "b", "c", "d", "é", "f", "g", "h"]
Edge = tuple[str, str, str]
DAY = 24
SHARES = st.sampled_from([0.0, 0.3, 0.4])  # of few edges, of which none may be held out below that


def row_of(day: int, splits: list[str | None]) -> st.SearchStrategy[Row]:
    """A row of one of the ids that there are on that day, a few of them of another day."""
    ids = st.sampled_from([*IDS[: 4 + 2 * day] * 4, "", None])
    return st.builds(
        Row,
        lhs=ids,
        relation=st.sampled_from([*["follow", "fav"] * 6, "poke", None]),
        rhs=ids,
        weight=st.sampled_from([*[0.25, 1.0, 2.5] * 5, 0.0, None]),
        time=st.sampled_from([*(DAY * day + hour for hour in range(DAY)), *range(4), None]),
        split=st.sampled_from(splits),
    )


@st.composite
def days(draw: st.DrawFn) -> tuple[list[list[Row]], dict[str, Any]]:
    """Three days' rows, and options that fit them."""
    repeats = draw(st.sampled_from(["first", "last", "count", "sum"]))
    window = draw(st.none() | st.integers(8, 60)) if repeats == "last" else None
    half_life = draw(st.none() | st.integers(2, 40)) if repeats != "first" else None
    splitting: st.SearchStrategy[Any] = st.fixed_dictionaries(
        {"by": st.just("hash"), "validation": SHARES, "test": SHARES, "seed": st.integers(0, 3)}
        | {"relations": st.sampled_from([None, None, ["fav"], ["follow"]])}
    )
    split = draw(splitting if window is not None else st.none() | splitting)
    options = {
        "time_window": draw(st.none() | st.just({"start": 1, "end": 60})),
        "self_loops": draw(st.sampled_from(["keep", "drop"])),
        "sampling": draw(st.dictionaries(st.sampled_from(["follow", "fav"]), st.sampled_from([0.5, 0.8, 1.0]))),
        "repeats": repeats,
        "min_degree": {},
        "min_degree_rounds": None,
        "split": split,
        "cold_nodes": "keep",
        "window": window,
        "edge_decay": None if half_life is None else {"half_life": half_life},
    }
    given_splits: list[str | None] = [None] if split is not None else ["train", *SPLITS]
    sizes = {"min_size": 40, "max_size": 60}, {"min_size": 12, "max_size": 30}, {"min_size": 12, "max_size": 30}
    rows = [draw(st.lists(row_of(day, given_splits), **of)) for day, of in enumerate(sizes)]
    if repeats == "count":
        rows = [[row._replace(weight=1.0) for row in of] for of in rows]
    return rows, options


CASE = {"case": days(), "symmetric": st.booleans()}


@some(4)
@given(**CASE)
def test_days_one_by_one_are_all_days_at_once(
    small_config: SmallConfig, case: tuple[list[list[Row]], dict[str, Any]], symmetric: bool
) -> None:
    check(small_config, *case, symmetric)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@some(10)
@given(**CASE)
def test_days_one_by_one_are_all_days_at_once_in_many_cases(
    small_config: SmallConfig, case: tuple[list[list[Row]], dict[str, Any]], symmetric: bool
) -> None:
    check(small_config, *case, symmetric)


@pytest.mark.parametrize("seed", range(3))
def test_reverses_of_new_and_old_edges_are_counted_once(small_config: SmallConfig, seed: int) -> None:
    """Days that change no earlier edge. The last repeats all of the first, and so some edges and their reverses."""
    random = Random(seed)
    pairs = list(itertools.product(IDS, IDS))
    followed = [random.sample(pairs, size) for size in (20, 14, 14)]
    followed[2] += followed[0]
    rows = [[Row(lhs, "follow", rhs, 1.0, 0, random.choice(SPLITS)) for lhs, rhs in of] for of in followed]
    rows[0] += [Row(name, "fav", "x", 1.0, 0, split) for name in IDS[:3] for split in SPLITS]
    options = {
        "time_window": None, "self_loops": "keep", "sampling": {}, "repeats": "first", "min_degree": {},
        "min_degree_rounds": None, "split": None, "cold_nodes": "keep", "window": None, "edge_decay": None,
    }  # fmt: skip
    assert check(small_config, rows, options, symmetric=False) == 3


def check(
    small_config: SmallConfig, rows: list[list[Row]], options: dict[str, Any], symmetric: bool, **engine: Any
) -> int:
    """After each day, compares the graph with `brute_force` on all rows until then. Returns the number of days."""
    undirected = ["follow"] if symmetric else []
    now = options["time_window"]["end"] if options["time_window"] else None
    expected, rejected = Expected(), Counter[tuple[Any, ...]]()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for day, of_day in enumerate(rows):
            until = [row for of in rows[: day + 1] for row in of]
            splits = split_of(expected) if options["split"] is None else {}
            before, expected = expected, expect(until, options, undirected, splits, now)
            sources = write(of_day, root / f"raw-{day}", "parquet", files=2)
            asked = {**options, **engine} | ({"previous": str(root / str(day - 1))} if day else {})
            config = config_of(small_config, sources, asked, symmetric)
            if is_refused(expected, until, options):
                with pytest.raises(UserError, match=r"split is empty|no edges are left|no edge has a node"):
                    prepare(config, str(root / str(day)))
                return day
            manifest = prepare(config, str(root / str(day)))
            rejected += Counter(reading.rejected(root / str(day)))
            assert_edges(root / str(day), manifest, expected)
            assert_reversed(manifest, expected, symmetric)
            assert_relation_degrees(manifest, expected)
            if options.get("window") is None:
                assert rejected == +expected.rejected
            if day:
                assert_indices_kept(root / str(day - 1), root / str(day))
                assert_conserved(before, expected, of_day, manifest, undirected)
    return len(rows)


def split_of(expected: Expected) -> dict[Edge, str]:
    return {edge: split for split, edges in expected.edges.items() for edge in edges}


def assert_splits(root: Path, manifest: Manifest, expected: Expected) -> None:
    assert manifest.all_splits.keys() == expected.edges.keys()
    counts = Counter[tuple[int, str]]()
    for split in expected.edges:
        edges, rows = reading.edges(root, manifest, split), reading.rows(root / "graph/edges" / split)
        stored = [row.get("weight", 1.0) or 1.0 for row in rows]
        assert len(set(edges)) == len(edges) == manifest.all_splits[split].edges
        assert set(edges) == set(expected.edges[split])
        assert stored == pytest.approx([expected.edges[split][edge] for edge in edges], rel=1e-5)
        assert manifest.all_splits[split].cold_edges == expected.cold[split]
        counts.update((row["rel"], split.removeprefix(NEGATIVES)) for row in rows)
    for number, entry in enumerate(manifest.relations):
        assert entry.edges == {split: counts[number, split] for split in SPLITS}


def assert_edges(root: Path, manifest: Manifest, expected: Expected) -> None:
    assert_splits(root, manifest, expected)
    for table, nodes in expected.nodes.items():
        found = reading.rows(root / "graph/vocab" / table)
        assert [row["index"] for row in found] == list(range(len(found)))
        degrees = {row["id"]: row["degree"] for row in found}
        assert len(degrees) == len(found)
        assert {name: degree for name, degree in degrees.items() if name in nodes} == nodes
        assert all(degrees[name] == 0 for name in set(degrees) - set(nodes))  # all of its edges left
        assert sum(next(entry for entry in manifest.tables if entry.name == table).sorted_runs) == len(found)


def assert_relation_degrees(manifest: Manifest, expected: Expected) -> None:
    """Nodes, mean and greatest degree of each side; the other quantiles follow from the same histogram."""
    for entry in manifest.relations:
        for side, place in (("lhs", 0), ("rhs", 2)):
            found = entry.degrees[side]
            degrees = Counter(edge[place] for edge in expected.edges["train"] if edge[1] == entry.name).values()
            assert found.nodes == len(degrees)
            assert found.mean == pytest.approx(sum(degrees) / max(len(degrees), 1))
            assert found.quantiles["1.0"] == max(degrees, default=0)


def assert_indices_kept(before: Path, after: Path) -> None:
    for table in ("user", "tweet"):
        old, new = (reading.ids(root, table) for root in (before, after))
        assert new[: len(old)] == old


def assert_conserved(
    before: Expected, after: Expected, rows: list[Row], manifest: Manifest, symmetric: list[str]
) -> None:
    """Edges before + rows read = edges after + rejected, and no edge changes its split."""

    def pairs(of: Expected) -> int:
        return len({(min(e[0], e[2]), e[1], max(e[0], e[2])) if e[1] in symmetric else e for e in split_of(of)})

    assert pairs(before) + len(rows) == pairs(after) + manifest.rejected.rows
    was, is_ = split_of(before), split_of(after)
    assert all(is_[edge] == was[edge] for edge in was.keys() & is_.keys())
