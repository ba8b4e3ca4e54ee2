"""`embeddings/faiss/<table>.index`: an index for `faiss.read_index`, whose answers are rows of the table.

It ranks as the comparator does: by inner product for `dot`, by inner product of unit vectors for `cos`, by distance for
`l2` and `squared_l2`. A prior is one more coordinate of the vectors; that of a query is 1.

`flat` and `hnsw` hold all vectors in memory, when built and when searched; `ivf_pq` and `opq_ivf_pq` hold a few bytes
per vector.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from twhin_core import storage
from twhin_core.checksum import ChecksumWriter
from twhin_core.config.export import Faiss, Hnsw, IndexKind, IvfPq
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
    kind = _kind(vector_set)
    figures = {
        "kind": kind,
        **({"factory": _factory(vector_set)} if kind == "opq_ivf_pq" else {}),
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


def _kind(vector_set: VectorSet) -> IndexKind:
    return index_kind(vector_set.run.config.export, vector_set.name, vector_set.size)


def _empty(faiss: Any, vector_set: VectorSet) -> Any:
    """An empty index, trained if its kind requires it."""
    dim, kind, options = vector_set.dim, _kind(vector_set), _options(vector_set)
    metric = faiss.METRIC_L2 if is_distance(vector_set) else faiss.METRIC_INNER_PRODUCT
    if kind == "opq_ivf_pq":
        index = faiss.index_factory(dim, _factory(vector_set), metric)
    elif kind == "ivf_pq":
        index = ivf_pq(faiss, dim, _lists(vector_set), _subspaces(vector_set), metric)
    if kind in ("opq_ivf_pq", "ivf_pq"):
        lists = faiss.extract_index_ivf(index)
        train(faiss, index, vector_set.rows.gather(vector_set.sample(sample_size(lists.nlist))).numpy())
        lists.nprobe = (options.ivf_pq or IvfPq()).probes
        return index
    if kind == "hnsw":
        hnsw = options.hnsw or Hnsw()
        index = faiss.IndexHNSWFlat(dim, hnsw.links, metric)
        index.hnsw.efConstruction, index.hnsw.efSearch = hnsw.ef_construction, hnsw.ef_search
    else:
        index = faiss.IndexFlat(dim, metric)
    return index if vector_set.index is None else faiss.IndexIDMap2(index)


def _lists(vector_set: VectorSet) -> int:
    return index_lists(vector_set.run.config.export, vector_set.size)


def _subspaces(vector_set: VectorSet) -> int:
    return (_options(vector_set).ivf_pq or IvfPq()).subspaces or math.ceil(vector_set.dim / 4)


def _factory(vector_set: VectorSet) -> str:
    return factory(vector_set.dim, _lists(vector_set), _subspaces(vector_set))


def _width(dim: int, subspaces: int) -> int:
    """`dim` rounded up: the prior's coordinate does not divide into subspaces."""
    return math.ceil(dim / subspaces) * subspaces


def factory(dim: int, lists: int, subspaces: int) -> str:
    """The string that `faiss.index_factory` makes the index `opq_ivf_pq` from.

    A rotation that spreads what product quantization loses evenly; `lists` lists, found by a graph of their centroids;
    in them a byte for each subspace.
    """
    width = _width(dim, subspaces)
    pad = f"Pad{width}," if width > dim else ""
    return f"{pad}OPQ{subspaces}_{width},IVF{lists}_HNSW32,PQ{subspaces}"


def sample_size(lists: int) -> int:
    """How many vectors the centroids are learned from."""
    return max(TRAINED_ON, TRAINED_ON_PER_LIST * lists)


def ivf_pq(faiss: Any, dim: int, lists: int, subspaces: int, metric: int) -> Any:
    """The same without the rotation and the graph."""
    width = _width(dim, subspaces)
    index = faiss.IndexIVFPQ(faiss.IndexFlat(width, metric), width, lists, subspaces, 8, metric)
    if width > dim:
        index = faiss.IndexPreTransform(faiss.RemapDimensionsTransform(dim, width, False), index)  # pads with zeros
    return index


def train(faiss: Any, index: Any, vectors: npt.NDArray[np.float32]) -> None:
    """Learns an index's rotation, if it has one, its lists and codebooks. Does not warn about small tables."""
    lists = faiss.downcast_index(faiss.extract_index_ivf(index))
    lists.cp.min_points_per_centroid = lists.pq.cp.min_points_per_centroid = 1
    last = index.chain.at(index.chain.size() - 1) if isinstance(index, faiss.IndexPreTransform) else None
    rotation = None if last is None else faiss.downcast_VectorTransform(last)
    if isinstance(rotation, faiss.OPQMatrix):
        quantizer = faiss.ProductQuantizer(rotation.d_out, rotation.M, 8)
        quantizer.cp.min_points_per_centroid = 1
        rotation.pq = quantizer
        index.train(vectors)
        rotation.pq = None  # the index must not outlive it
    else:
        index.train(vectors)
