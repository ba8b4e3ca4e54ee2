"""The raw files that `prepare` reads: sources of interactions and labels of nodes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from twhin_core import conditions
from twhin_core.config.numbers import Location, Name, Scale
from twhin_core.config.section import Section

SplitName = Literal["train", "validation", "test"]


class Weight(Section):
    """The weight of a source's edges, made from a column by `transform`, `normalize` and `clip`, in this order."""

    column: Name = Field(description="A number > 0.")
    transform: Literal["log1p", "sqrt", "none"] = Field(
        "none", description="Applied to each value; `log1p`: the natural logarithm of 1 + the value."
    )
    normalize: Literal["relation", "none"] = Field(
        "none", description="`relation`: divide by the mean over the relation's rows, so that it is 1."
    )
    clip: Scale | None = Field(None, description="Maximum weight. Default: none.")

    @property
    def is_final(self) -> bool:
        """Whether the transformed values are the weights."""
        return self.normalize == "none" and self.clip is None


def _as_weight(value: Any) -> Any:
    """`plays` is short for `{column: plays}`."""
    return {"column": value} if isinstance(value, str) else value


class Source(Section):
    """Raw interactions in one or more files with the same columns."""

    path: Location = Field(
        description="File, folder (with its subfolders) or pattern, local or on an object store. Folders named "
        "`column=value` are columns too."
    )
    format: Literal["parquet", "csv", "tsv"] | None = Field(
        None,
        description='Default: by file suffix. CSV fields may be quoted with `"`, TSV fields not; `.gz` is unpacked.',
    )
    columns: list[Name] | None = Field(None, description="Column names of CSV or TSV files without a header line.")
    lhs: Name = Field("lhs", description="Column of the edge's source id: string, integer or UUID.")
    rhs: Name = Field("rhs", description="Column of the edge's target id: string, integer or UUID.")
    lists: dict[Name, Name] = Field(
        default_factory=dict,
        description="The column, lhs or rhs, whose fields hold several ids, with what separates these: "
        "`{genres: '|'}`. Each id becomes an edge. Parquet lists need no entry.",
    )
    relation: Name | None = Field(None, description="The relation of all edges; alternatively, set `relation_column`.")
    relation_column: Name | None = Field(None, description="Column of the edge's relation.")
    weight: Annotated[Weight | None, BeforeValidator(_as_weight)] = Field(
        None,
        description="Column of the edge's weight, a number > 0, or a mapping with the column and what to do with it. "
        "Default: every edge has 1.",
    )
    timestamp: Name | None = Field(
        None, description="Column of the edge's time: an integer, or a timestamp or date, compared to the second."
    )
    where: str | None = Field(
        None,
        description="Keep only rows for which this is true: `rating >= 4 and kind in ('view', 'buy')`. docs/prepare.md "
        "has the grammar.",
    )
    split: SplitName | None = Field(None, description="The split of all edges. Set it for every source or for none.")

    def use(self, field: str) -> str:
        """What messages call the column that `field` names."""
        return field

    @model_validator(mode="after")
    def _check_relation(self) -> Source:
        self.exactly_one("relation", "relation_column")
        return self

    @model_validator(mode="after")
    def _check_lists(self) -> Source:
        for name in self.lists:
            if name not in (self.lhs, self.rhs):
                raise ValueError(f"lists: {name!r} is neither the column lhs nor rhs")
        if len(self.lists) > 1:
            raise ValueError("lists: only one of lhs and rhs may hold several ids")
        return self

    @field_validator("where")
    @classmethod
    def _check_where(cls, where: str | None) -> str | None:
        if where is not None:
            conditions.parse(where)
        return where


class NodeSource(Source):
    """Rows of nodes as edges from ids to something else that rows have.

    `key`: of the section; `uses`: what its keys are called that name the columns of a source.
    """

    key: str
    uses: dict[str, str]

    def use(self, field: str) -> str:
        return f"{self.key}.{self.uses.get(field, field)}"


class Labels(Section):
    """Names of nodes for people, such as titles. They change nothing but what is shown."""

    table: Name = Field(description="The table of the nodes.")
    path: Location = Field(description="As the `path` of a source.")
    format: Literal["parquet", "csv", "tsv"] | None = Field(None, description="As the `format` of a source.")
    columns: list[Name] | None = Field(None, description="As the `columns` of a source.")
    id: Name = Field("id", description="Column of the node's id.")
    label: Name = Field("label", description="Column of its label: string or integer.")

    def as_source(self, position: int) -> NodeSource:
        """The files as a source of the engine."""
        return NodeSource(
            path=self.path, format=self.format, columns=self.columns, lhs=self.id, rhs=self.label, relation=self.table,
            key=f"prepare.labels.{position}", uses={"lhs": "id", "rhs": "label"},
        )  # fmt: skip


class ContentSource(NodeSource):
    """Rows of nodes with their content. `vector`: the column of vectors, if any."""

    vector: str | None
    categories: list[str]


class LabelSource(NodeSource):
    """Rows of nodes with a label and some numbers, which are the columns `numbers`."""

    numbers: list[str]


class Features(Section):
    """Content of nodes, in Parquet files: a vector of a model of texts or images, categories, or both."""

    table: Name = Field(description="The table of the nodes.")
    path: Location = Field(description="As the `path` of a source.")
    id: Name = Field("id", description="Column of the node's id.")
    column: Name | None = Field(
        None, description="Column of its vector: a list of floats, as many for every node. Default: none."
    )
    categories: list[Name] = Field(
        default_factory=list, description="Columns of categories: string or integer. Each value has a vector."
    )

    @model_validator(mode="after")
    def _check_columns(self) -> Features:
        if self.column is None and not self.categories:
            raise ValueError("needs column, categories or both")
        names = [self.id, *([] if self.column is None else [self.column]), *self.categories]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"categories: columns must differ; repeated: {', '.join(repeated)}")
        return self

    def as_source(self, position: int) -> ContentSource:
        """The files as a source of the engine."""
        return ContentSource(
            path=self.path, format="parquet", lhs=self.id, rhs=self.id, relation=self.table,
            key=f"prepare.features.{position}", uses={"lhs": "id", "rhs": "id"},
            vector=self.column, categories=self.categories,
        )  # fmt: skip
