"""The section `recommend`: lists of the best candidates of relations, for every node or some."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from twhin_core import conditions, plugins
from twhin_core.config.numbers import Count, CountOrNone, Duration, Few, Location, Name, PriorWeight
from twhin_core.config.section import Section
from twhin_core.config.sources import NodeSource


def _parsed(where: str) -> str:
    conditions.parse(where)
    return where


class Catalog(Section):
    """Files with a row per candidate, of which some are chosen by other columns."""

    path: Location = Field(
        description="As the `path` of a source: Parquet, CSV or TSV. Without the other keys, text with an id per line "
        "will do, as for `users`."
    )
    id: Name = Field("id", description="Column of the node's id.")
    where: Annotated[str, AfterValidator(_parsed)] | None = Field(
        None, description="Keep only rows for which this is true, as the `where` of a source: `in_stock = true`."
    )
    timestamp: Name | None = Field(
        None, description="Column of the candidate's time, as the `timestamp` of a source. Needs `max_age`."
    )
    max_age: Duration | None = Field(
        None, description="Keep only rows that are at most this much older than the newest row: `30d`."
    )

    @model_validator(mode="after")
    def _check_age(self) -> Catalog:
        if (self.timestamp is None) != (self.max_age is None):
            lacking = "timestamp" if self.timestamp is None else "max_age"
            raise ValueError(f"{lacking}: the age of a candidate needs both timestamp and max_age")
        return self

    @property
    def takes_all(self) -> bool:
        """Whether all rows are kept, so that nothing but ids is needed."""
        return self.id == "id" and self.where is None and self.timestamp is None

    def as_source(self, key: str) -> NodeSource:
        """The files as a source of the engine. `key`: of this section."""
        return NodeSource(
            path=self.path, lhs=self.id, rhs=self.id, relation="candidate", where=self.where, timestamp=self.timestamp,
            key=key, uses={"lhs": "id", "rhs": "id"},
        )  # fmt: skip


def _as_catalog(value: Any) -> Any:
    """`items.txt` is short for `{path: items.txt}`."""
    return {"path": value} if isinstance(value, str) else value


class Rule(Section):
    """A function of another package that keeps some candidates and drops others."""

    name: Annotated[Name, AfterValidator(lambda name: plugins.check_name(plugins.RULES, name, ()))] = Field(
        description="The name of an entry point in the group `twhin.rules`; docs/recommend.md says what it is called "
        "with."
    )
    fetch: Few = Field(
        le=10_000, description="Candidates per user that it is asked about. The first `k` that it keeps stay."
    )


class Mixture(Section):
    """Users as mixtures over clusters of candidates, after kNN-Embed (El-Kishky et al. 2022). Needs faiss."""

    clusters: Few = Field(100, description="Clusters of the rhs table's vectors, by k-means.")
    top: Few = Field(5, description="Clusters per user: those with the largest shares.")
    smoothing: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="The weight of the neighbors' mean mixture beside the user's own edges."
    )
    neighbors: Annotated[int, Field(gt=0, le=1000)] = Field(
        20, description="How many users, the nearest by the cosine of their vectors."
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5,
        description="The share of a list that clusters fill, by turns with what the user's single vector finds; 1 "
        "leaves to that only what clusters cannot fill.",
    )


class Choice(Section):
    """Which nodes an answer may have, and how much it counts that they are popular."""

    candidates: Annotated[Catalog | None, BeforeValidator(_as_catalog)] = Field(
        None,
        description="A file with the ids of the candidates, like `users`, or a mapping that chooses by other columns. "
        "Default: all nodes.",
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
    rule: Rule | None = Field(None, description="Business rules that drop candidates. Default: none.")
    prior: PriorWeight | None = Field(
        None,
        description="The weight of log p in scores, in place of the trained one of `model.prior`: 0 leaves popularity "
        "out. Default: that of `export.prior`, or else the trained one.",
    )

    @model_validator(mode="after")
    def _check_exclude(self) -> Choice:
        if self.exclude is not None and len(set(self.exclude)) < len(self.exclude):
            raise ValueError(f"exclude: each may be listed once; got {', '.join(self.exclude)}")
        return self

    @property
    def chosen_by(self) -> str | None:
        """The first key that makes some nodes no candidates; None if all are."""
        return "candidates" if self.candidates is not None else "min_degree" if self.min_degree else None

    def to_find(self, k: int) -> int:
        """How many candidates to look for, so that k may be left.

        Raises:
            ValueError: the rule is asked about fewer.
        """
        if self.rule is None:
            return k
        if self.rule.fetch < k:
            raise ValueError(f"rule.fetch: {self.rule.fetch} is less than k: {k}")
        return self.rule.fetch


def not_by_index(key: str) -> str:
    """Why the index cannot be searched. `key`: what needs more than the index does."""
    return f"index: searches all nodes by single vectors; leave out {key}, or the index"


class Recommend(Choice):
    """The best nodes of a relation's rhs table for each node of its lhs table, the users."""

    k: Few = Field(100, le=10_000, description="Candidates per user.")
    users: Location | None = Field(
        None,
        description="A file with the ids of the users: Parquet, CSV or TSV with a column `id`, or text with an id per "
        "line. Default: all nodes.",
    )
    index: bool = Field(
        False,
        description="Search the exported faiss index of the rhs table, which looks at a part of the candidates, "
        "instead of scoring all of them. Needs `faiss` in `export.formats`.",
    )
    mixture: Mixture | None = Field(
        None,
        description="Candidates from several clusters for users with several interests; `{}` takes the defaults. "
        "Default: the best by the user's single vector.",
    )
    users_per_file: Count = Field(65_536, le=10_000_000, description="Users per file, and in memory at once.")

    @model_validator(mode="after")
    def _check_fetch(self) -> Recommend:
        self.to_find(self.k)
        return self

    @model_validator(mode="after")
    def _check_index(self) -> Recommend:
        key = self.chosen_by or (None if self.mixture is None else "mixture")
        if self.index and key is not None:
            raise ValueError(not_by_index(key))
        return self

    @property
    def fetched(self) -> int:
        """Candidates per user that are looked for."""
        return self.to_find(self.k)
