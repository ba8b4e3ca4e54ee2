"""`evaluation/ranks.parquet`: the rank of every held-out answer, for comparisons with other runs and for your own.

Its rows are the distinct held-out edges as answers to queries for their lhs and then for their rhs, sorted by relation,
node and answer (see `HeldOut`). Its metadata say which metrics it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twhin_core import storage
from twhin_core.config import Relation
from twhin_core.evaluation.metrics import MODEL, Metrics, Ranking, split_of
from twhin_core.evaluation.result import folder, place
from twhin_core.evaluation.task import RankingResult
from twhin_core.parquet import ROWS_PER_GROUP, open_parquet, write_part
from twhin_core.ranking.queries import Floats, HeldOut, Ints, Split
from twhin_core.ranking.ranks import AnswerRanks
from twhin_core.schema import SIDES, Side

FILE = "ranks.parquet"
SCHEMA = pa.schema(
    [
        ("side", pa.string()),  # that the query asks for
        ("relation", pa.string()),
        ("node", pa.int64()),  # the row of the query's node in its table
        ("answer", pa.int64()),  # the row of the answer in its table
        ("edges", pa.int64()),  # how often the edge occurs in the split
        ("negatives", pa.int64()),  # nodes that the answer was ranked among, besides itself
        ("rank", pa.float64()),  # filtered; a tie counts half
        ("list_rank", pa.float64()),  # for recall and ndcg; null if the answer is not in that list
    ]
)


@dataclass(frozen=True)
class KeptRanks:
    """The file's columns: [n], with both sides one after the other."""

    relations: list[str]
    """By number."""
    side: npt.NDArray[np.bool_]
    """Whether the query asks for the rhs."""
    rel: Ints
    node: Ints
    answer: Ints
    edges: Ints
    negatives: Ints
    rank: Floats
    list_rank: Floats
    """nan for null."""

    def __len__(self) -> int:
        return len(self.rel)

    def take(self, order: Ints) -> KeptRanks:
        return KeptRanks(
            self.relations, self.side[order], self.rel[order], self.node[order], self.answer[order], self.edges[order],
            self.negatives[order], self.rank[order], self.list_rank[order],
        )  # fmt: skip

    def ranking(self) -> Ranking:
        """The ranking that was written. The rows must be in the order of the file."""
        held: dict[Side, HeldOut] = {}
        results: dict[Side, RankingResult] = {}
        ranks: dict[Side, AnswerRanks] = {}
        for side in SIDES:
            of = self.take(np.flatnonzero(self.side == (side == "rhs")))
            is_first = (np.diff(np.stack([of.rel, of.node]), axis=1, prepend=-1) != 0).any(0)
            query = is_first.cumsum() - 1
            held[side] = HeldOut(side, of.rel, of.node, of.answer, of.edges, query, np.flatnonzero(is_first))
            ranks[side] = AnswerRanks(of.rank, of.list_rank)
            removed = np.isnan(of.list_rank)
            results[side] = RankingResult(of.negatives, np.zeros_like(of.rel), removed, {MODEL: ranks[side]})
        return Ranking(held, results, ranks)


def write_ranks(root: str, metrics: Metrics, ranking: Ranking, relations: Sequence[str]) -> None:
    """Writes the ranks that `metrics` are made of, before those are published."""
    path = f"{folder(split_of(metrics)[0])}/{FILE}"
    write_part(_batches(ranking, relations), SCHEMA.with_metadata(_identity(metrics)), root, path)


def read_ranks(root: str, metrics: Metrics) -> KeptRanks | None:
    """The ranks that `metrics` are made of; None if the file is missing or belongs to other metrics.

    Raises:
        UserError: it is not a complete file.
    """
    if not has_ranks(root, metrics):
        return None
    with open_parquet(ranks_url(root, split_of(metrics)[0])) as file:
        table = file.read()
    relation = table["relation"].combine_chunks().dictionary_encode()
    rel = relation.indices.to_numpy().astype(np.int64)
    numbers = [table[name].to_numpy() for name in ("node", "answer", "edges", "negatives", "rank", "list_rank")]
    return KeptRanks(relation.dictionary.to_pylist(), pc.equal(table["side"], "rhs").to_numpy(), rel, *numbers)


def has_ranks(root: str, metrics: Metrics) -> bool:
    """Whether the ranks that `metrics` are made of are under the root. Raises UserError if the file is broken."""
    url = ranks_url(root, split_of(metrics)[0])
    if not storage.exists(url):
        return False
    with open_parquet(url) as file:
        found = file.schema_arrow.metadata or {}
    return all(found.get(key) == value for key, value in _identity(metrics).items())


def ranks_url(root: str, split: Split) -> str:
    return place(root, split, FILE)


def _identity(metrics: Metrics) -> dict[bytes, bytes]:
    return {name: str(metrics[name.decode()]).encode() for name in (b"checkpoint", b"config")}


def _batches(ranking: Ranking, relations: Sequence[str]) -> Iterator[pa.RecordBatch]:
    names = pa.array(relations, pa.string())
    for side in SIDES:
        held, negatives, ranks = ranking.held[side], ranking.results[side].negatives, ranking.ranks[side]
        for start in range(0, len(held), ROWS_PER_GROUP):
            part = slice(start, start + ROWS_PER_GROUP)
            rel = held.rel[part]
            columns = [
                pa.array([side]).take(pa.array(np.zeros(len(rel), np.int64))),
                names.take(pa.array(rel)),
                *(pa.array(column[part]) for column in (held.node, held.answer, held.edges, negatives, ranks.rank)),
                pa.array(ranks.list_rank[part], from_pandas=True),  # nan is null
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def copy_ranks(source: str, target: str, split: Split, relations: Sequence[Relation], gone: Mapping[str, Ints]) -> None:
    """Copies the file to another run root, without the answers of the queries that have a node in `gone`, if it exists.

    `gone`: by table, rows.
    """
    url = ranks_url(source, split)
    if not storage.exists(url):
        return
    tables = {relation.name: (relation.lhs, relation.rhs) for relation in relations}

    def left(batch: pa.RecordBatch) -> pa.RecordBatch:
        relation, is_rhs = batch["relation"].dictionary_encode(), pc.equal(batch["side"], "rhs").to_numpy(False)
        ends = np.array([tables[name] for name in relation.dictionary.to_pylist()], object).reshape(-1, 2)
        lhs, rhs = ends[relation.indices.to_numpy()].T
        stays = np.ones(len(batch), bool)
        for column, of in (("node", np.where(is_rhs, lhs, rhs)), ("answer", np.where(is_rhs, rhs, lhs))):
            for table, rows in gone.items():
                stays &= ~((of == table) & np.isin(batch[column].to_numpy(), rows))
        return batch.filter(pa.array(stays))

    with open_parquet(url) as file:
        batches = (left(batch) for batch in file.iter_batches(ROWS_PER_GROUP))
        write_part(batches, file.schema_arrow, target, f"{folder(split)}/{FILE}")
