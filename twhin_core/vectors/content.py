"""The content of nodes, which prepare wrote beside the vocabulary, and vectors that are composed of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.graph.content_entry import ContentEntry
from twhin_core.graph.manifest import find_manifest
from twhin_core.model.tower import Tower
from twhin_core.parquet import StoredFile, open_parquet
from twhin_core.vectors.rows import Ints, Rows

LONGEST = 2.0
"""How much longer predictions become at most: new nodes compete with the others, the more the longer they are."""
TRUST = 2.0
"""A new node's id row is its prediction from a slope of 1/2 on, and a mixture with its own row below."""

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class _Group:
    """A row group of a file, with the first and the last index in it."""

    file: StoredFile
    number: int
    first: int
    last: int


class ContentRows:
    """The content of a table's nodes by row: the scaled vector, the codes, and 1 for a node without training edges.

    Implements `Rows`. Nodes without content have zeros. Keeps the last row group in memory.
    """

    def __init__(self, entry: ContentEntry, root: str, size: int) -> None:
        """
        Args:
            root: the run root that holds the graph.
            size: the rows of the table.

        Raises:
            UserError: a file is broken, as far as its end shows.
        """
        self._entry, self.size = entry, size
        self.dim = entry.dim + len(entry.categories) + 1
        self._groups = list(_groups([file.under(root) for file in entry.files]))
        self._kept: tuple[_Group, Ints, Floats] | None = None

    def read(self, start: int, stop: int) -> Tensor:
        out = np.zeros((stop - start, self.dim), np.float32)
        for group in self._groups:
            if group.first < stop and start <= group.last:
                index, content = self._load(group)
                inside = slice(*np.searchsorted(index, [start, stop]))
                out[index[inside] - start] = content[inside]
        return torch.from_numpy(out)

    def gather(self, rows: Ints) -> Tensor:
        out = np.zeros((len(rows), self.dim), np.float32)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        for group in self._groups:
            begin, end = np.searchsorted(ascending, [group.first, group.last + 1])
            if begin < end:
                index, content = self._load(group)
                place = np.searchsorted(index, ascending[begin:end])  # never beyond: the last is at least as large
                found = index[place] == ascending[begin:end]
                out[order[begin:end][found]] = content[place[found]]
        return torch.from_numpy(out)

    def _load(self, group: _Group) -> tuple[Ints, Floats]:
        kept = self._kept
        if kept is None or kept[0] is not group:
            self._kept = kept = (group, *self._decode(group))
        return kept[1], kept[2]

    def _decode(self, group: _Group) -> tuple[Ints, Floats]:
        dim, codes = self._entry.dim, [f"code_{number}" for number in range(len(self._entry.categories))]
        with open_parquet(group.file.url, footer=group.file.footer) as file:
            rows = file.read_row_group(group.number, ["index", "degree", *(["vector"] if dim else []), *codes])
        content = np.empty((len(rows), self.dim), np.float32)
        if dim:
            vectors = rows["vector"].combine_chunks().flatten().to_numpy()
            np.multiply(vectors.reshape(-1, dim), np.float32(self._entry.scale), out=content[:, :dim])
        for column, name in enumerate(codes, dim):
            content[:, column] = rows[name].to_numpy()
        content[:, -1] = rows["degree"].to_numpy() == 0
        return rows["index"].to_numpy(), content


def _groups(files: list[StoredFile]) -> Iterator[_Group]:
    for of in files:
        with open_parquet(of.url, footer=of.footer) as file:
            for number in range(file.num_row_groups):
                known = file.metadata.row_group(number).column(0).statistics
                yield _Group(of, number, known.min, known.max)


class Towers(NamedTuple):
    """What was learned of a table's content (see `model.content`): the tower, and the predictor with its figures.

    `unit`: whether id rows and vectors have length 1.
    """

    tower: Tower
    predictor: Tower
    scale: float
    slope: float
    unit: bool = False

    def added(self, content: Tensor) -> Tensor:
        """What content adds to the id rows: [n, width] → [n, dim]."""
        with torch.no_grad():
            return self.tower(content)  # type: ignore[no-any-return]

    def with_new(self, rows: Tensor, content: Tensor) -> Tensor:
        """The id rows, [n, dim], those of nodes without training edges moved towards what content predicts."""
        is_new = content[:, -1] > 0
        if not is_new.any():
            return rows
        rows = rows.clone()
        with torch.no_grad():
            predicted = min(self.scale, LONGEST) * self.predictor(content[is_new])
        moved = rows[is_new].lerp(predicted, min(max(TRUST * self.slope, 0.0), 1.0))
        rows[is_new] = F.normalize(moved) if self.unit else moved
        return rows


class ComposedRows:
    """The rows of a table with content, composed of id rows and content: the vectors, or the id rows of new nodes.

    The id row of a node without training edges has only been pushed away as a negative. It moves towards what content
    predicts of it, as far as predictions hold.
    """

    def __init__(self, ids: Rows, content: ContentRows, towers: Towers, whole: bool = True) -> None:
        """`whole`: whether to add what content adds to all vectors."""
        self._ids, self._content, self._towers, self._whole = ids, content, towers, whole
        self.size, self.dim = ids.size, ids.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._composed(self._ids.read(start, stop), self._content.read(start, stop))

    def gather(self, rows: Ints) -> Tensor:
        return self._composed(self._ids.gather(rows), self._content.gather(rows))

    def _composed(self, rows: Tensor, content: Tensor) -> Tensor:
        rows = self._towers.with_new(rows, content)
        if not self._whole:
            return rows
        composed = rows + self._towers.added(content)
        return F.normalize(composed) if self._towers.unit else composed


def content_of(root: str, table: str, size: int) -> ContentRows:
    """The content of a table of the run at `root`, which has some."""
    return ContentRows(content_entry(root, table), find_manifest(root).holder(root), size)


def content_entry(root: str, table: str) -> ContentEntry:
    """What the graph of the run at `root` says of the content of a table, which has some."""
    entry = next(of.content for of in find_manifest(root).tables if of.name == table)
    assert entry is not None, "or the checkpoint would be of another model"
    return entry


def values_of(root: str, table: str) -> list[tuple[str, str | None]]:
    """The category and the value that each number from 1 on stands for; None for all that share it."""
    files = [file.under(find_manifest(root).holder(root)) for file in content_entry(root, table).names]
    found: dict[int, tuple[str, str | None]] = {}
    for of in files:
        with open_parquet(of.url, footer=of.footer) as file:
            for row in file.read(["code", "category", "value"]).to_pylist():
                found[row["code"]] = (row["category"], row["value"])
    return [found[code] for code in sorted(found)]
