"""The section `prepare.derive`: relations whose edges `prepare` makes from those of another."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from twhin_core.config.numbers import Count, Few, Name
from twhin_core.config.section import Section


class Derive(Section):
    """Leads from each node on one side of a relation to the most similar ones there, by the neighbors that they share
    in its training edges. Needs an entry of its own in `model.relations`, with both ends in the table of that side.
    """

    relation: Name = Field(description="The relation whose training edges it is derived from.")
    side: Literal["lhs", "rhs"] = Field(
        description="The side whose nodes it connects: `rhs` connects those that share nodes on the lhs, and `lhs` "
        "those that share nodes on the rhs."
    )
    top: Few = Field(5, description="Most similar nodes per node, each of which gets an edge.")
    weight: Literal["one", "log_degree"] = Field(
        "log_degree",
        description="What a shared neighbor counts: 1, or 1 / ln(1 + its degree in the relation), so that neighbors "
        "of many nodes count little.",
    )
    normalize: Literal["cosine", "none"] = Field(
        "cosine",
        description="`cosine` divides the sum over the shared neighbors by the square root of both nodes' degrees in "
        "the relation.",
    )
    min_shared: Count = Field(1, description="Minimum number of shared neighbors.")
    max_degree: Few = Field(
        100,
        ge=2,
        description="Of a neighbor with more edges than this, that many are drawn by hash and the others ignored. "
        "Bounds the pairs that are compared to (edges of the relation) · `max_degree`.",
    )
