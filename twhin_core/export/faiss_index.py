"""`embeddings/faiss/<table>.index`: an index for `faiss.read_index`, whose answers are rows of the table.

It ranks as the comparator does: by inner product for `dot`, by inner product of unit vectors for `cos`, by distance for
`l2` and `squared_l2`. A prior is one more coordinate of the vectors; that of a query is 1.

`flat` and `hnsw` hold all vectors in memory, when built and when searched; `ivf_pq` holds a few bytes per vector.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from twhin_core import storage
from twhin_core.checksum import ChecksumWriter
from twhin_core.config.export import Faiss, Hnsw, IvfPq
from twhin_core.export import faiss_library
from twhin_core.export.fits import index_kind, index_lists
from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.npy import write_ids
from twhin_core.export.prior import extended
from twhin_core.export.recall import K, measure
from twhin_core.export.vector_set import VectorSet, normalized
from twhin_core.parquet import FileEntry
from twhin_core.progress import Progress

TRAINED_ON, TRAINED_ON_PER_LIST = 65_536, 64
"""Sample size for learning the centroids: the larger of the first, and the second for each list."""


def write(vector_set: VectorSet, progress: Progress) -> FormatExport:
    faiss = faiss_library.load()
    config = vector_set.run.config
    has_units = config.model.comparator == "cos" or config.export.normalize
    if has_units and not config.export.normalize:
        vector_set = normalized(vector_set)
    vector_set, prior = extended(vector_set)
    index = _empty(faiss, vector_set)
    for block in vector_set.blocks(progress):
        if vector_set.index is None:
            index.add(block.vectors.numpy())
        else:
            index.add_with_ids(block.vectors.numpy(), block.index.to_numpy())
    path = f"{FOLDER}/faiss/{vector_set.name}.index"
    with storage.open_write(storage.join(vector_set.run.root, path)) as file:
        checksum = ChecksumWriter(file)
        faiss.write_index(index, faiss.PyCallbackIOWriter(checksum.write))
        entry = FileEntry(path=path, rows=vector_set.size, **checksum.checksums())

    def search(queries: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = index.search(queries, K)[1]
        return found

    share, queries = measure(vector_set, is_distance(vector_set), search, has_prior=prior is not None)
    figures = {
        "kind": index_kind(vector_set.run.config.export, vector_set.name),
        "metric": "l2" if is_distance(vector_set) else "cosine" if has_units else "inner_product",
        f"recall@{K}": round(share, 4),
        "queries": queries,
    }
    return FormatExport(
        table=vector_set.table,
        rows=vector_set.size,
        files=[entry, write_ids(vector_set, "faiss")],
        prior=prior,
        figures=figures,
    )


def is_distance(vector_set: VectorSet) -> bool:
    """Whether the index ranks by distance and not by inner product."""
    config = vector_set.run.config
    return config.model.comparator in ("l2", "squared_l2") and not config.export.normalize


def _options(vector_set: VectorSet) -> Faiss:
    return vector_set.run.config.export.faiss or Faiss()


def _empty(faiss: Any, vector_set: VectorSet) -> Any:
    """An empty index, trained if its kind requires it."""
    dim, kind, options = vector_set.dim, index_kind(vector_set.run.config.export, vector_set.name), _options(vector_set)
    metric = faiss.METRIC_L2 if is_distance(vector_set) else faiss.METRIC_INNER_PRODUCT
    if kind == "ivf_pq":
        return _trained_ivf_pq(faiss, vector_set, options.ivf_pq or IvfPq(), metric)
    if kind == "hnsw":
        hnsw = options.hnsw or Hnsw()
        index = faiss.IndexHNSWFlat(dim, hnsw.links, metric)
        index.hnsw.efConstruction, index.hnsw.efSearch = hnsw.ef_construction, hnsw.ef_search
    else:
        index = faiss.IndexFlat(dim, metric)
    return index if vector_set.index is None else faiss.IndexIDMap2(index)


def _trained_ivf_pq(faiss: Any, vector_set: VectorSet, options: IvfPq, metric: int) -> Any:
    dim, lists = vector_set.dim, index_lists(vector_set.run.config.export, vector_set.size)
    subspaces = options.subspaces or math.ceil(dim / 4)
    width = math.ceil(dim / subspaces) * subspaces  # the prior's coordinate does not divide into subspaces
    index = ivf_pq = faiss.IndexIVFPQ(faiss.IndexFlat(width, metric), width, lists, subspaces, 8, metric)
    if width > dim:
        index = faiss.IndexPreTransform(faiss.RemapDimensionsTransform(dim, width, False), ivf_pq)  # pads with zeros
    ivf_pq.cp.min_points_per_centroid = ivf_pq.pq.cp.min_points_per_centroid = 1  # do not warn about small tables
    index.train(vector_set.rows.gather(vector_set.sample(max(TRAINED_ON, TRAINED_ON_PER_LIST * lists))).numpy())
    ivf_pq.nprobe = options.probes
    return index
