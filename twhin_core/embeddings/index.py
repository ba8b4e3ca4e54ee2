"""The neighbors of a node according to an exported faiss index, as a retrieval system would find them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twhin_core import storage
from twhin_core.embeddings.result import Result
from twhin_core.embeddings.search import Query, has_prior_factor, prior_factor, score_words
from twhin_core.errors import UserError, one_line
from twhin_core.export import faiss_library
from twhin_core.export.manifest import ExportManifest, FormatExport, PriorOf
from twhin_core.model.scorer import Scorer
from twhin_core.parquet import FileEntry
from twhin_core.vectors.ids import Ints
from twhin_core.vectors.names import name_rows, open_ids

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]
READ_BYTES = 16 << 20


@dataclass(frozen=True)
class Index:
    """The exported index of a query's candidates."""

    url: str
    file: FileEntry
    kind: str
    """`flat`, `hnsw`, `ivf_pq` or `opq_ivf_pq`."""
    recall: float
    """recall@10, measured at export."""
    measure: str
    """What the index ranks by, in words."""
    is_model_score: bool
    """Whether that is the model's score."""
    is_distance: bool
    """Whether it finds the nearest, and not those with the largest products."""
    normalized: bool
    """Whether the indexed vectors have length 1, but for the prior."""
    prior_coordinate: float | None
    """The last coordinate of queries: the factor of the prior of this query's candidates, or 0, which leaves out
    another; None if there is none."""

    @property
    def words(self) -> str:
        """What the index ranks by, and what it is."""
        return f"{self.measure}, through the {self.kind} index (recall@10 {self.recall:.3g})"


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
    coordinate = None if entry.prior is None else _prior_coordinate(result, query, entry.prior)
    if query.rel is not None and query.prior != 0 and result.config.model.has_prior(query.side):
        is_model_score = is_model_score and bool(coordinate)
    return Index(
        storage.join(result.root, file.path),
        file,
        entry.figures["kind"],
        entry.figures["recall@10"],
        score_words(manifest.comparator, query) if is_model_score else _measure(manifest, entry),
        is_model_score,
        entry.figures["metric"] == "l2",
        normalized,
        coordinate,
    )


def _prior_coordinate(result: Result, query: Query, prior: PriorOf) -> float:
    """0 unless it is the prior of the query's candidates, and can have the query's weight."""
    is_own = query.rel is not None and prior.is_of(result.schema.names[query.rel], query.side)
    return prior_factor(query, prior.weight) if is_own and has_prior_factor(query, prior.weight) else 0.0


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
    entry = open_index(result, query)
    index = read_index(result, entry)
    given = result.scored.rows(query.table).gather(np.array([position]))
    scores, rows = (found[0] for found in search_index(index, entry, result, query, given, k + 1))
    scores, rows = scores[rows >= 0], rows[rows >= 0]
    ids = open_ids(result.config, result.root, query.candidates, result.schema.tables[query.candidates])
    names = name_rows(ids, query.candidates, rows)
    is_own_table = query.candidates == query.table
    found = zip(names, scores.tolist(), strict=True)
    return [(other, score) for other, score in found if not (is_own_table and other == name)][:k]


def read_index(result: Result, entry: Index) -> Any:
    """The faiss index, mapped where it is a local file. Raises UserError if it is corrupt."""
    entry.file.check(result.root)  # faiss does not: a wrong link in an index ends the process
    return _read(entry.url)


def search_index(
    index: Any, entry: Index, result: Result, query: Query, given: Tensor, k: int, scorer: Scorer | None = None
) -> tuple[Floats, Ints]:
    """Scores float32 [Q, k] and rows int64 [Q, k] for the vectors `given` [Q, dim], best first, -1 where there is none.

    Args:
        index: as `read_index` returns it.
        scorer: of the run. Default: it is read.

    Raises:
        UserError: it cannot answer for this side, or with the prior that is asked for.
    """
    import torch

    if not entry.is_model_score and query.prior not in (None, 0, result.manifest and result.manifest.prior):
        raise UserError(
            f"prior: the index of {query.candidates} ranks by {entry.measure}, without the prior of this relation and "
            "side; leave out one of them"
        )
    offset: Tensor | None = None
    if query.rel is not None:
        with torch.no_grad():
            given, offset = _project(scorer or result.scored.scorer(), query, given)
    if entry.normalized:
        given = torch.nn.functional.normalize(given)
    if entry.prior_coordinate is not None:
        given = torch.cat([given, torch.full((len(given), 1), entry.prior_coordinate)], 1)
    values, rows = index.search(given.numpy(), k)
    scores = _scores(entry, values, result.config.model.comparator)
    return scores if offset is None or not entry.is_model_score else scores + offset[:, None].numpy(), rows


def _project(scorer: Scorer, query: Query, given: Tensor) -> tuple[Tensor, Tensor | None]:
    """The query vectors [Q, dim], and constants [Q] to add to each of their inner products to get scores."""
    import torch

    assert query.rel is not None
    rel = torch.full((len(given),), query.rel)
    if query.side == "rhs":
        return scorer.operator(rel, given), None
    if scorer.inverse is not None:
        return scorer.inverse(rel, given), None
    if not scorer.shares_candidates(query.side):
        raise UserError(
            "an index cannot answer for this relation's lhs, because the operator applies to the indexed vectors; ask "
            "without --index, or train with model.reciprocal"
        )
    return scorer.operator.adjoint(rel, given), scorer.operator.bias(rel, given)


def _scores(entry: Index, values: Floats, comparator: str) -> Floats:
    """Scores from faiss's values; its distances are squared and not negated."""
    if not entry.is_distance:
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
