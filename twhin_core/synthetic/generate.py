"""Generates a Twitter-like network with planted communities and power-law degrees, as raw files for prepare."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twhin_core import storage
from twhin_core.config.generate import Generate
from twhin_core.config.sources import Source
from twhin_core.parquet import ROWS_PER_GROUP, write_parts
from twhin_core.progress import log
from twhin_core.synthetic.planted import Ints, Planted, plant

START, SECONDS = 1_700_000_000, 30 * 86_400  # interactions over one month
SCHEMA = pa.schema(
    [("lhs", pa.string()), ("relation", pa.string()), ("rhs", pa.string()), ("time", pa.timestamp("ms", tz="UTC"))]
)


def generate(settings: Generate, root: str) -> list[Source]:
    """Writes a network to `<root>/edges/`.

    Users follow users, and fav, reply to and retweet tweets, mostly in their own community. The files contain each edge
    once, in random order, with the columns lhs, relation, rhs (ids like `user:12`) and time.

    Returns:
        The sources for prepare.
    """
    rng = np.random.default_rng(settings.seed)
    relations = plant(settings, rng)
    interactions = settings.users * settings.edges_per_user
    edges = [planted.draw(round(interactions * planted.kind.share), rng) for planted in relations]
    files = write_parts(_batches(relations, edges, rng), SCHEMA, root, "edges")
    log.info("generate: %s edges under %s", f"{sum(file.rows for file in files):,}", root)
    return [Source(path=storage.join(root, "edges"), relation_column="relation", timestamp="time")]


def numbers(ids: pa.Array) -> Ints:
    """The numbers of nodes in the network, from ids like `user:12`."""
    found: Ints = pc.cast(pc.replace_substring_regex(ids, "^[^:]*:", ""), pa.int64()).to_numpy(zero_copy_only=False)
    return found


def _batches(
    relations: list[Planted], edges: list[tuple[Ints, Ints]], rng: np.random.Generator
) -> Iterator[pa.RecordBatch]:
    """All edges in random order, with random times."""
    lhs, rhs = (np.concatenate([pair[side] for pair in edges]) for side in (0, 1))
    rel = np.repeat(np.arange(len(relations)), [len(pair[0]) for pair in edges])
    names = pa.array([planted.kind.name for planted in relations])
    tables = pa.array([f"{planted.kind.rhs}:" for planted in relations])
    order = rng.permutation(len(lhs))
    time = 1000 * (START + rng.integers(SECONDS, size=len(lhs)))
    for start in range(0, len(order), ROWS_PER_GROUP):
        rows = order[start : start + ROWS_PER_GROUP]
        columns = [
            pc.binary_join_element_wise("user:", pc.cast(lhs[rows], pa.string()), ""),
            names.take(rel[rows]),
            pc.binary_join_element_wise(tables.take(rel[rows]), pc.cast(rhs[rows], pa.string()), ""),
            pa.array(time[rows]).cast(SCHEMA.field("time").type),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
