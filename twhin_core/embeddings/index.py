"""The neighbors of a node according to an exported faiss index, as a retrieval system would find them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twhin_core import storage
from twhin_core.embeddings.result import Result
from twhin_core.embeddings.search import Query
from twhin_core.errors import UserError, one_line
from twhin_core.export import faiss_library
from twhin_core.export.manifest import ExportManifest, FormatExport, PriorOf
from twhin_core.model.scorer import Scorer
from twhin_core.parquet import FileEntry
from twhin_core.vectors.names import name_rows, open_ids

if TYPE_CHECKING:
    from torch import Tensor

READ_BYTES = 16 << 20


@dataclass(frozen=True)
class Index:
    """The exported index of a query's candidates."""

    url: str
    file: FileEntry
    kind: str
    """`flat`, `hnsw` or `ivf_pq`."""
    recall: float
    """recall@10, measured at export."""
    measure: str
    """What the index ranks by, in words."""
    is_model_score: bool
    """Whether that is the model's score."""
    normalized: bool
    """Whether the indexed vectors have length 1, but for the prior."""
    prior_coordinate: float | None
    """The last coordinate of queries: 1 adds the prior of this query's candidates, 0 leaves out another; None if there
    is none."""


def open_index(result: Result, query: Query) -> Index:
    """Finds the index without reading it.

    Raises:
        UserError: no index of the candidates was exported.
    """
    manifest, table = result.manifest, query.candidates
    if manifest is None:
        raise UserError(f"{result.root}: nothing has been exported, so there is no index; run `twhin export`")
    entry = manifest.formats.get("faiss", {}).get(table)
    if entry is None:
        raise UserError(f"{result.root}: no index of table {table} was exported; add faiss to export.formats")
    (file,) = (file for file in entry.files if file.path.endswith(".index"))
    normalized = entry.figures["metric"] == "cosine"
    is_model_score = query.rel is not None and normalized == (manifest.comparator == "cos")
    adds_prior = False
    if query.rel is not None and result.config.model.has_prior(query.side):
        adds_prior = entry.prior == PriorOf(relation=result.schema.names[query.rel], side=query.side)
        is_model_score = is_model_score and adds_prior
    return Index(
        storage.join(result.root, file.path),
        file,
        entry.figures["kind"],
        entry.figures["recall@10"],
        f"the model's score ({manifest.comparator})" if is_model_score else _measure(manifest, entry),
        is_model_score,
        normalized,
        None if entry.prior is None else float(adds_prior),
    )


def _measure(manifest: ExportManifest, entry: FormatExport) -> str:
    if entry.figures["metric"] == "l2":
        return "distance, negated" if manifest.comparator == "l2" else "squared distance, negated"
    return str(entry.figures["metric"]).replace("_", " ")


def search(result: Result, query: Query, position: int, name: str, k: int) -> list[tuple[str, float]]:
    """Ids and scores, best first, without the node `name` itself, which is at `position` in its table.

    An approximate index may miss candidates and return fewer than k.

    Raises:
        UserError: no index of the candidates was exported, it is corrupt, or it cannot answer for this side.
    """
    import torch

    entry = open_index(result, query)
    given, offset = result.scored.rows(query.table).gather(np.array([position])), 0.0
    if query.rel is not None:
        with torch.no_grad():
            given, offset = _project(result.scored.scorer(), query, given)
    if entry.normalized:
        given = torch.nn.functional.normalize(given)
    if entry.prior_coordinate is not None:
        given = torch.cat([given, torch.full((1, 1), entry.prior_coordinate)], 1)
    entry.file.check(result.root)  # faiss does not: a wrong link in an index ends the process
    index = _read(entry.url)
    values, rows = (found[0] for found in index.search(given.numpy(), k + 1))
    values, rows = values[rows >= 0], rows[rows >= 0]
    ids = open_ids(result.config, result.root, query.candidates, result.schema.tables[query.candidates])
    names = name_rows(ids, query.candidates, rows)
    scores = _scores(index, values, result.config.model.comparator) + (offset if entry.is_model_score else 0)
    is_own_table = query.candidates == query.table
    found = zip(names, scores.tolist(), strict=True)
    return [(other, score) for other, score in found if not (is_own_table and other == name)][:k]


def _project(scorer: Scorer, query: Query, given: Tensor) -> tuple[Tensor, float]:
    """The query vector [1, dim], and a constant to add to each of its inner products to get a score."""
    import torch

    rel = torch.tensor([query.rel])
    if query.side == "rhs":
        return scorer.operator(rel, given), 0.0
    if scorer.inverse is not None:
        return scorer.inverse(rel, given), 0.0
    if not scorer.comparator.commutes_with_operators:
        raise UserError(
            "an index cannot answer for this relation's lhs, because the operator applies to the indexed vectors; ask "
            "without --index, or train with model.reciprocal"
        )
    bias = scorer.operator.bias(rel, given)
    return scorer.operator.adjoint(rel, given), 0.0 if bias is None else float(bias)


def _scores(index: Any, values: npt.NDArray[np.float32], comparator: str) -> npt.NDArray[np.float32]:
    """Scores from faiss's values; its distances are squared and not negated."""
    if index.metric_type != faiss_library.load().METRIC_L2:
        return values
    return -np.sqrt(values.clip(min=0)) if comparator == "l2" else -values


def _read(url: str) -> Any:
    faiss = faiss_library.load()
    try:
        if not storage.is_remote(url):
            return faiss.read_index(storage.filesystem(url)[1], faiss.IO_FLAG_MMAP_IFC)  # reads only what is searched
        with storage.open_read(url) as file:
            return faiss.read_index(faiss.PyCallbackIOReader(file.read, READ_BYTES))
    except RuntimeError as error:
        raise UserError(f"{url}: truncated, or not a faiss index: {one_line(error)}") from None
