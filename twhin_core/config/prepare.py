"""The section `prepare`: from raw interactions to a graph. docs/prepare.md describes what each option does to rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from twhin_core.config.derive import Derive
from twhin_core.config.generate import Generate
from twhin_core.config.numbers import AnyLocation, Count, Duration, Location, Memory, Name, Seed, Strength
from twhin_core.config.section import Section
from twhin_core.config.sources import Features, Labels, Source
from twhin_core.config.time_window import TimeWindow


class Split(Section):
    """How edges are held out if the sources do not specify their splits."""

    by: Literal["hash", "time", "last"] = Field(
        "hash",
        description="`hash`: a random sample, the same in every run; `time`: the latest edges of the graph; `last`: "
        "the latest edges of each lhs, but never its earliest one.",
    )
    validation: Strength = Field(
        0.05, description="Share of edges in the validation split; with `last`, the number of edges per lhs."
    )
    test: Strength = Field(
        0.05, description="Share of edges in the test split; with `last`, the number of edges per lhs."
    )
    relations: list[Name] | None = Field(
        None,
        min_length=1,
        description="Hold out edges of these relations alone, as if the graph had no others, which all stay in train. "
        "Only these then need times. Default: all relations.",
    )
    seed: Seed = Field(0, description="Seeds the random split, the sample and the order of edges.")

    @model_validator(mode="after")
    def _check_shares(self) -> Split:
        if self.by == "last":
            for name in ("validation", "test"):
                if name not in self.model_fields_set or not getattr(self, name).is_integer():
                    raise ValueError(f"{name}: by: last needs an integer, the number of edges per lhs to hold out")
        elif self.validation + self.test >= 1:
            raise ValueError("validation and test together must be below 1, to leave edges to train on")
        return self


class EdgeDecay(Section):
    """Halves the weight of a row for every `half_life` of its age."""

    half_life: Duration = Field(
        description="Hours or days (`12h`, `30d`), or an integer if times are integers. Age counts from the time that "
        "`window` counts from."
    )


class Prepare(Section):
    """Builds `graph/` from raw interactions. The options from `time_window` to `min_degree` apply in this order."""

    sources: list[Source] = Field(default_factory=list, description="Files of raw interactions.")
    generate: Generate | None = Field(
        None,
        description="Generate a network under `<run_root>/raw` instead. Needs the tables user and tweet, and the "
        "network's relations.",
    )
    graph: Location | None = Field(
        None,
        description="Run root, or series for its published version, whose graph to use, without copying it, instead of "
        "building one. The configs must agree in everything that makes the graph; see docs/prepare.md.",
    )
    previous: Location | None = Field(
        None,
        description="Run root of the version before, or a series, of which it is the published one: its graph is "
        "continued with the files that it has not taken yet. See "
        "[the next day's files](prepare.md#the-next-days-files).",
    )
    labels: list[Labels] = Field(
        default_factory=list, description="Labels of nodes, which `twhin neighbors` and the report show."
    )
    features: list[Features] = Field(
        default_factory=list,
        description="Content of nodes, such as embeddings of texts or images, that vectors are learned from beside the "
        "edges. See [features](features.md).",
    )
    time_window: TimeWindow | None = Field(None, description="Keep the edges of this time window. Default: all.")
    window: Duration | None = Field(
        None,
        description="Keep the edges that are no older than this: `12h`, `90d`, or an integer if times are integers. "
        "Age counts from the end of `time_window` or else from the newest time of all rows. Needs `repeats: last`.",
    )
    edge_decay: EdgeDecay | None = Field(
        None, description="Weigh rows by age. Needs `repeats: last`, `count` or `sum`. Default: age does not matter."
    )
    self_loops: Literal["keep", "drop"] = Field(
        "keep", description="Whether to keep edges from a node to itself: the same id on both sides, in one table."
    )
    sampling: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict,
        description="Share of edges to keep, by relation: `{fav: 0.1}`. Samples by hash, so every run keeps the same "
        "edges. Other relations keep all edges.",
    )
    repeats: Literal["first", "last", "count", "sum"] = Field(
        "first",
        description="Rows with the same lhs, relation and rhs become one edge. `first` keeps the earliest, `last` the "
        "latest; `count` and `sum` keep the earliest, weighted by the number of rows or the sum of their weights.",
    )
    min_degree: dict[str, Count] = Field(
        default_factory=dict,
        description="Minimum number of edges per node over all relations and splits, by table: `{user: 5}`. Nodes with "
        "fewer are removed along with their edges, repeatedly, since that takes edges from other nodes.",
    )
    min_degree_rounds: Count | None = Field(
        None, description="Maximum number of repetitions. Default: until every node has enough edges."
    )
    split: Split | None = Field(
        None, description="How to hold out edges. Default: a random tenth, or the splits that the sources specify."
    )
    cold_nodes: Literal["keep", "drop"] = Field(
        "keep", description="Whether to keep held-out edges with a node without training edges. They are counted."
    )
    derive: dict[Name, Derive] = Field(
        default_factory=dict,
        description="Relations made from others, by name: `{co_read: {relation: read, side: rhs}}`. See "
        "[derived relations](prepare.md#derived-relations).",
    )
    changed_files: Literal["refuse", "keep"] = Field(
        "refuse",
        description="What to do if a source file changed after this run's graph was built: stop, or keep the graph.",
    )
    engine: Literal["duckdb", "spark"] = Field(
        "duckdb", description="DuckDB on this machine, or Spark on one or many. Both build the same graph."
    )
    spark_master: str | None = Field(
        None,
        max_length=1000,
        pattern=r"^(local(\[.+\])?|spark://.+|k8s://.+|yarn)$",
        description="URL of the Spark master: `local[4]` for four local threads, `spark://…`, `k8s://…` or `yarn`. "
        "Default: `local[*]`. Only for `engine: spark`.",
    )
    memory_limit: Memory = Field(
        "4GB",
        description="Memory of the engine; for Spark, the heap of the driver and each executor. The rest is spilled.",
    )
    temp_directory: AnyLocation | None = Field(
        None,
        description="Parent of a temporary folder for intermediate tables and spilled data. Default: TMPDIR. A Spark "
        "cluster needs one that all executors can access.",
    )

    @model_validator(mode="after")
    def _check_sources(self) -> Prepare:
        if bool(self.sources) == (self.generate is not None):
            raise ValueError("needs either sources or generate")
        given = [source.split is not None for source in self.sources]
        if any(given) and not all(given):
            raise ValueError("sources: either every source has a split or none")
        if any(given) and self.split is not None:
            raise ValueError("split: has no effect, the sources specify their splits; remove it")
        return self

    @model_validator(mode="after")
    def _check_derive(self) -> Prepare:
        """Refuses what would make a derived relation of rows, or of itself."""
        named = [(f"sources.{position}.relation", source.relation) for position, source in enumerate(self.sources)]
        named += [("sampling", name) for name in self.sampling]
        named += [("split.relations", name) for name in (self.split and self.split.relations) or []]
        named += [(f"derive.{name}.relation", derive.relation) for name, derive in self.derive.items()]
        for key, relation in named:
            if relation in self.derive:
                raise ValueError(f"{key}: {relation!r} is derived (prepare.derive), not read from rows; name another")
        return self

    @model_validator(mode="after")
    def _check_features(self) -> Prepare:
        tables = [of.table for of in self.features]
        for position, table in enumerate(tables):
            if table in tables[:position]:
                raise ValueError(f"features.{position}.table: {table!r} is listed twice; use one entry")
        return self

    @model_validator(mode="after")
    def _check_engine(self) -> Prepare:
        if self.engine == "duckdb" and self.spark_master is not None:
            raise ValueError("spark_master: has no effect with engine: duckdb; remove it")
        if not self.is_cluster and self.temp_directory is not None and "://" in self.temp_directory:
            engine = "DuckDB" if self.engine == "duckdb" else "Spark on one machine"
            raise ValueError(f"temp_directory: {engine} needs a local folder; got {self.temp_directory!r}")
        if self.is_cluster and self.temp_directory is None:
            raise ValueError("temp_directory: is required on a cluster; set a place that all executors can access")
        return self

    @property
    def is_cluster(self) -> bool:
        """Whether Spark runs on other machines."""
        return self.spark_master is not None and not self.spark_master.startswith("local")

    @model_validator(mode="after")
    def _check_columns(self) -> Prepare:
        timed = [source.timestamp is not None for source in self.sources]
        if not all(timed) and self.time_window is not None:
            raise ValueError("time_window: needs a timestamp column in every source")
        if self.split is not None and self.split.by != "hash":
            chosen = self.split.relations
            for source in self.sources:
                if source.timestamp is None and (chosen is None or source.relation in chosen):
                    of = "" if chosen is None else f" of {source.relation}"
                    raise ValueError(f"split.by: {self.split.by} needs a timestamp column in every source{of}")
        if self.repeats == "last" and self.sources and not any(timed):
            raise ValueError("repeats: last needs a timestamp column in some source")
        for position, source in enumerate(self.sources):
            if self.repeats == "count" and source.weight is not None:
                raise ValueError(f"sources.{position}.weight: has no effect with repeats: count; remove it")
        if self.min_degree_rounds is not None and not self.min_degree:
            raise ValueError("min_degree_rounds: has no effect without min_degree; remove it")
        return self

    @model_validator(mode="after")
    def _check_ages(self) -> Prepare:
        repeats = {"window": ("last",), "edge_decay": ("last", "count", "sum")}
        for key, fitting in repeats.items():
            if getattr(self, key) is None:
                continue
            if self.repeats not in fitting:
                raise ValueError(
                    f"{key}: needs repeats: {' or '.join(fitting)}, since an edge's age is that of its rows"
                )
            if not all(source.timestamp is not None for source in self.sources):
                raise ValueError(f"{key}: needs a timestamp column in every source")
        return self

    @model_validator(mode="after")
    def _check_previous(self) -> Prepare:
        """Refuses what depends on rows of earlier days that the previous graph does not hold."""
        if self.previous is None:
            return self
        if self.generate is not None:
            raise ValueError("previous: continues a graph with new files, and generate has none; remove either")
        if self.min_degree:
            raise ValueError("min_degree: edges that it dropped may be needed another day; remove it, or previous")
        if self.cold_nodes == "drop":
            raise ValueError("cold_nodes: edges that drop left out may be needed another day; keep them")
        if self.split is not None and self.split.by != "hash":
            raise ValueError(
                f"split.by: {self.split.by} would move test edges of the previous graph to train; use hash, or remove "
                "previous"
            )
        for position, source in enumerate(self.sources):
            if source.weight is not None and source.weight.normalize == "relation":
                raise ValueError(
                    f"sources.{position}.weight.normalize: the mean over all days is unknown with previous; use "
                    "transform and clip, or remove previous"
                )
        return self
