"""The keys of `training` that name an earlier version of the model: where to start from, and what to stay near."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, create_model

from twhin_core.config.numbers import Location, Scale
from twhin_core.config.section import Section

PREVIOUS = "previous"
"""Stands for the run root that `prepare.previous` names."""

_FROM: dict[str, Any] = {
    "from": (
        Location,
        Field(
            description="Run root of the earlier version, a series for its published version, or `previous` for the "
            "version that `prepare.previous` names. Its newest checkpoint is used, and the same one whenever this run "
            "starts again."
        ),
    )
}
"""A keyword of Python, which cannot be written as an attribute."""

_From = create_model("_From", __base__=Section, **_FROM)


class WarmStart(_From):
    """Starts from the vectors of an earlier version. Rows are matched by table and original id, relations by name."""

    optimizer_state: bool = Field(
        True,
        description="Take the optimizers' state along, row by row. Without it, the first steps are as large as a new "
        "model's.",
    )
    new_nodes: Literal["neighbors", "random"] = Field(
        "neighbors",
        description="Vectors of nodes that the earlier version does not know or had no training edge of. `neighbors`: "
        "the weighted mean of what their training edges to trained nodes predict; `random`, and without such an edge: "
        "the usual initial weights, or the vector of the earlier version.",
    )

    @property
    def source(self) -> str:
        """The value of `from`."""
        source: str = getattr(self, "from")
        return source


class Anchor(Section):
    """Holds nodes near their vectors of an earlier version: adds weight · |θ - θ_earlier|² to the loss of all edges."""

    to: Location = Field(
        description="Run root of the earlier version, a series or `previous`, as in `warm_start.from`; always the "
        "same checkpoint."
    )
    weight: Scale = Field(
        description="How strongly, per node. 1 weighs as much as an edge whose loss is the squared distance."
    )
    by_degree: bool = Field(
        True,
        description="Multiply the weight of each node by its training degree in the earlier graph, so that it counts "
        "as much against today's edges as the edges did that it was learned from.",
    )
