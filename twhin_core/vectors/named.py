"""Blocks of vectors with their indices and ids."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import pyarrow as pa
from torch import Tensor

from twhin_core.vectors.rows import Rows


@dataclass(frozen=True)
class Block:
    """Consecutive rows: index int64 [n], id string [n], vectors float32 [n, dim]."""

    index: pa.Array
    id: pa.Array
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def slice(self, start: int, stop: int) -> Block:
        count = stop - start
        return Block(self.index.slice(start, count), self.id.slice(start, count), self.vectors[start:stop])

    def embedding(self) -> pa.Array:
        """The vectors as a list column."""
        return vector_array(self.vectors)

    def to_batch(self) -> pa.RecordBatch:
        """The block with the columns of `schema`."""
        columns = [self.index, self.id, self.embedding()]
        return pa.RecordBatch.from_arrays(columns, schema=schema(self.vectors.shape[1]))


def vector_array(vectors: Tensor) -> pa.Array:
    """Vectors [n, dim] as a list column."""
    vector = pa.list_(pa.float32(), vectors.shape[1])
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.numpy().reshape(-1)), type=vector)


def schema(dim: int) -> pa.Schema:
    """index: int64, id: string, embedding: fixed_size_list<float>[dim]."""
    return pa.schema([("index", pa.int64()), ("id", pa.string()), ("embedding", pa.list_(pa.float32(), dim))])


def named_blocks(names: Iterator[pa.RecordBatch], rows: Rows) -> Generator[Block]:
    """All rows in order, in one block per batch (index, id) of `names`."""
    start = 0
    for batch in names:
        yield Block(batch["index"], batch["id"], rows.read(start, start + len(batch)))
        start += len(batch)
