"""The quality of both systems' vectors, by one measure."""

from __future__ import annotations

import csv
import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

DIM = 64
CANDIDATES = 1000
EDGES_AT_ONCE = 100


@dataclass(frozen=True)
class Vectors:
    """Vectors whose score for an edge is ⟨lhs + shift, rhs⟩ or, if `shifts_rhs`, ⟨lhs, rhs + shift⟩."""

    ids: pa.Array
    table: Tensor
    """[N, dim], in the order of `ids`."""
    shift: Tensor
    peak_mib: int
    """The peak memory of the process that learned them."""
    shifts_rhs: bool = False

    def at(self, rows: Tensor, is_rhs: bool) -> Tensor:
        """The vectors of these rows at an end of an edge."""
        found = self.table[rows]
        return found + self.shift if is_rhs == self.shifts_rhs else found

    def rows(self, ids: pa.Array) -> Tensor:
        """The rows of these users, int64; -1 for unknown ones."""
        found = pc.index_in(ids, value_set=self.ids.cast(ids.type)).fill_null(-1)
        return torch.from_numpy(found.to_numpy().astype(np.int64))


def names(users: npt.NDArray[np.int64]) -> pa.Array:
    """The ids of users by their numbers."""
    return pc.binary_join_element_wise("u", pa.array(users).cast("string"), "")


def mean_reciprocal_rank(vectors: Vectors, folder: Path, nodes: int) -> float:
    """The mean over test.tsv's edges and their sides of 1 / rank among 1,000 random users; ties count half.

    Edges with an unknown user are left out, unknown candidates too; both systems know the same ones.
    """
    with open(folder / "test.tsv", newline="") as file:
        lhs, rhs = (vectors.rows(pa.array(end)) for end in zip(*csv.reader(file, delimiter="\t"), strict=True))
    drawn = np.random.default_rng(1).integers(nodes, size=CANDIDATES * len(lhs))
    others = vectors.rows(names(drawn)).view(len(lhs), CANDIDATES)
    known, found = (lhs >= 0) & (rhs >= 0), []
    lhs, rhs, others = lhs[known], rhs[known], others[known]
    for nodes_of, answers, asks_rhs in ((lhs, rhs, True), (rhs, lhs, False)):
        for node, answer, other in zip(*(of.split(EDGES_AT_ONCE) for of in (nodes_of, answers, others)), strict=True):
            query = vectors.at(node, not asks_rhs)
            own = (query * vectors.at(answer, asks_rhs)).sum(1, keepdim=True)
            scores = torch.einsum("ed,ecd->ec", query, vectors.at(other.clamp(min=0), asks_rhs))
            scores[(other < 0) | (other == answer[:, None])] = -torch.inf
            found.append(1 / (1 + (scores > own).sum(1) + 0.5 * (scores == own).sum(1)))
    return float(torch.cat(found).mean())


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
