"""Compares prepare with `brute_force` for arbitrary small inputs and options."""

from __future__ import annotations

import contextlib
import csv
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import SmallConfig
from tests.graph import reading
from tests.graph.brute_force import SPLITS, Expected, Row, expect
from twhin_core.config import Config
from twhin_core.config.prepare import Prepare
from twhin_core.errors import UserError
from twhin_core.graph import build as module
from twhin_core.graph.duckdb_engine import DuckDBEngine
from twhin_core.graph.manifest import Manifest
from twhin_core.stages.prepare import prepare

SCHEMA = pa.schema(
    [
        ("lhs", pa.string()),
        ("relation", pa.string()),
        ("rhs", pa.string()),
        ("weight", pa.float64()),
        ("time", pa.int64()),
    ]
)
GOOD_IDS = ["a", "b", "c", "d", "é"]

ROWS = st.builds(
    Row,
    lhs=st.sampled_from([*GOOD_IDS * 3, "", None]),
    relation=st.sampled_from([*["follow", "fav"] * 5, "poke", None]),
    rhs=st.sampled_from([*GOOD_IDS * 3, "", None]),
    weight=st.sampled_from([*[0.25, 1.0, 2.5, 1e-30] * 5, 0.0, -1.0, float("nan"), None]),
    time=st.sampled_from([*range(-3, 12), None]),
    split=st.none(),
)
SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.4])
RELATIONS = st.sampled_from([None, None, ["fav"], ["follow"], ["fav", "follow"]])
SPLITTING = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"by": st.sampled_from(["hash", "time"]), "validation": SHARES, "test": SHARES, "seed": st.integers(0, 3)}
        | {"relations": RELATIONS}
    ),
    st.fixed_dictionaries(
        {
            "by": st.just("last"),
            "validation": st.integers(0, 2).map(float),
            "test": st.integers(0, 2).map(float),
            "seed": st.integers(0, 3),
            "relations": RELATIONS,
        }
    ),
)
MINIMUM = st.dictionaries(st.sampled_from(["user", "tweet"]), st.integers(1, 4))
OPTIONS = st.fixed_dictionaries(
    {
        "time_window": st.none() | st.builds(lambda start: {"start": start, "end": start + 9}, st.integers(-3, 3)),
        "self_loops": st.sampled_from(["keep", "drop"]),
        "sampling": st.dictionaries(st.sampled_from(["follow", "fav"]), st.sampled_from([0.5, 0.8, 1.0])),
        "repeats": st.sampled_from(["first", "last", "count", "sum"]),
        "min_degree": st.just({}) | MINIMUM,
        "min_degree_rounds": st.none() | st.integers(1, 2),
        "split": SPLITTING,
        "cold_nodes": st.sampled_from(["keep", "drop"]),
    }
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Row], dict[str, Any]]:
    """Rows and options that are valid together."""
    options = draw(OPTIONS)
    rows = draw(st.lists(ROWS, min_size=20, max_size=60))
    if not options["min_degree"]:
        options["min_degree_rounds"] = None
    if options["split"] is None:
        splits = draw(st.lists(st.sampled_from(["train", *SPLITS]), min_size=len(rows), max_size=len(rows)))
        rows = [row._replace(split=split) for row, split in zip(rows, splits, strict=True)]
    if options["repeats"] == "count":
        rows = [row._replace(weight=1.0) for row in rows]
    return rows, options


