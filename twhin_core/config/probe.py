"""The section `evaluation.probe`: labels of nodes that a simple model predicts from their vectors."""

from __future__ import annotations

from pydantic import Field, model_validator

from twhin_core.config.numbers import Location, Name
from twhin_core.config.section import Section
from twhin_core.config.sources import LabelSource

KEY = "evaluation.probe"


class Probe(Section):
    """What a logistic regression reads from the vectors about a label that they were not trained on."""

    table: Name = Field(description="The table of the labeled nodes.")
    path: Location = Field(description="As the `path` of a source: Parquet, CSV or TSV, with a row per labeled node.")
    id: Name = Field("id", description="Column of the node's id.")
    column: Name = Field(description="Column of its label: string, integer or boolean, of two to 100 classes.")
    features: list[Name] = Field(
        default_factory=list,
        max_length=1000,
        description="Columns of numbers that you know of these nodes otherwise: the label is also predicted from them, "
        "with the vectors and without.",
    )

    @model_validator(mode="after")
    def _check_columns(self) -> Probe:
        names = [self.id, self.column, *self.features]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"features: columns must differ; repeated: {', '.join(repeated)}")
        return self

    def as_source(self) -> LabelSource:
        """The files as a source of the engine."""
        return LabelSource(
            path=self.path, lhs=self.id, rhs=self.column, relation=self.table,
            key=KEY, uses={"lhs": "id", "rhs": "column"}, numbers=self.features,
        )  # fmt: skip
