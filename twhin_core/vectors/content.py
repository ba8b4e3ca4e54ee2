"""The content of nodes, which prepare wrote beside the vocabulary, and vectors that are composed of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twhin_core.graph.content_entry import ContentEntry
from twhin_core.graph.manifest import find_manifest
from twhin_core.model.tower import Tower
from twhin_core.parquet import StoredFile, open_parquet
from twhin_core.vectors.rows import Ints, Rows

LONGEST = 2.0
"""How much longer predictions become at most: those of content that tells nothing are noise, and must stay short."""

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


class ComposedRows:
    """The vectors of a table with content: id row + W·x + Σ rows of categories.

    The id row of a node without training edges has only been pushed away as a negative. What content predicts of it
    takes its place.
    """

    def __init__(
        self,
        ids: Rows,
        content: ContentRows,
        tower: Tower,
        predictor: Tower,
        scale: float,
    ) -> None:
        """
        Args:
            scale: what makes predictions as long as what they predict; at most `LONGEST` is used.
        """
        self._ids, self._content, self._tower, self._predictor = ids, content, tower, predictor
        self._scale = min(scale, LONGEST)
        self.size, self.dim = ids.size, ids.dim

    def read(self, start: int, stop: int) -> Tensor:
        return self._composed(self._ids.read(start, stop), self._content.read(start, stop))

    def gather(self, rows: Ints) -> Tensor:
        return self._composed(self._ids.gather(rows), self._content.gather(rows))

    @torch.no_grad()
    def _composed(self, vectors: Tensor, content: Tensor) -> Tensor:
        is_new = content[:, -1] > 0
        if is_new.any():
            vectors = vectors.clone()
            vectors[is_new] = self._scale * self._predictor(content[is_new])
        composed: Tensor = vectors + self._tower(content)
        return composed


def content_of(root: str, table: str, size: int) -> ContentRows:
    """The content of a table of the run at `root`. Raises UserError if it has none."""
    manifest = find_manifest(root)
    entry = next(of.content for of in manifest.tables if of.name == table)
    assert entry is not None, "or the checkpoint would be of another model"
    return ContentRows(entry, manifest.holder(root), size)
