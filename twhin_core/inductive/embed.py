"""Embeds nodes by their edges to trained nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.config import Config
from twhin_core.errors import NotFound, suggest
from twhin_core.inductive.edges import Block, Counts, Known, blocks
from twhin_core.inductive.frozen import Frozen, ScoredVectors, sample_edges
from twhin_core.inductive.objective import Objective
from twhin_core.model.threads import map_in_threads
from twhin_core.parquet import write_part
from twhin_core.progress import log
from twhin_core.schema import OTHER, SIDES, Schema
from twhin_core.scratch import scratch
from twhin_core.sizes import count_of, in_bytes
from twhin_core.training.new_nodes import Ends, predicted_sums
from twhin_core.vectors.degrees import read_degrees
from twhin_core.vectors.named import vector_array

Method = Literal["mean", "fit"]

NODES_AT_ONCE = 512
"""Nodes that are fitted at once. Their scores should fit into a processor's cache."""
STEPS = 4
STEP = 0.5
"""The first step's length per coordinate, relative to the root mean square of the trained vectors; falls to 0."""


@dataclass(frozen=True)
class Trained:
    """A trained run."""

    config: Config
    root: str
    schema: Schema
    vectors: ScoredVectors


def embed(
    run: Trained,
    table: str,
    edges: Iterable[pa.RecordBatch],
    method: Method = "fit",
    with_known: bool = False,
    share: tuple[int, int] = (0, 1),
) -> Iterator[pa.RecordBatch]:
    """Vectors of the nodes of `table` that were not trained, from their edges to trained nodes.

    Trained are the nodes with training edges, or all that the run knows if it did not prepare its graph.

    - `mean`: the weighted mean of what each edge predicts (`Scorer.predictions`);
    - `fit`: from there, a few steps of Adam on the training loss with everything else frozen (`Objective`).

    Memory is bounded by `evaluation.memory_limit` and a block of edges. Logs how many edges could not be used.

    Args:
        edges: with the columns of `edges.SCHEMA`.
        with_known: whether to embed trained nodes too, by these edges alone.
        share: (i, n): only the i-th of n shares of the nodes, so that n processes can divide the work.

    Yields:
        (id: string, edges: int64, embedding: fixed_size_list<float>[dim]), sorted by id.

    Raises:
        UserError: there is no such table, or a vocabulary is broken.
    """
    if table not in run.schema.tables:
        raise NotFound(f"no table named {table!r}; {suggest(table, run.schema.tables)}")
    embedder, counts, memory = Embedder(run, table), Counts(), in_bytes(run.config.evaluation.memory_limit)
    with scratch("embed") as folder:
        degrees = {
            name: read_degrees(run.config, run.root, name, rows, folder / f"{number}.degrees")
            for number, (name, rows) in enumerate(run.schema.tables.items())
        }
        known = Known(run.vectors, degrees)
        found = blocks(run.schema, known, table, edges, with_known, share, folder, memory, counts)
        for number, block in enumerate(found):
            if not number:
                _log_counts(counts, table)
            vectors = embedder.embed(block, method)
            degree = np.bincount(block.node, minlength=len(block))
            yield pa.RecordBatch.from_arrays(
                [block.names, pa.array(degree), vector_array(vectors)], schema=schema(vectors.shape[1])
            )
        if not counts.ends:
            _log_counts(counts, table)


def write(
    run: Trained,
    table: str,
    edges: Iterable[pa.RecordBatch],
    url: str,
    method: Method = "fit",
    with_known: bool = False,
    share: tuple[int, int] = (0, 1),
) -> int:
    """Writes what `embed` yields to a Parquet file, which appears when it is complete. Returns the number of rows.

    Raises:
        StorageRefused: the file cannot be written.
        UserError: as `embed`.
    """
    of = schema(run.config.model.dim)
    folder, slash, name = url.rpartition("/")
    return write_part(embed(run, table, edges, method, with_known, share), of, folder or slash or ".", name).rows


def schema(dim: int) -> pa.Schema:
    return pa.schema([("id", pa.string()), ("edges", pa.int64()), ("embedding", pa.list_(pa.float32(), dim))])


def _log_counts(counts: Counts, table: str) -> None:
    log.info("embed: %s from a new node of %s to a trained one", count_of(counts.ends, "edge"), table)
    if counts.unknown_relations:
        log.warning("embed: %s of %s edges are of relations that were not trained",
                    f"{counts.unknown_relations:,}", f"{counts.edges:,}")  # fmt: skip


class Embedder:
    """Embeds blocks of nodes of one table. What every block needs is read once."""

    def __init__(self, run: Trained, table: str) -> None:
        self._run, self._table = run, table
        self._scorer = run.vectors.scorer().requires_grad_(False)
        self._rows = {name: run.vectors.rows(name) for name in run.schema.tables}
        self._unit = {of.name for of in run.config.model.embeddings.tables if of.is_spherical}

    def embed(self, block: Block, method: Method) -> Tensor:
        """[n, dim] the vectors of the block's nodes."""
        vectors = self.mean(block)
        return self.fit(block, vectors) if method == "fit" else vectors

    @cached_property
    def frozen(self) -> Frozen:
        run = self._run
        edges, count = sample_edges(run.config, run.root, run.schema, run.vectors.ids)
        return Frozen(run.config, run.schema, run.vectors, self._table, edges, count)

    @cached_property
    def _scale(self) -> float:
        """The root mean square of the trained vectors' coordinates."""
        rows = self._rows[self._table]
        return float(rows.read(0, min(rows.size, 4096)).square().mean().sqrt()) if rows.size else 1.0

    def mean(self, block: Block) -> Tensor:
        """[n, dim] the weighted means of what the edges predict."""
        sums = torch.zeros(len(block), self._rows[self._table].dim)
        total = torch.zeros(len(block), dtype=torch.float64)
        for asked in SIDES:
            ends = np.flatnonzero(block.asks_rhs == (asked == "rhs"))
            numbers = self._run.schema.table_numbers[asked][block.rel[ends]]
            for number, name in enumerate(self._run.schema.tables):
                of = ends[numbers == number]
                known = Ends(block.node[of], block.rel[of], block.other[of], block.weight[of])
                nodes, predicted, weights = predicted_sums(
                    self._scorer, OTHER[asked], known, self._rows[name], unit=name in self._unit
                )
                place = torch.from_numpy(nodes)
                sums[place] += predicted
                total[place] += weights
        means = sums / total.float()[:, None]
        return F.normalize(means) if self._table in self._unit else means

    def fit(self, block: Block, start: Tensor) -> Tensor:
        """[n, dim] the vectors after `STEPS` steps from `start`."""
        objective = Objective(self.frozen, block)

        def fit(first: int) -> Tensor:
            nodes = slice(first, first + NODES_AT_ONCE)
            return self._fitted(objective.of_nodes(nodes), start[nodes])

        return torch.cat(map_in_threads(fit, range(0, len(block), NODES_AT_ONCE)))

    def _fitted(self, objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
        vectors = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([vectors], lr=STEP * self._scale, betas=(0.7, 0.95))
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = STEP * self._scale * (1 - step / STEPS)
            optimizer.zero_grad()
            objective(vectors).backward()
            optimizer.step()
            if self._table in self._unit:
                with torch.no_grad():
                    vectors.copy_(F.normalize(vectors))
        return vectors.detach()
