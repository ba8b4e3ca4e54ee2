"""Reads the explicit negatives of a split, which every rank holds whole."""

from __future__ import annotations

from twhin_core.config import Config
from twhin_core.data.negative_lists import NegativeLists, make_lists, pairs_of
from twhin_core.data.splits import open_negatives
from twhin_core.distributed.ranks import Ranks
from twhin_core.schema import Schema


def explicit_negatives(config: Config, root: str, schema: Schema, split: str, ranks: Ranks) -> NegativeLists | None:
    """Those of a split by query, equal on every rank; None if it has none. A collective: each rank reads a share."""
    files = open_negatives(config, root, schema, split)
    if files is None:
        return None
    return make_lists(ranks.of_all(pairs_of(files.chunks(ranks.rank, ranks.world_size), schema)), schema)