def write(rows: list[Row], folder: Path, form: str, files: int) -> list[dict[str, Any]]:
    """Writes the rows to files, in one folder per split, and returns the sources."""
    sources = []
    for split in dict.fromkeys(row.split for row in rows):
        place = folder / str(split)
        place.mkdir(parents=True)
        of_split = [row for row in rows if row.split == split]
        for file in range(min(files, len(of_split))):
            columns = [list(column) for column in zip(*of_split[file::files], strict=True)][: len(SCHEMA)]
            if form == "parquet":
                table = pa.Table.from_arrays(
                    [pa.array(c, of) for c, of in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA
                )
                pq.write_table(table, place / f"{file}.parquet")
            else:
                with (place / f"{file}.csv").open("w", newline="") as text:
                    csv.writer(text).writerows([SCHEMA.names, *zip(*columns, strict=True)])
        sources.append({"path": str(place), "relation_column": "relation", "timestamp": "time", "split": split})
    return sources


def config_of(
    small_config: SmallConfig, sources: list[dict[str, Any]], options: dict[str, Any], symmetric: bool = False
) -> Config:
    weight = {} if options["repeats"] == "count" else {"weight": "weight"}
    relations = [
        {"name": "follow", "lhs": "user", "rhs": "user", "symmetric": symmetric},
        {"name": "fav", "lhs": "user", "rhs": "tweet"},
    ]
    prepare = {"sources": [{**source, **weight} for source in sources], **options}
    return small_config(prepare=prepare, model={"relations": relations})


def is_refused(expected: Expected, rows: list[Row], options: dict[str, Any]) -> bool:
    """Whether a table has no nodes, or a requested split has no edges."""
    asked = {"train"} | {row.split for row in rows}
    if options["split"] is not None:
        asked |= {name for name in ("validation", "test") if options["split"][name] > 0}
    return not all(expected.nodes.values()) or not all(expected.edges[split] for split in asked if split is not None)


def assert_graph(root: Path, manifest: Manifest, expected: Expected) -> None:
    assert manifest.rejected.by_reason == expected.by_reason
    assert Counter(reading.rejected(root)) == +expected.rejected
    for split in SPLITS:
        assert reading.edges(root, manifest, split) == list(expected.edges[split])
        assert manifest.splits[split].edges == len(expected.edges[split])
        assert manifest.splits[split].cold_edges == expected.cold[split]
        weights = [row.get("weight", 1.0) for row in reading.rows(root / "graph/edges" / split)]
        assert weights == [np.float32(weight) for weight in expected.edges[split].values()]
    for table, nodes in expected.nodes.items():
        found = reading.rows(root / "graph/vocab" / table)
        assert [(row["index"], row["id"], row["degree"]) for row in found] == [
            (index, node, degree) for index, (node, degree) in enumerate(nodes.items())
        ]


def assert_reversed(manifest: Manifest, expected: Expected, symmetric: bool) -> None:
    """The manifest counts the held-out edges whose reverse is in train."""
    for entry in manifest.relations:
        found = {
            split: sum(
                (rhs, rel, lhs) in expected.edges["train"]
                for lhs, rel, rhs in expected.edges[split]
                if rel == entry.name
            )
            for split in ("validation", "test")
        }
        asked = entry.name == "follow" and not symmetric
        assert entry.reversed == ({split: count for split, count in found.items() if count} if asked else {})
        assert entry.name != "follow" or not symmetric or not any(found.values())  # that is what it is for


@contextlib.contextmanager
def one_thread(prepared: Prepare) -> Iterator[DuckDBEngine]:
    from twhin_core.graph.connect import connect

    with connect(prepared) as engine:
        assert isinstance(engine, DuckDBEngine)
        engine.backend.raw_sql("SET threads = 1")
        yield engine


def some(examples: int) -> settings:
    """Fixtures are made once for all examples here, and each example is two runs of prepare."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, suppress_health_check=checks)


CASE = {"case": cases(), "form": st.sampled_from(["parquet", "csv"]), "order": st.randoms(use_true_random=False)}
CASE["symmetric"] = st.booleans()


@some(8)
@given(**CASE)
def test_prepare_follows_the_rules_for_any_files(
    small_config: SmallConfig, case: tuple[list[Row], dict[str, Any]], form: str, order: Any, symmetric: bool
) -> None:
    check(small_config, case, form, order, symmetric)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@some(20)
@given(**CASE)
def test_prepare_follows_the_rules_in_many_cases(
    small_config: SmallConfig, case: tuple[list[Row], dict[str, Any]], form: str, order: Any, symmetric: bool
) -> None:
    check(small_config, case, form, order, symmetric)


def check(
    small_config: SmallConfig, case: tuple[list[Row], dict[str, Any]], form: str, order: Any, symmetric: bool
) -> None:
    """One run agrees with `brute_force`, and so does one on shuffled rows, in other files and with one thread."""
    rows, options = case
    expected = expect(rows, options, ["follow"] if symmetric else [])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sources = write(rows, root / "raw", form, files=1)
        try:
            manifest = prepare(config_of(small_config, sources, options, symmetric), str(root / "run"))
        except UserError:
            assert is_refused(expected, rows, options)
            return
        assert not is_refused(expected, rows, options)
        written = [edge for split in SPLITS for edge in reading.edges(root / "run", manifest, split)]
        pairs = {(min(lhs, rhs), rel, max(lhs, rhs)) if symmetric and rel == "follow" else (lhs, rel, rhs)
                 for lhs, rel, rhs in written}  # fmt: skip
        assert len(pairs) + manifest.rejected.rows == len(rows)
        assert_reversed(manifest, expected, symmetric)
        assert_graph(root / "run", manifest, expected)

        order.shuffle(rows)
        sources = write(rows, root / "shuffled", form, files=3)
        order.shuffle(sources)
        with mock.patch.object(module, "connect", one_thread):
            again = prepare(config_of(small_config, sources, options, symmetric), str(root / "again"))
        assert again.rejected.by_reason == manifest.rejected.by_reason
        assert Counter(reading.rejected(root / "again")) == +expected.rejected
        same = {"rejected": None, "raw_files": None}  # which name the files
        assert again.model_copy(update=same) == manifest.model_copy(update=same)
