"""The config of a run: all sections, and the checks that span several of them."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, model_validator

from twhin_core.config.data import EdgeData, TrainData
from twhin_core.config.earlier import PREVIOUS
from twhin_core.config.evaluation import Evaluation
from twhin_core.config.export import Export
from twhin_core.config.model import Model
from twhin_core.config.prepare import Prepare
from twhin_core.config.recommend import Recommend
from twhin_core.config.registry import Registry
from twhin_core.config.relation import ROTATABLE_OPERATORS, negative_relations
from twhin_core.config.report import Report
from twhin_core.config.runtime import Runtime
from twhin_core.config.section import Section
from twhin_core.config.sweep import SweepOrPreset
from twhin_core.config.tracking import Tracking
from twhin_core.config.training import Training


class Config(Section):
    """The config of a run."""

    runtime: Runtime = Field(default_factory=Runtime, description="Numerical precision, and the log.")
    prepare: Prepare | None = Field(None, description="(ours) Builds vocabulary and edges from raw interactions.")
    model: Model = Field(description="Tables, relations and the loss.")
    training: Training = Field(default_factory=Training, description="Duration, logging and checkpoints.")
    train_data: TrainData = Field(description="Edges to train on.")
    validation_data: TrainData | None = Field(
        None,
        description="Edges for the validation loss. Default: the validation split of `prepare`, with the batch size "
        "and negatives of `train_data`.",
    )
    test_data: EdgeData | None = Field(
        None, description="(ours) Edges to evaluate on. Default: the test split of `prepare`."
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="(ours) Metrics and quality gates.")
    export: Export = Field(default_factory=Export, description="(ours) Export formats.")
    recommend: dict[str, Recommend] = Field(
        default_factory=dict, description="(ours) Lists of the best candidates, by relation: `{fav: {k: 100}}`."
    )
    report: Report = Field(default_factory=Report, description="(ours) What the report shows beside the results.")
    tracking: Tracking = Field(default_factory=Tracking, description="(ours) Where else the figures of the run go.")
    registry: Registry = Field(
        default_factory=Registry, description="(ours) Where the published versions of a series are registered."
    )
    sweep: SweepOrPreset | None = Field(
        None,
        description="(ours) Settings for `twhin tune` to try, and how: `retrieval` or `facts`, which are presets, or a "
        "section, which may name one as its `preset`. Other commands ignore it.",
    )

    @property
    def needs_frequencies(self) -> bool:
        """Whether training depends on the nodes' training degrees."""
        data = self.train_data, self.validation_data
        return self.model.prior is not None or any(of is not None and of.needs_frequencies for of in data)

    @model_validator(mode="after")
    def _check_prepare(self) -> Config:
        tables = list(enumerate(self.model.embeddings.tables))
        if self.prepare is not None:
            for position, table in tables:
                if table.vocab is not None:
                    raise ValueError(
                        f"model.embeddings.tables.{position}.vocab: has no effect with a prepare section, which makes "
                        "the vocabulary; remove it"
                    )
            return self
        if self.train_data.data_root is None:
            raise ValueError("train_data.data_root: is required without a prepare section")
        for position, table in tables:
            if table.num_embeddings is None:
                key = f"model.embeddings.tables.{position}.num_embeddings"
                raise ValueError(f"{key}: is required without a prepare section")
        if any(relation.name == "*" for relation in self.model.relations):
            raise ValueError("model.relations: `*` needs a prepare section to find the relations")
        for position, relation in enumerate(self.model.relations):
            if relation.symmetric:
                key = f"model.relations.{position}.symmetric"
                raise ValueError(f"{key}: has no effect without a prepare section; remove it")
        return self

    @model_validator(mode="after")
    def _check_initial(self) -> Config:
        with_features = {of.table for of in self.prepare.features} if self.prepare is not None else set()
        for position, table in enumerate(self.model.embeddings.tables):
            if table.initial is None:
                continue
            key = f"model.embeddings.tables.{position}.initial"
            if table.name in with_features:
                raise ValueError(
                    f"{key}: {table.name} has prepare.features, which adds to its rows and moves those of nodes "
                    "without training edges to what it predicts; remove either"
                )
            if self.training.initial_checkpoint_dir is not None and not table.initial.frozen:
                raise ValueError(
                    f"{key}: has no effect with training.initial_checkpoint_dir, which gives every row its weights, "
                    "unless frozen; remove either"
                )
        return self

    @model_validator(mode="after")
    def _check_negatives(self) -> Config:
        names = negative_relations(self.model.relations)
        if not names:
            return self
        position = next(at for at, of in enumerate(self.model.relations) if of.negatives is not None)
        key = f"model.relations.{position}.negatives"
        if self.prepare is None:
            raise ValueError(f"{key}: needs a prepare section, which sets explicit negatives apart from other edges")
        if self.prepare.previous is not None and self.prepare.repeats != "last":
            raise ValueError(
                f"prepare.repeats: {self.prepare.repeats} keeps no edge's latest time, which tells on a later day "
                f"whether {key} or the edges that they contradict are later; use last, from the first version on, or "
                "remove previous"
            )
        used: dict[str, set[str | None]] = {
            **{f"prepare.derive.{name}": {name, of.relation} for name, of in self.prepare.derive.items()},
            "export.query_side": {self.export.query_side},
            **{f"recommend.{name}": {name} for name in self.recommend},
        }
        for where, of in used.items():
            if found := sorted(names & of):
                raise ValueError(f"{where}: {found[0]} has explicit negatives alone, which are not trained on as edges")
        return self

    @model_validator(mode="after")
    def _check_data(self) -> Config:
        for section, data in (("train_data", self.train_data), ("validation_data", self.validation_data)):
            if data is None:
                continue
            if data.self_negatives and all(relation.lhs != relation.rhs for relation in self.model.relations):
                raise ValueError(
                    f"{section}.self_negatives: has no effect, no relation has both ends in one table; remove it"
                )
            if data.full_softmax and self.model.loss != "softmax":
                raise ValueError(
                    f"{section}.full_softmax: has no effect on the {self.model.loss} loss; set model.loss: softmax or "
                    "remove it"
                )
            if data.logq_correction and self.model.loss == "ranking":
                raise ValueError(
                    f"{section}.logq_correction: is undefined for the ranking loss, whose scores are not log-odds; "
                    "remove it or set model.loss to softmax or bce"
                )
        data = self.validation_data
        if data is not None and data.shuffle_buffer != TrainData.model_fields["shuffle_buffer"].default:
            raise ValueError(
                "validation_data.shuffle_buffer: has no effect, validation edges are not shuffled; remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_references(self) -> Config:
        tables = [table.name for table in self.model.embeddings.tables]
        relations = [relation.name for relation in self.model.relations]
        _check_names("export.tables", self.export.tables or [], "table", tables)
        if self.evaluation.probe is not None:
            _check_names("evaluation.probe.table", [self.evaluation.probe.table], "table", tables)
        if self.evaluation.lists is not None and not self.recommend:
            raise ValueError("evaluation.lists: needs the section recommend, which says what lists are made of")
        if "*" not in relations:
            self._check_recommend(relations)
        if self.prepare is not None:
            _check_names("prepare.min_degree", self.prepare.min_degree, "table", tables)
            _check_names("prepare.labels", [labels.table for labels in self.prepare.labels], "table", tables)
            self._check_derive(self.prepare)
            _check_names("prepare.features", [of.table for of in self.prepare.features], "table", tables)
            if "*" not in relations:
                _check_names("prepare.sampling", self.prepare.sampling, "relation", relations)
                split = self.prepare.split
                _check_names("prepare.split.relations", (split and split.relations) or [], "relation", relations)
        return self

    def _check_derive(self, prepare: Prepare) -> None:
        """Raises ValueError unless each derived relation has an entry of its own with both ends in the right table."""
        given = {relation.name: relation for relation in self.model.relations}
        for name, derive in prepare.derive.items():
            key = f"prepare.derive.{name}"
            if derive.relation == "*" or "*" not in given:
                _check_names(f"{key}.relation", [derive.relation], "relation", sorted(given.keys() - {"*"}))
            base, own = given.get(derive.relation) or given["*"], given.get(name)
            table = getattr(base, derive.side)
            if own is None or name == "*":
                raise ValueError(
                    f"{key}: needs an entry in model.relations: {{name: {name}, lhs: {table}, rhs: {table}}}"
                )
            if (own.lhs, own.rhs) != (table, table):
                raise ValueError(
                    f"{key}: connects nodes of the table {table}, the {derive.side} of {derive.relation}; its entry in "
                    f"model.relations leads from {own.lhs} to {own.rhs}"
                )

    def _check_recommend(self, relations: list[str]) -> None:
        _check_names("recommend", self.recommend, "relation", relations)
        for name, settings in self.recommend.items():
            _check_names(f"recommend.{name}.exclude", settings.exclude or [], "relation", relations)
            if settings.index and "faiss" not in self.export.formats:
                raise ValueError(f"recommend.{name}.index: needs faiss in export.formats")

    @model_validator(mode="after")
    def _check_prior(self) -> Config:
        if self.export.prior is not None and self.model.prior is None:
            raise ValueError("export.prior: needs model.prior, whose weight it is; remove it, or train with a prior")
        for name, settings in self.recommend.items():
            if settings.prior is not None and not self.model.has_prior("rhs"):
                raise ValueError(
                    f"recommend.{name}.prior: needs model.prior with the side rhs, whose weight it is; remove it, or "
                    "train with a prior"
                )
        return self

    def prior_of_lists(self, relation: str) -> float | None:
        """The weight of the prior in lists of a relation; None for the trained one."""
        settings = self.recommend.get(relation)
        return self.export.prior if settings is None or settings.prior is None else settings.prior

    @model_validator(mode="after")
    def _check_earlier(self) -> Config:
        warm_start, anchor = self.training.warm_start, self.training.anchor
        places = {
            "training.warm_start.from": None if warm_start is None else warm_start.source,
            "training.anchor.to": None if anchor is None else anchor.to,
            "export.align": self.export.align,
            "export.map.to": None if self.export.map is None else self.export.map.to,
        }
        for key, place in places.items():
            if place is not None and self.earlier_place(place) is None:
                raise ValueError(f"{key}: previous needs prepare.previous, the run root of the version before")
        return self

    def earlier_place(self, place: str) -> str | None:
        """The run root or series that `place` names: itself, or for `previous` that of `prepare.previous`, if any."""
        return getattr(self.prepare, "previous", None) if place == PREVIOUS else place

    @model_validator(mode="after")
    def _check_export(self) -> Config:
        export, tables = self.export, [table.name for table in self.model.embeddings.tables]
        export.check_dim(self.model.dim)
        if export.faiss is not None:
            _check_names("export.faiss.tables", export.faiss.tables, "table", export.tables or tables)
        export.check_folders(export.tables or tables)
        for relation in self.model.relations if export.align is not None else []:
            if relation.operator not in ROTATABLE_OPERATORS:
                raise ValueError(
                    f"export.align: relation {relation.name} has the operator {relation.operator}, which does not "
                    f"commute with rotations as {', '.join(ROTATABLE_OPERATORS)} do; use training.anchor instead"
                )
        if export.query_side is None:
            return self
        relations = [relation.name for relation in self.model.relations]
        if "*" not in relations:
            _check_names("export.query_side", [export.query_side], "relation", relations)
        comparator = self.model.comparator
        if comparator not in ("dot", "cos"):
            raise ValueError(
                f"export.query_side: the comparator {comparator} scores by distance, not by dot product; remove it, "
                "and apply the operator of relations.parquet to the lhs instead"
            )
        if export.normalize != (comparator == "cos"):
            raise ValueError(
                f"export.query_side: with the comparator {comparator}, dot products are scores only with "
                f"export.normalize: {str(comparator == 'cos').lower()}"
            )
        return self


def _check_names(key: str, given: Iterable[str], kind: str, known: list[str]) -> None:
    names = set(known)
    for name in given:
        if name not in names:
            raise ValueError(f"{key}: no {kind} named {name!r}; there are {', '.join(sorted(known))}")
