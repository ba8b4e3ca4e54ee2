"""The held-out edges of a run as queries on both sides, with what is known of them and how they are ranked."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from twhin_core import sizes
from twhin_core.config import Config, Model
from twhin_core.data.edges import Edges
from twhin_core.data.splits import has_split, open_split
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import StorageError, StorageRefused, UserError
from twhin_core.evaluation import known as collecting
from twhin_core.evaluation.candidates import candidate_sets
from twhin_core.evaluation.held_out import HeldOut, held_out
from twhin_core.evaluation.known import Asked, Known
from twhin_core.evaluation.node_counts import Counter, NodeCounts, add_ends, degrees
from twhin_core.evaluation.placing import Chunk, Outcome, Placer, cut, place
from twhin_core.evaluation.queries import Ints
from twhin_core.evaluation.sampling import Sampler, check
from twhin_core.evaluation.scores import OTHER
from twhin_core.graph.manifest import SPLITS, read_manifest, read_schema
from twhin_core.schema import SIDES, Schema, Side

BYTES_A_HELD_EDGE = 300
"""Of both sides, with what comes of them."""


def check_graph(config: Config, root: str) -> None:
    """Whether evaluation can ask what it is to ask of the graph at `root`, before anything is trained on it.

    Raises:
        UserError: the split has no edges or more than fit into memory, or candidates are more than a table's rows.
    """
    schema = nodes_only(read_schema(config, root), root)
    check(config.evaluation, schema)
    _check_memory(config, len(open_split(config, root, schema, config.evaluation.split)))


class Questions:
    """What every model and baseline is asked: reads the edges of all splits twice, and holds the held-out ones.

    Counts of nodes and known answers of queries are kept in files, so that memory does not grow with the edges.
    """

    def __init__(
        self, config: Config, root: str, schema: Schema, models: list[Model], ranks: Ranks, folder: Path
    ) -> None:
        """`folder`: an empty one for files.

        Raises:
            UserError: the split has no edges or more than fit into memory, or candidates are more than a table's rows.
        """
        evaluation = config.evaluation
        check(evaluation, schema)
        self.schema, self.ranks, self._evaluation = schema, ranks, evaluation
        self.memory = sizes.in_bytes(evaluation.memory_limit)
        needed = ("train", evaluation.split)
        self._splits = {
            split: open_split(config, root, schema, split)
            for split in SPLITS
            if split in needed or has_split(config, root, split)
        }
        self.edges = {name: len(files) for name, files in self._splits.items()}
        _check_memory(config, self.edges[evaluation.split])
        self.held = self._read_held_out()
        self._asked = {side: Asked(of, max(schema.tables.values())) for side, of in self.held.items()}
        counts, self.ends = self._count(folder)
        self.degrees = degrees(self.ends, schema, folder / "degrees", self.memory // 4)
        sampler = Sampler(evaluation, schema, self.degrees)
        dim = max(model.dim for model in models) + 3  # what a comparator or an earlier version adds
        self.chunks: dict[Side, list[Chunk]] = {}
        for side in SIDES:
            sets = [sampler.sample(of) for of in candidate_sets(models, schema, side)]
            self.chunks[side] = cut(self.held[side], counts[side], sets, schema, dim, self.memory // 4, ranks)
        self._known = self._collect(folder)

    def _read_held_out(self) -> dict[Side, HeldOut]:
        files = self._splits[self._evaluation.split]
        edges = files.all()
        return {side: held_out(edges, side) for side in SIDES}

    def _count(self, folder: Path) -> tuple[dict[Side, Ints], NodeCounts]:
        """How many edges answer each query, and how many training edges each node has."""
        counts = {side: np.zeros(of.queries, np.int64) for side, of in self.held.items()}
        rows = max(self.schema.tables.values())
        counter = Counter(rows, folder / "ends", self.memory // 4)
        for name, files in self._splits.items():
            for edges in files.chunks():
                collecting.count(self._asked, edges, counts)
                if name == "train":
                    add_ends(counter, edges, rows)
        return counts, counter.finish()

    def _collect(self, folder: Path) -> dict[Side, Known]:
        known = {
            side: Known(folder / side, self.held[side], [chunk.queries for chunk in chunks])
            for side, chunks in self.chunks.items()
        }
        collecting.collect(self._splits, self._evaluation.split, self._asked, known)
        return known

    def scores(self) -> int:
        """How many scores each model makes on this rank."""
        return sum(len(chunk.queries) * chunk.candidates.size for side in SIDES for chunk in self.chunks[side])

    def held_out_chunks(self) -> Iterator[Edges]:
        """The held-out edges in data set order, some at a time."""
        return self._splits[self._evaluation.split].chunks()

    def rank(self, placers: Mapping[str, Placer]) -> dict[Side, Outcome]:
        """Ranks all held-out edges; every rank must call it."""
        return {
            side: place(self.held[side], self._known[side], self.chunks[side], placers, self.ranks) for side in SIDES
        }

    def relation_of_queries(self) -> Ints:
        """The relation of each query, those for the lhs first."""
        return np.concatenate([of.rel[of.first] for of in self.held.values()])

    def degree_of_queries(self) -> Ints:
        """Training edges of the node of each query, those for the lhs first."""
        return np.concatenate([self._degree(of, of.given, OTHER[side])[of.first] for side, of in self.held.items()])

    def degree_of_answers(self) -> dict[Side, Ints]:
        """Training edges of each held-out answer."""
        return {side: self._degree(of, of.answer, side) for side, of in self.held.items()}

    def _degree(self, held: HeldOut, node: Ints, side: Side) -> Ints:
        """Training edges of nodes [H] of the tables on one side of the relations."""
        place = {table: number for number, table in enumerate(self.schema.tables)}
        relations = range(len(self.schema.relations))
        table = np.array([place[self.schema.table_of(rel, side)] for rel in relations])
        return self.degrees.of(table[held.rel], node)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for files that are needed for a while. Raises StorageRefused where its disk is full."""
    try:
        with tempfile.TemporaryDirectory(prefix="twhin-evaluate-") as folder:
            yield Path(folder)
    except StorageError:
        raise
    except OSError as error:
        if error.filename is None or "twhin-evaluate-" in str(error.filename):
            raise StorageRefused(
                f"{tempfile.gettempdir()}: cannot be written: {error.strerror or error}; TMPDIR names another folder"
            ) from error
        raise


def _check_memory(config: Config, held_out_edges: int) -> None:
    limit = config.evaluation.memory_limit
    if held_out_edges * BYTES_A_HELD_EDGE > sizes.in_bytes(limit) // 2:
        raise UserError(
            f"evaluation.memory_limit: {limit} is too small for {held_out_edges:,} held-out edges; raise it, or take "
            "fewer by test_data.limit"
        )


def nodes_only(schema: Schema, root: str) -> Schema:
    """The schema less the rows that no node has: a table may be stated larger than its vocabulary."""
    manifest = read_manifest(root)
    nodes = {entry.name: entry.num_embeddings for entry in manifest.tables} if manifest is not None else {}
    return Schema(schema.tables | nodes, schema.relations)
