"""The section `recommend`: lists of the best candidates of relations, for every node or some."""

from __future__ import annotations

from pydantic import Field, model_validator

from twhin_core.config.numbers import Count, CountOrNone, Few, Location
from twhin_core.config.section import Section


class Recommend(Section):
    """The best nodes of a relation's rhs table for each node of its lhs table, the users."""

    k: Few = Field(100, le=10_000, description="Candidates per user.")
    users: Location | None = Field(
        None,
        description="A file with the ids of the users: Parquet, CSV or TSV with a column `id`, or text with an id per "
        "line. Default: all nodes.",
    )
    candidates: Location | None = Field(
        None, description="A file with the ids of the candidates, like `users`. Default: all nodes."
    )
    min_degree: CountOrNone = Field(0, description="Candidates need at least this many training edges of the relation.")
    exclude: list[str] | None = Field(
        None,
        description="Relations whose known edges, of all splits, are left out of a user's list: `[fav, mute]`. They "
        "lead between the same two tables, in either direction. Default: the relation itself.",
    )
    exclude_edges: Location | None = Field(
        None, description="Parquet files, a path or pattern, of more pairs to leave out: columns lhs and rhs, with ids."
    )
    users_per_file: Count = Field(65_536, le=10_000_000, description="Users per file, and in memory at once.")

    @model_validator(mode="after")
    def _check_exclude(self) -> Recommend:
        if self.exclude is not None and len(set(self.exclude)) < len(self.exclude):
            raise ValueError(f"exclude: each may be listed once; got {', '.join(self.exclude)}")
        return self
