"""The quality of both systems' vectors, by one measure."""

from __future__ import annotations

import csv
import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

CANDIDATES = 1000
EDGES_AT_ONCE = 100


@dataclass(frozen=True)
class Vectors:
    """Vectors whose score for an edge is ⟨lhs + shift, rhs⟩."""

    ids: pa.Array
    table: Tensor
    """[N, dim], in the order of `ids`."""
    shift: Tensor
    peak_mib: int
    """The peak memory of the process that learned them."""

    def rows(self, names: pa.Array) -> Tensor:
        """The rows of these users, int64; -1 for unknown ones."""
        found = pc.index_in(names, value_set=self.ids.cast(names.type)).fill_null(-1)
        return torch.from_numpy(found.to_numpy().astype(np.int64))


def mean_reciprocal_rank(vectors: Vectors, folder: Path, nodes: int) -> float:
    """The mean over test.tsv's edges and their sides of 1 / rank among 1,000 random users; ties count half.

    Edges with an unknown user are left out, unknown candidates too; both systems know the same ones.
    """
    with open(folder / "test.tsv", newline="") as file:
        lhs, rhs = (vectors.rows(pa.array(end)) for end in zip(*csv.reader(file, delimiter="\t"), strict=True))
    drawn = np.random.default_rng(1).integers(nodes, size=CANDIDATES * len(lhs))
    names = pc.binary_join_element_wise("u", pa.array(drawn).cast("string"), "")
    others = vectors.rows(names).view(len(lhs), CANDIDATES)
    known = (lhs >= 0) & (rhs >= 0)
    lhs, rhs, others, table, found = lhs[known], rhs[known], others[known], vectors.table, []
    for node, answer, shift in ((lhs, rhs, vectors.shift), (rhs, lhs, None)):
        for part in torch.arange(len(lhs)).split(EDGES_AT_ONCE):
            # ⟨lhs + shift, rhs⟩: the shift belongs to whichever of the two is lhs.
            query = table[node[part]] + (0 if shift is None else shift)
            own = (query * (table[answer[part]] + (vectors.shift if shift is None else 0))).sum(1, keepdim=True)
            other = others[part]
            candidates = table[other.clamp(min=0)] + (vectors.shift if shift is None else 0)
            scores = torch.einsum("ed,ecd->ec", query, candidates)
            scores[(other < 0) | (other == answer[part, None])] = -torch.inf
            found.append(1 / (1 + (scores > own).sum(1) + 0.5 * (scores == own).sum(1)))
    return float(torch.cat(found).mean())


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
