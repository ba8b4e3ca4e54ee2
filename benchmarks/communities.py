"""Edges between communities of nodes, for generated graphs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def lead_within(
    ends: Ints,
    is_within: npt.NDArray[np.bool_],
    goal: Ints,
    community: Ints,
    popularity: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Draws anew, in place, the ends of the edges that are to lead to a given community, by popularity in it.

    Args:
        ends: [edges] the node that each edge leads to.
        is_within: [edges] which of these are drawn.
        goal: [edges] the community that each leads to.
        community: [nodes] of each node, numbered from 0.
        popularity: [nodes]
    """
    for number in range(community.max() + 1):
        mine, nodes = np.flatnonzero(is_within & (goal == number)), np.flatnonzero(community == number)
        ends[mine] = rng.choice(nodes, len(mine), p=popularity[nodes] / popularity[nodes].sum())
