"""The labeled nodes of `evaluation.probe`: their rows, classes and numbers, and which of them are held out.

Files are streamed into a database that spills to disk, and joined there with the ids of the table.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from twhin_core import sizes
from twhin_core.config import Config, Evaluation
from twhin_core.config.probe import KEY, Probe
from twhin_core.errors import UserError
from twhin_core.ranking.queries import Floats, Ints
from twhin_core.scratch import scratch

if TYPE_CHECKING:
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from twhin_core.graph.raw_files import RawSource
    from twhin_core.schema import Schema
    from twhin_core.vectors.ids import Ids

Bools = npt.NDArray[np.bool_]

HELD_OUT = 0.3
"""Share of the labeled nodes that nothing is fitted to."""
TUNED_ON = 0.14
"""Share that the strength of the penalty is chosen on, before the fit to them too."""
MOST_NODES = 100_000
"""Of those, the AUC's interval is about .005 wide; more would only take longer."""
MOST_CLASSES = 100
BYTES_PER_NUMBER = 24
"""Of a node, while a regression is fitted."""


@dataclass(frozen=True)
class Labeled:
    """The n labeled nodes that are used, by ascending row."""

    rows: Ints
    """[n]"""
    label: Ints
    """[n] the number of each node's class."""
    numbers: Floats
    """[n, features], all finite."""
    held_out: Bools
    """[n]"""
    tuned_on: Bools
    """[n] of those that are not held out."""
    classes: list[str]
    """In the order of their numbers."""
    counts: dict[str, int]
    """`labels`: rows with an id and a label; `incomplete`: rows without; `unmatched`: labels of ids that the table does
    not have; `repeated`: labels of a node that has another; `unused`: labeled nodes beyond those that are used."""

    @property
    def shared(self) -> Ints:
        """The numbers of the classes that have nodes both held out and not."""
        return np.intersect1d(self.label[self.held_out], self.label[~self.held_out])


def check_probe(config: Evaluation) -> None:
    """Checks before any work that the files of `evaluation.probe`, if there is one, have the columns that it names.

    Raises:
        UserError: no file matches; one is broken or lacks a column; or a column has an unusable type.
    """
    if config.probe is not None:
        _open(config.probe)


def _open(probe: Probe) -> RawSource:
    from twhin_core.graph.label_rows import check_labels
    from twhin_core.graph.raw_files import check_sources

    (source,) = check_sources([probe.as_source()])
    check_labels(source)
    return source


def read_labels(config: Config, root: str, schema: Schema, dim: int) -> Labeled:
    """The nodes that `evaluation.probe` labels; of too many, those with the lowest hashes. As `find_labeled`.

    Raises:
        UserError: as `find_labeled`, or a vocabulary is broken.
    """
    from twhin_core.vectors.names import open_ids

    assert config.evaluation.probe is not None
    table = config.evaluation.probe.table
    with scratch("probe") as folder:
        return find_labeled(config.evaluation, open_ids(config, root, table, schema.tables[table]), dim, folder)


