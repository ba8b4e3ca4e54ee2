"""`embeddings/faiss/<table>.index`: an index that `faiss.read_index` loads and that answers with rows of the table.

Its scores rank as the comparator's do: inner products, those of unit vectors for `cos`, and distances for `l2`.

`flat` and `hnsw` hold all vectors, while they are built as when they are searched; `ivf_pq` holds a few bytes a vector.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from twhin_core import storage
from twhin_core.config.export import Faiss, Hnsw, IndexKind, IvfPq
from twhin_core.errors import UserError
from twhin_core.export import faiss_library
from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.npy import write_ids
from twhin_core.export.recall import K, measure
from twhin_core.export.source import Source, normalized
from twhin_core.parquet import FileEntry
from twhin_core.progress import Progress

CENTROIDS = 256
"""Of a sub-space of ivf_pq: a code is a byte."""
TRAINED_ON, TRAINED_ON_A_LIST = 65_536, 64
"""Rows that the centroids are learned from, at least if there are as many."""


def check(source: Source) -> None:
    """Raises UserError if the table has too few rows for its kind of index, or faiss is not installed."""
    faiss_library.load()
    if _kind(source) != "ivf_pq":
        return
    lists = _lists(source)
    for what, centroids in (("lists", lists), ("centroids a sub-space", CENTROIDS)):
        if centroids > source.size:
            raise UserError(
                f"export.faiss: ivf_pq with {centroids} {what} needs as many rows, and {source.name} has "
                f"{source.size}; give it another kind: `tables: {{{source.name}: flat}}`"
            )


def write(source: Source, progress: Progress) -> FormatExport:
    faiss = faiss_library.load()
    config = source.run.config
    has_units = config.model.comparator == "cos" or config.export.normalize
    if has_units and not config.export.normalize:
        source = normalized(source)
    index = _empty(faiss, source)
    for block in source.blocks(progress):
        if source.index is None:
            index.add(block.vectors.numpy())
        else:
            index.add_with_ids(block.vectors.numpy(), block.index.to_numpy())
    path = f"{FOLDER}/faiss/{source.name}.index"
    with storage.open_write(storage.join(source.run.root, path)) as file:
        checksum = storage.ChecksumWriter(file)
        faiss.write_index(index, faiss.PyCallbackIOWriter(checksum.write))
        entry = FileEntry(path=path, rows=source.size, sha256=checksum.hexdigest())

    def search(queries: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = index.search(queries, K)[1]
        return found

    share, queries = measure(source, is_distance(source), search)
    figures = {
        "kind": _kind(source),
        "metric": "l2" if is_distance(source) else "cosine" if has_units else "inner_product",
        f"recall@{K}": round(share, 4),
        "queries": queries,
    }
    return FormatExport(
        table=source.table, rows=source.size, files=[entry, write_ids(source, "faiss")], figures=figures
    )


def is_distance(source: Source) -> bool:
    """Whether near vectors score high, rather than those with a high inner product."""
    config = source.run.config
    return config.model.comparator in ("l2", "squared_l2") and not config.export.normalize


def _options(source: Source) -> Faiss:
    return source.run.config.export.faiss or Faiss()


def _kind(source: Source) -> IndexKind:
    options = _options(source)
    return options.tables.get(source.name, options.kind)


def _lists(source: Source) -> int:
    stated = (_options(source).ivf_pq or IvfPq()).lists
    return stated or max(1, min(4 * math.isqrt(source.size), source.size // 39))


def _empty(faiss: Any, source: Source) -> Any:
    """An index without vectors, trained if its kind needs it."""
    dim, kind, options = source.dim, _kind(source), _options(source)
    metric = faiss.METRIC_L2 if is_distance(source) else faiss.METRIC_INNER_PRODUCT
    if kind == "ivf_pq":
        return _trained_lists(faiss, source, options.ivf_pq or IvfPq(), metric)
    if kind == "hnsw":
        hnsw = options.hnsw or Hnsw()
        index = faiss.IndexHNSWFlat(dim, hnsw.links, metric)
        index.hnsw.efConstruction, index.hnsw.efSearch = hnsw.ef_construction, hnsw.ef_search
    else:
        index = faiss.IndexFlat(dim, metric)
    return index if source.index is None else faiss.IndexIDMap2(index)


def _trained_lists(faiss: Any, source: Source, options: IvfPq, metric: int) -> Any:
    dim, lists = source.dim, _lists(source)
    index = faiss.IndexIVFPQ(faiss.IndexFlat(dim, metric), dim, lists, options.subspaces or dim // 4, 8, metric)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # few rows are no reason to warn
    index.train(source.rows.gather(source.sample(max(TRAINED_ON, TRAINED_ON_A_LIST * lists))).numpy())
    index.nprobe = options.probes
    return index
