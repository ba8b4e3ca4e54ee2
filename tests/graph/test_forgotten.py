"""A graph without forgotten nodes is that of the rows that do not name them, compared with `brute_force`."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.conftest import SmallConfig
from tests.graph import reading
from tests.graph.brute_force import SPLITS, Expected, Row, expect
from tests.graph.test_grow import IDS, assert_splits, days, split_of
from tests.graph.test_properties import config_of, is_refused, some, write
from twhin_core import storage
from twhin_core.graph.forget import forget_nodes
from twhin_core.graph.forgotten import Record, blocked_at, record_url
from twhin_core.graph.manifest import MANIFEST, Manifest
from twhin_core.stages.prepare import prepare

TABLES = {"follow": ("user", "user"), "fav": ("user", "tweet")}
Nodes = set[tuple[str, str]]
NODES = st.dictionaries(
    st.sampled_from(IDS), st.sampled_from([["user"], ["tweet"], ["user", "tweet"]]), min_size=1, max_size=3
).map(lambda drawn: {(table, name) for name, tables in drawn.items() for table in tables})
CASE = {"case": days(), "nodes": NODES, "symmetric": st.booleans(), "rolled_back": st.booleans()}


@some(4)
@given(**CASE)
def test_what_is_left_is_what_the_other_rows_make(
    small_config: SmallConfig,
    case: tuple[list[list[Row]], dict[str, Any]],
    nodes: Nodes,
    symmetric: bool,
    rolled_back: bool,
) -> None:
    check(small_config, *case, nodes, symmetric, rolled_back)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@some(10)
@given(**CASE)
def test_what_is_left_is_what_the_other_rows_make_in_many_cases(
    small_config: SmallConfig,
    case: tuple[list[list[Row]], dict[str, Any]],
    nodes: Nodes,
    symmetric: bool,
    rolled_back: bool,
) -> None:
    check(small_config, *case, nodes, symmetric, rolled_back)


def check(
    small_config: SmallConfig,
    rows: list[list[Row]],
    options: dict[str, Any],
    nodes: Nodes,
    symmetric: bool,
    rolled_back: bool,
    **engine: Any,
) -> None:
    """Forgets nodes of the first day's graph, and adds the second day's rows to the result or to the graph before."""
    if options["window"] or options["edge_decay"]:  # or the reference would be the newest row, which may be forgotten
        options = {**options, "time_window": {"start": 1, "end": 60}}
    undirected = ["follow"] if symmetric else []
    now = options["time_window"]["end"] if options["time_window"] else None
    whole = expect(rows[0], options, undirected, {}, now)
    left = [[row for row in of if not names(row, nodes)] for of in rows]
    assume(not is_refused(whole, rows[0], options) and left[0] and left[1])
    first = expect(left[0], options, undirected, {}, now)
    splits = split_of(whole if rolled_back else first) if options["split"] is None else {}
    second = expect(left[0] + left[1], options, undirected, splits, now)
    # A source whose rows all name forgotten nodes asks for its split all the same.
    assume(not is_refused(first, left[0], options) and not is_refused(second, left[0] + rows[1], options))
    with tempfile.TemporaryDirectory() as folder:
        versions = Path(folder, "series/versions")
        asked = [write(of, Path(folder, f"raw-{day}"), "parquet", files=2) for day, of in enumerate(rows[:2])]
        config = config_of(small_config, asked[0], {**options, **engine}, symmetric)
        before = prepare(config, str(versions / "1"))
        kept = {split: reading.edges(versions / "1", before, split) for split in SPLITS}
        write_records(str(versions.parent), nodes)
        blocked = blocked_at(str(versions / "2"))
        assert blocked is not None
        forgot = forget_nodes(config, str(versions / "1"), str(versions / "2"), blocked)
        storage.publish_json(str(versions / "2" / MANIFEST), forgot.manifest.model_dump())
        manifest = forgot.manifest
        assert_graph(versions / "2", manifest, first, nodes)
        for split in SPLITS:  # in the same order
            stayed = [edge for edge in kept[split] if not of_nodes(edge, nodes)]
            assert reading.edges(versions / "2", manifest, split) == stayed
        assert forgot.edges == sum(len(of) for of in kept.values()) - sum(len(of) for of in first.edges.values())
        assert_rejected(versions / "2", first, len(rows[0]) - len(left[0]))
        for table in ("user", "tweet"):
            gone = [row["index"] for row in vocabulary(versions / "1", table) if (table, row["id"]) in nodes]
            assert forgot.rows.get(table, []) == pytest.approx(gone)
            same = [row for row in vocabulary(versions / "1", table) if row["index"] not in gone]
            assert [row["index"] for row in vocabulary(versions / "2", table)] == [row["index"] for row in same]
        previous = versions / ("1" if rolled_back else "2")
        later = config_of(small_config, asked[1], {**options, **engine, "previous": str(previous)}, symmetric)
        found = prepare(later, str(versions / "3"))
        assert_graph(versions / "3", found, second, nodes)
        assert not named(versions / "3") & {name for name in IDS if {("user", name), ("tweet", name)} <= nodes}


def names(row: Row, nodes: Nodes) -> bool:
    """Whether a row names one of the nodes; of an unknown relation, in whichever table."""
    tables = TABLES.get(row.relation or "")
    if tables is None:
        return bool({row.lhs, row.rhs} & {name for _, name in nodes})
    return (tables[0], row.lhs) in nodes or (tables[1], row.rhs) in nodes


def of_nodes(edge: tuple[str, str, str], nodes: Nodes) -> bool:
    lhs, relation, rhs = edge
    return bool(set(zip(TABLES[relation], (lhs, rhs), strict=True)) & nodes)


def named(root: Path) -> set[str | None]:
    """All ids in the vocabularies and the rejected rows."""
    found = {row["id"] for table in ("user", "tweet") for row in vocabulary(root, table)}
    return found | {name for lhs, _, rhs, _ in reading.rejected(root) for name in (lhs, rhs)}


def vocabulary(root: Path, table: str) -> list[dict[str, Any]]:
    return reading.rows(root / "graph/vocab" / table)


def write_records(series: str, nodes: Nodes) -> None:
    tables = sorted({table for table, _ in nodes})
    for number, table in enumerate(tables, 1):
        hashes = sorted(hashlib.sha256(f"salt{name}".encode()).hexdigest() for of, name in nodes if of == table)
        record = Record(begun="now", by="ada", table=table, ids=len(hashes), salt="salt", hashes=hashes)
        storage.write_json(record_url(series, number), record.model_dump())


def assert_graph(root: Path, manifest: Manifest, expected: Expected, nodes: Nodes) -> None:
    assert_splits(root, manifest, expected)
    for split in SPLITS:
        for entry in manifest.relations:
            assert entry.edges[split] == sum(edge[1] == entry.name for edge in expected.edges[split])
    for entry in manifest.tables:
        rows, table = vocabulary(root, entry.name), entry.name
        assert len(rows) == entry.nodes == sum(file.rows for file in entry.files)
        assert len({row["index"] for row in rows}) == len(rows)
        assert all(0 <= row["index"] < entry.num_embeddings for row in rows)
        assert sum(entry.sorted_runs) == entry.num_embeddings
        degrees = {row["id"]: row["degree"] for row in rows}
        assert not {(table, name) for name in degrees} & nodes
        of_expected = expected.nodes[table]
        assert {name: degree for name, degree in degrees.items() if name in of_expected} == of_expected
        assert all(degrees[name] == 0 for name in set(degrees) - set(of_expected))


def assert_rejected(root: Path, expected: Expected, forgotten: int) -> None:
    found = Counter(reading.rejected(root))
    without = Counter({row: count for row, count in found.items() if row[3] != "forgotten"})
    assert without == +expected.rejected
    of_reason = [row for row in found.elements() if row[3] == "forgotten"]
    assert len(of_reason) == forgotten
    assert {(lhs, rhs) for lhs, _, rhs, _ in of_reason} <= {(None, None)}
