"""A run: the sections of its YAML together, and the checks that span several of them."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, model_validator

from twhin_core.config.data import EdgeData, TrainData
from twhin_core.config.evaluation import Evaluation
from twhin_core.config.export import Export
from twhin_core.config.model import Model
from twhin_core.config.prepare import Prepare
from twhin_core.config.runtime import Runtime
from twhin_core.config.section import Section
from twhin_core.config.training import Training


class Config(Section):
    """A run."""

    runtime: Runtime = Field(default_factory=Runtime, description="How the arithmetic runs.")
    prepare: Prepare | None = Field(None, description="(ours) From raw interactions to vocabulary and edges.")
    model: Model = Field(description="What is learned.")
    training: Training = Field(default_factory=Training, description="How long, and what is kept.")
    train_data: TrainData = Field(description="Edges to learn from.")
    validation_data: TrainData | None = Field(
        None,
        description="Edges of the validation loss; left out, the split that `prepare` made, with train_data's batch.",
    )
    test_data: EdgeData | None = Field(
        None, description="(ours) Edges to evaluate on; left out, the split of `prepare`."
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="(ours) How the result is measured.")
    export: Export = Field(default_factory=Export, description="(ours) How the result is written.")

    @model_validator(mode="after")
    def _prepared_or_given(self) -> Config:
        if self.prepare is not None:
            for position, table in enumerate(self.model.embeddings.tables):
                if table.vocab is not None:
                    raise ValueError(
                        f"model.embeddings.tables.{position}.vocab: has no effect where prepare makes the vocabulary; "
                        "leave it out"
                    )
            return self
        if self.train_data.data_root is None:
            raise ValueError("train_data.data_root: is needed where there is no prepare section")
        for position, table in enumerate(self.model.embeddings.tables):
            if table.num_embeddings is None:
                key = f"model.embeddings.tables.{position}.num_embeddings"
                raise ValueError(f"{key}: is needed where there is no prepare section")
        if any(relation.name == "*" for relation in self.model.relations):
            raise ValueError("model.relations: `*` needs a prepare section to find the relations")
        return self

    @model_validator(mode="after")
    def _in_order(self) -> Config:
        data = self.validation_data
        if data is not None and data.shuffle_buffer != TrainData.model_fields["shuffle_buffer"].default:
            raise ValueError("validation_data.shuffle_buffer: has no effect, these edges stay in order; leave it out")
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        tables = [table.name for table in self.model.embeddings.tables]
        relations = [relation.name for relation in self.model.relations]
        _check_names("export.tables", self.export.tables or [], "table", tables)
        if self.prepare is not None:
            _check_names("prepare.min_degree", self.prepare.min_degree, "table", tables)
            if "*" not in relations:
                _check_names("prepare.sampling", self.prepare.sampling, "relation", relations)
        return self

    @model_validator(mode="after")
    def _asks_own_table(self) -> Config:
        for section, data in (("train_data", self.train_data), ("validation_data", self.validation_data)):
            within = any(relation.lhs == relation.rhs for relation in self.model.relations)
            if data is not None and data.self_negatives and not within:
                raise ValueError(
                    f"{section}.self_negatives: has no effect, no relation has both ends in one table; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _exportable(self) -> Config:
        export, tables = self.export, [table.name for table in self.model.embeddings.tables]
        export.check_dim(self.model.dim)
        if export.faiss is not None:
            _check_names("export.faiss.tables", export.faiss.tables, "table", export.tables or tables)
        export.check_folders(export.tables or tables)
        if export.query_side is None:
            return self
        relations = [relation.name for relation in self.model.relations]
        if "*" not in relations:
            _check_names("export.query_side", [export.query_side], "relation", relations)
        comparator = self.model.comparator
        if comparator not in ("dot", "cos"):
            raise ValueError(
                f"export.query_side: the scores of the comparator {comparator} are distances, not dot products of a "
                "query with a node; leave it out, and apply the operator of relations.parquet to the lhs instead"
            )
        if export.normalize != (comparator == "cos"):
            raise ValueError(
                f"export.query_side: dot products are the scores of the comparator {comparator} only with "
                f"export.normalize: {str(comparator == 'cos').lower()}"
            )
        return self

    @model_validator(mode="after")
    def _corrects_odds(self) -> Config:
        for section, data in (("train_data", self.train_data), ("validation_data", self.validation_data)):
            if data is not None and data.full_softmax and self.model.loss != "softmax":
                raise ValueError(
                    f"{section}.full_softmax: has no effect on the {self.model.loss} loss; set model.loss: softmax or "
                    "leave it out"
                )
            if data is not None and data.logq_correction and self.model.loss == "ranking":
                raise ValueError(
                    f"{section}.logq_correction: has no meaning for the ranking loss, whose scores are not logarithms "
                    "of odds; leave it out or set model.loss to softmax or bce"
                )
        return self


def _check_names(key: str, given: Iterable[str], kind: str, known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{key}: no {kind} named {name!r}; there are {', '.join(sorted(known))}")