def find_labeled(evaluation: Evaluation, ids: Ids, dim: int, folder: Path) -> Labeled:
    """The labeled nodes of the table with these ids.

    A node is held out by a hash of its id and `evaluation.seed`, whatever else is labeled.

    Args:
        dim: of the vectors that will be held for each node.
        folder: for what does not fit into memory.

    Raises:
        UserError: as `check_probe`; no label is of a node of the table; there is one class, or more than
            `MOST_CLASSES`, or one alone has nodes both held out and not; a feature is not a finite number; or the
            memory does not suffice.
    """
    from twhin_core.graph.duckdb_backend import open_backend
    from twhin_core.graph.sources import read_source
    from twhin_core.vectors.ids import IDS_PER_BATCH, SCHEMA
    from twhin_core.vectors.matching import fill, in_one_line

    assert evaluation.probe is not None
    probe, source = evaluation.probe, _open(evaluation.probe)
    memory = sizes.in_bytes(evaluation.memory_limit) // 4
    most = min(MOST_NODES, max(1, memory // (BYTES_PER_NUMBER * (dim + len(probe.features) + 1))))
    too_small = f"evaluation.memory_limit: too small to match the labels of {probe.path}; raise it"
    with in_one_line(folder, too_small, f"{probe.path} cannot be read"), contextlib.ExitStack() as stack:
        limit = f"{max(memory >> 20, 128)}MiB"
        backend = open_backend(":memory:", memory_limit=limit, temp_directory=str(folder / "spill"))
        stack.callback(backend.disconnect)
        backend.create_table("labels", read_source(backend, source, 0))
        fill(backend.con, "ids", SCHEMA, ids.batches(IDS_PER_BATCH))
        return _match(backend.con, probe, evaluation.seed, most)


def _match(database: DuckDBPyConnection, probe: Probe, seed: int, most: int) -> Labeled:
    """As `find_labeled`, from the tables `labels` and `ids`."""
    numbers = [f"number_{at}" for at in range(len(probe.features))]
    columns = ", ".join(["label", *numbers])
    rows, labels = _row(database, "SELECT count(*), count(*) FILTER (id IS NOT NULL AND label IS NOT NULL) FROM labels")
    database.execute(
        f"CREATE TEMP TABLE matched AS SELECT index, id, {columns}, file, md5(? || chr(9) || id) AS hash "  # noqa: S608 -- names of our own
        "FROM labels JOIN ids USING (id) WHERE label IS NOT NULL",
        [str(seed)],
    )
    (matched,) = _row(database, "SELECT count(*) FROM matched")
    if not matched:
        raise _unmatched(database, probe, labels)
    _check_numbers(database, probe.features)
    database.execute(
        f"CREATE TEMP TABLE nodes AS SELECT DISTINCT ON (index) index, {columns}, hash FROM matched "  # noqa: S608
        f"ORDER BY index, {columns}"
    )
    (nodes,) = _row(database, "SELECT count(*) FROM nodes")
    # Other digits than those that hold nodes out.
    database.execute(f"CREATE TEMP TABLE used AS FROM nodes ORDER BY substr(hash, 17), index LIMIT {most}")
    classes = _classes(database, probe)
    counts = {
        "labels": labels, "incomplete": rows - labels, "unmatched": labels - matched, "repeated": matched - nodes,
        "unused": max(0, nodes - most),
    }  # fmt: skip
    found = _used(database, numbers, classes, counts)
    if len(found.shared) < 2:
        raise UserError(
            f"{KEY}: {len(found.rows):,} labeled nodes are too few: {HELD_OUT:.0%} of them are held out, and two "
            "classes must have nodes both there and among the others"
        )
    return found


def _used(database: DuckDBPyConnection, numbers: list[str], classes: list[str], counts: dict[str, int]) -> Labeled:
    from twhin_core.graph.hashes import DIGITS, bound

    query = (
        f"SELECT index, label, substr(hash, 1, {DIGITS}) AS digits{''.join(f', {name}' for name in numbers)} "  # noqa: S608
        "FROM used ORDER BY index"
    )
    table = database.sql(query).to_arrow_table()
    digits = table["digits"].to_numpy().astype(str)
    held_out = digits < str(bound(HELD_OUT))
    tuned_on = ~held_out & (digits < str(bound(HELD_OUT + TUNED_ON)))
    number_of = {name: number for number, name in enumerate(classes)}
    label = np.array([number_of[name] for name in table["label"].to_pylist()], np.int64)
    columns = [table[name].to_numpy() for name in numbers]
    values = np.stack(columns, 1) if columns else np.empty((len(label), 0))
    return Labeled(table["index"].to_numpy(), label, values, held_out, tuned_on, classes, counts)


def _classes(database: DuckDBPyConnection, probe: Probe) -> list[str]:
    """The classes of the used nodes, sorted."""
    query = "SELECT DISTINCT label FROM used ORDER BY label LIMIT ?"
    found = database.execute(query, [MOST_CLASSES + 1]).fetchall()
    classes: list[str] = [name for (name,) in found]
    if len(classes) < 2:
        raise UserError(
            f"{KEY}.column: all labeled nodes of table {probe.table} have {probe.column} {classes[0]!r}; a probe needs "
            "two classes"
        )
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"{KEY}.column: {probe.column!r} has more than {MOST_CLASSES} different values, such as {classes[0]!r} and "
            f"{classes[1]!r}; a probe predicts classes"
        )
    return classes


def _check_numbers(database: DuckDBPyConnection, features: list[str]) -> None:
    """Raises UserError if a labeled node of the table lacks a number."""
    for at, name in enumerate(features):
        # Infinity times 0 is NaN, which DuckDB holds to be greater than any number.
        bad = database.execute(
            f"SELECT file, id FROM matched WHERE number_{at} IS NULL OR number_{at} * 0 <> 0 ORDER BY file, id LIMIT 1"  # noqa: S608
        ).fetchone()
        if bad is not None:
            raise UserError(f"{bad[0]}: column {name!r} ({KEY}.features) of id {bad[1]!r} is not a finite number")


def _unmatched(database: DuckDBPyConnection, probe: Probe, labels: int) -> UserError:
    if not labels:
        return UserError(f"{probe.path}: no row has both an id ({KEY}.id) and a label ({KEY}.column)")
    given = database.execute("SELECT min(id) FROM labels WHERE label IS NOT NULL").fetchone()
    known = database.execute("SELECT min(id) FROM ids").fetchone()
    names = [f"{one[0]!r}" for one in (given, known) if one is not None and one[0] is not None]
    hint = f"; it has ids like {names[0]}, the table like {names[1]}" if len(names) == 2 else ""
    where = f"none of the {labels:,} labels of {probe.path} is of a node of table {probe.table}"
    return UserError(f"{KEY}.path: {where}{hint}")


def _row(database: DuckDBPyConnection, query: str) -> tuple[int, ...]:
    found = database.execute(query).fetchone()
    assert found is not None
    return found
