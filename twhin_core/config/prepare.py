"""The section `prepare`: from raw interactions to a graph. docs/prepare.md says what each option does to the rows."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from twhin_core import sizes
from twhin_core.config.section import Section

SplitName = Literal["train", "validation", "test"]


class Source(Section):
    """Raw interactions: one or more files of one layout."""

    path: str = Field(description="File, folder or glob, local or gs://.")
    format: Literal["parquet", "csv", "tsv"] | None = Field(
        None,
        description="Default: by the file's suffix. A CSV quotes with `\"`, a TSV not at all; `.gz` is unpacked.",
    )
    columns: list[str] | None = Field(
        None, description="Names of a CSV's or TSV's columns where its files have no header line."
    )
    lhs: str = Field("lhs", description="Column of the edge's source id: string, integer or UUID.")
    rhs: str = Field("rhs", description="Column of the edge's target id: string, integer or UUID.")
    relation: str | None = Field(None, description="The relation of all these edges; or else `relation_column`.")
    relation_column: str | None = Field(None, description="Column that names each edge's relation.")
    weight: str | None = Field(None, description="Column of the edge's weight, a number > 0. Default: all 1.")
    timestamp: str | None = Field(
        None, description="Column of the edge's time: integer, or timestamp or date, which are compared to the second."
    )
    split: SplitName | None = Field(
        None, description="All these edges belong to this split. Either every source has it or none."
    )

    @model_validator(mode="after")
    def _one_relation(self) -> Source:
        self.exactly_one("relation", "relation_column")
        return self


class Split(Section):
    """How edges are held out, where the sources do not say."""

    by: Literal["hash", "time", "last"] = Field(
        "hash",
        description="`hash`: at random, stable from run to run; `time`: the latest edges of the graph are held out; "
        "`last`: the latest edges of each lhs, its earliest one excepted.",
    )
    validation: float = Field(
        0.05, ge=0, description="Share of the edges in the validation split; with `last`, edges of each lhs."
    )
    test: float = Field(0.05, ge=0, description="Share of the edges in the test split; with `last`, edges of each lhs.")
    seed: int = Field(0, ge=0, description="Another seed is another random split, sample and order of the edges.")

    @model_validator(mode="after")
    def _leaves_train(self) -> Split:
        if self.by == "last":
            for name in ("validation", "test"):
                if name not in self.model_fields_set or not getattr(self, name).is_integer():
                    raise ValueError(f"{name}: by: last needs a whole number, the edges of each lhs to hold out")
        elif self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave edges to train on")
        return self


class Generate(Section):
    """A generated Twitter-like network (see `twhin generate`), for trying things out."""

    users: PositiveInt = Field(8000, description="Nodes of the table `user`.")
    tweets: PositiveInt = Field(12000, description="Nodes of the table `tweet`.")
    communities: PositiveInt = Field(100, description="Planted groups that interact mostly among themselves.")
    edges_per_user: PositiveInt = Field(
        48, description="Mean number of interactions a user starts, over all relations; repeated ones make one edge."
    )
    seed: int = Field(0, ge=0, description="Another seed is another network.")

    @model_validator(mode="after")
    def _nobody_alone(self) -> Generate:
        if self.communities > min(self.users, self.tweets):
            raise ValueError("communities: there are more of them than users or tweets")
        return self


def _as_text(value: Any) -> Any:
    """YAML reads an unquoted date as one; the config keeps text, which JSON has too."""
    return value.isoformat() if isinstance(value, datetime.date) else value


Bound = Annotated[int | str | None, BeforeValidator(_as_text)]


class TimeWindow(Section):
    """The times of the edges that are kept: start ≤ time < end."""

    start: Bound = Field(
        None, description="An integer for times that are integers, or an ISO date or date and time, in UTC by default."
    )
    end: Bound = Field(None, description="As `start`; the first time that is too late.")

    @model_validator(mode="after")
    def _some_time(self) -> TimeWindow:
        for name in ("start", "end"):
            if isinstance(bound := getattr(self, name), str):
                try:
                    datetime.datetime.fromisoformat(bound)
                except ValueError:
                    raise ValueError(f"{name}: neither an integer nor an ISO date or time: {bound!r}") from None
        kinds = {type(bound) for bound in (self.start, self.end) if bound is not None}
        if not kinds:
            raise ValueError("needs start, end or both")
        if len(kinds) > 1:
            raise ValueError("start and end must both be integers or both be dates")
        start, end = self.bounds
        if start is not None and end is not None and start >= end:
            raise ValueError("end: must be later than start")
        return self

    @property
    def of_integers(self) -> bool:
        """Whether the window is one of integers, rather than of dates."""
        return any(isinstance(bound, int) for bound in (self.start, self.end))

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        """Start and end as integers: those given, or seconds since 1970, rounded up."""
        return _number(self.start), _number(self.end)


def _number(bound: int | str | None) -> int | None:
    if not isinstance(bound, str):
        return bound
    time = datetime.datetime.fromisoformat(bound)
    since = time.replace(tzinfo=time.tzinfo or datetime.UTC) - datetime.datetime.fromtimestamp(0, datetime.UTC)
    return -(-since // datetime.timedelta(seconds=1))


class Prepare(Section):
    """From raw interactions to `graph/`. The options from `time_window` to `min_degree` apply in this order."""

    sources: list[Source] = Field(default_factory=list, description="Where the interactions are.")
    generate: Generate | None = Field(
        None,
        description="Make a network under `<run_root>/raw` instead; needs tables user and tweet and its relations.",
    )
    time_window: TimeWindow | None = Field(None, description="Which times the edges are of; left out, all.")
    self_loops: Literal["keep", "drop"] = Field(
        "keep", description="What becomes of edges from a node to itself: the same id on both sides, in one table."
    )
    sampling: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict,
        description="Share of a relation's edges to keep, by relation: `{fav: 0.1}`. The choice is random, by hash, "
        "and the same in every run; other relations keep all.",
    )
    repeats: Literal["first", "last", "count", "sum"] = Field(
        "first",
        description="Rows of the same lhs, relation and rhs make one edge: the earliest, the latest, or the earliest "
        "with the number of rows or the sum of their weights as its weight.",
    )
    min_degree: dict[str, PositiveInt] = Field(
        default_factory=dict,
        description="Fewest edges, of any relation and split, that a node must have, by table: `{user: 5}`. Edges of a "
        "node with fewer are dropped, which takes edges from others, so this is repeated.",
    )
    min_degree_rounds: PositiveInt | None = Field(
        None, description="How many times at most; left out, until no node has too few."
    )
    split: Split | None = Field(
        None, description="Which edges are held out; left out, a random tenth, or what the sources say."
    )
    cold_nodes: Literal["keep", "drop"] = Field(
        "keep", description="What becomes of held-out edges with a node that no training edge has. They are counted."
    )
    engine: Literal["duckdb", "spark"] = Field(
        "duckdb",
        description="What runs it: DuckDB on this machine, or Spark on this one or many. The graph is the same.",
    )
    spark_master: str | None = Field(
        None,
        pattern=r"^(local(\[.+\])?|spark://.+|k8s://.+|yarn)$",
        description="URL of Spark's master: `local[4]` for four threads here, `spark://…`, `k8s://…` or `yarn`. "
        "Default: `local[*]`. Only for `engine: spark`.",
    )
    memory_limit: str = Field(
        "4GB",
        pattern=sizes.PATTERN,
        description="The engine's memory, for Spark the heap of the driver and of each executor; more goes to disk.",
    )
    temp_directory: str | None = Field(
        None,
        description="Where tables are kept between the steps and spilled to, in a folder that is removed at the end. "
        "Default: the system's (TMPDIR). A Spark cluster needs one that all executors see.",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Prepare:
        if bool(self.sources) == (self.generate is not None):
            raise ValueError("needs either sources or generate")
        given = [source.split is not None for source in self.sources]
        if any(given) and not all(given):
            raise ValueError("sources: either every source has a split or none")
        if any(given) and self.split is not None:
            raise ValueError("split: has no effect where the sources give their splits; leave it out")
        return self

    @model_validator(mode="after")
    def _one_engine(self) -> Prepare:
        if self.engine == "duckdb" and self.spark_master is not None:
            raise ValueError("spark_master: has no effect with engine: duckdb; leave it out")
        if self.engine == "duckdb" and self.temp_directory is not None and "://" in self.temp_directory:
            raise ValueError(f"temp_directory: DuckDB needs a local folder; got {self.temp_directory!r}")
        if self.is_cluster and self.temp_directory is None:
            raise ValueError("temp_directory: is needed with a cluster, a place that all its executors see")
        return self

    @property
    def is_cluster(self) -> bool:
        """Whether other machines than this one do the work."""
        return self.spark_master is not None and not self.spark_master.startswith("local")

    @model_validator(mode="after")
    def _times_and_weights(self) -> Prepare:
        timed = [source.timestamp is not None for source in self.sources]
        if not all(timed):
            if self.split is not None and self.split.by != "hash":
                raise ValueError(f"split.by: {self.split.by} needs a timestamp column in every source")
            if self.time_window is not None:
                raise ValueError("time_window: needs a timestamp column in every source")
        if self.repeats == "last" and self.sources and not any(timed):
            raise ValueError("repeats: last needs a timestamp column in some source")
        for position, source in enumerate(self.sources):
            if self.repeats == "count" and source.weight is not None:
                raise ValueError(f"sources.{position}.weight: has no effect with repeats: count; leave it out")
        if self.min_degree_rounds is not None and not self.min_degree:
            raise ValueError("min_degree_rounds: has no effect without min_degree; leave it out")
        return self
