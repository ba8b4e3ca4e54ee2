"""The item-item baseline: candidates that were linked to by the same users as the user's own.

The score of a candidate is the sum, over the user's training answers, of the cosine of the two (Sarwar et al., 2001):
how many users link to both, over the root of the product of how many link to each. An answer counts for its
`NEIGHBORS` nearest candidates, as is usual. Of a user with more than `MOST_ANSWERS`, as many drawn at random tell what
goes together, so that the work is bounded by the edges.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from twhin_core import sizes
from twhin_core.data.files import EdgeFiles
from twhin_core.errors import UserError
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.queries import Floats, Ints, split_by
from twhin_core.recommend.finder import Found, found_by
from twhin_core.schema import Schema

Scores = npt.NDArray[np.float32]

ITEM_ITEM = "item-item"
NEIGHBORS = 100
MOST_ANSWERS = 1000
PRODUCTS_AT_ONCE = 1 << 22
"""Entries of a block of a sparse product, some 50 bytes each while they are sorted."""
BYTES_PER_EDGE = 40
BYTES_PER_NEIGHBOR = 8


class ItemItemFinder:
    """Reads the training edges of a relation once, and keeps them."""

    def __init__(
        self,
        train: EdgeFiles,
        schema: Schema,
        rel: int,
        candidates: CandidateSet,
        edges: int,
        k: int,
        seed: int,
        memory_limit: str,
    ) -> None:
        """
        Args:
            edges: of the relation.

        Raises:
            UserError: they and the neighbors of all answers need more than half of the memory.
        """
        users, items = (schema.rows[side][rel] for side in ("lhs", "rhs"))
        needed = BYTES_PER_EDGE * edges + BYTES_PER_NEIGHBOR * NEIGHBORS * items
        if needed > sizes.in_bytes(memory_limit) // 2:
            raise UserError(
                f"evaluation.memory_limit: too small for the item-item baseline of the {edges:,} edges of relation "
                f"{schema.names[rel]}; raise it, or leave item-item out of evaluation.lists.baselines"
            )
        self.candidates, self._k = candidates, k
        self._answers = _answers(train, rel, users, items)
        self._neighbors = _neighbors(_capped(self._answers, np.random.default_rng([seed, 6])), candidates)

    def find(self, rows: Ints, excluded: tuple[Ints, Ints], progress: Progress) -> Found:
        """As `Finder.find`. A list may be shorter than k: a candidate that nothing speaks for is in none."""
        of = self.candidates
        columns = np.full((len(rows), min(self._k, of.size)), NONE)
        scores = np.full(columns.shape, -np.inf, np.float32)
        left_out = excluded[0] * of.size + excluded[1]
        known = self._answers[rows]
        for block in _blocks(known @ np.diff(self._neighbors.indptr)):
            found = (known[block] @ self._neighbors).tocoo()
            user = found.row.astype(np.int64)
            kept = ~np.isin((user + block.start) * of.size + found.col, left_out)
            user, column, rank, score = _best(user[kept], found.col[kept], found.data[kept], self._k)
            columns[block.start + user, rank], scores[block.start + user, rank] = column, score
            progress.update((block.stop - block.start) * of.size)
        return found_by(ITEM_ITEM, of, columns, scores)


def _answers(train: EdgeFiles, rel: int, users: int, items: int) -> sp.csr_array:
    """float32 [users, items], 1 where there is an edge."""
    parts = [(np.empty(0, np.int32), np.empty(0, np.int32))]
    for edges in train.chunks():
        mine = edges.rel == rel
        parts.append((edges.lhs[mine].astype(np.int32), edges.rhs[mine].astype(np.int32)))
    user, item = (np.concatenate(of) for of in zip(*parts, strict=True))
    answers = sp.csr_array((np.ones(len(user), np.float32), (user, item)), (users, items))
    answers.sum_duplicates()
    answers.data[:] = 1
    return answers


def _capped(answers: sp.csr_array, generator: np.random.Generator) -> sp.csr_array:
    """At most `MOST_ANSWERS` of each user."""
    count = np.diff(answers.indptr)
    many = np.flatnonzero(count > MOST_ANSWERS)
    if not len(many):
        return answers
    capped = answers.copy()
    for user in many.tolist():
        of_user = capped.data[capped.indptr[user] : capped.indptr[user + 1]]
        of_user[generator.choice(len(of_user), len(of_user) - MOST_ANSWERS, replace=False)] = 0
    capped.eliminate_zeros()
    return capped


def _neighbors(answers: sp.csr_array, candidates: CandidateSet) -> sp.csr_array:
    """float32 [items, candidates], the cosines of the nearest candidates of each item, other than itself."""
    users_of = answers.T.tocsr()
    scale = 1 / np.sqrt(np.maximum(np.diff(users_of.indptr), 1)).astype(np.float32)
    drawn = np.arange(candidates.size) if candidates.drawn is None else candidates.drawn
    scaled = answers[:, drawn].multiply(scale[drawn]).tocsr()
    parts = [(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))]
    for block in _blocks(users_of @ np.diff(answers.indptr)):
        found = (users_of[block] @ scaled).tocoo()
        item = found.row.astype(np.int64)
        cosine, other = found.data * scale[block.start + item], drawn[found.col] != block.start + item
        item, column, _, cosine = _best(item[other], found.col[other], cosine[other], NEIGHBORS)
        parts.append(((block.start + item).astype(np.int32), column.astype(np.int32), cosine))
    item, column, cosine = (np.concatenate(of) for of in zip(*parts, strict=True))
    return sp.csr_array((cosine, (item, column)), (len(scale), candidates.size))


def _blocks(products: Ints | Floats) -> list[slice]:
    """Ranges of rows, each with about `PRODUCTS_AT_ONCE` products or one row. `products`: of each row."""
    return [
        slice(int(rows[0]), int(rows[-1]) + 1)
        for _, rows in split_by((np.cumsum(products, dtype=np.float64) // PRODUCTS_AT_ONCE).astype(np.int64))
    ]


def _best(row: Ints, column: Ints, score: Scores, k: int) -> tuple[Ints, Ints, Ints, Scores]:
    """(row, column, rank from 0, score) of the k best of each row; the smaller column first among equal scores.

    `score`: not negative.
    """
    # Positive floats are ordered as their bits are. Sorting one number is several times as fast as sorting by three.
    key = (row << 32) | score.view(np.int32)
    ordered = np.sort(key)
    last = np.searchsorted(ordered, np.arange(1, 2 + row.max(initial=-1)) << 32)
    least = ordered.take(np.maximum(last - k, np.append(0, last[:-1])), mode="clip")
    near = np.flatnonzero(key >= least[row])
    order = near[np.lexsort((column[near], -score[near], row[near]))]
    row, column, score = row[order], column[order], score[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < k
    return row[kept], column[kept], rank[kept], score[kept]
