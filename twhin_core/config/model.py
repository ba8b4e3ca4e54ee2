"""The section `model`: tables, relations, scoring and the loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from twhin_core.config.numbers import Name, PriorWeight, Scale, Strength
from twhin_core.config.optimizer import Optimizer
from twhin_core.config.relation import Relation, check_negatives, negative_relations
from twhin_core.config.section import Section
from twhin_core.config.tables import Embeddings, Table


class Regularization(Section):
    """A penalty λ·Σ|x|^power on the two nodes and the relation of every positive edge."""

    tables: Strength = Field(0.0, description="λ for the vectors of an edge's nodes.")
    relations: Strength = Field(0.0, description="λ for the parameters of an edge's relation.")
    power: Literal[2, 3] = Field(
        3,
        description="2: squared L2 norm; 3: N3, the cubed L3 norm (Lacroix et al., 2018). With complex_diagonal, |x| "
        "is the modulus of a complex coordinate.",
    )

    @model_validator(mode="after")
    def _check_strength(self) -> Regularization:
        if not self.tables and not self.relations:
            raise ValueError("needs tables, relations or both above 0; remove it for no penalty")
        return self


class Prior(Section):
    """Adds weight · log p to the logit of every candidate: p is its share of the relation's training edges."""

    weight: Literal["learned"] | PriorWeight = Field(
        "learned",
        description="The weight of log p: a number for all relations and sides, or `learned`, which starts at 0.5 and "
        "is learned for each relation and side.",
    )
    sides: list[Literal["rhs", "lhs"]] = Field(
        ["rhs", "lhs"],
        min_length=1,
        description="Which queries it applies to: `rhs` for (lhs, rel, ?), `lhs` for (?, rel, rhs).",
    )

    @model_validator(mode="after")
    def _check_sides(self) -> Prior:
        if len(set(self.sides)) < len(self.sides):
            raise ValueError(f"sides: each may be listed once; got {', '.join(self.sides)}")
        return self


class Model(Section):
    """Tables, relations, scoring and the loss."""

    embeddings: Embeddings = Field(description="The embedding tables.")
    relations: list[Relation] = Field(
        min_length=1, max_length=50_000, description="In the order of the ids in the edges' `rel` column."
    )
    target: Name | None = Field(
        None,
        description="(ours) The relation that the model is for. Training then finds, for each other relation, a weight "
        "from 0 to 1 by whether it helps to predict the target's validation edges, and the validation loss is the "
        "target's alone. Default: none; all relations weigh what they say.",
    )
    translation_optimizer: Optimizer = Field(description="Optimizer of the relations' parameters.")
    comparator: Literal["dot", "cos", "l2", "squared_l2"] = Field(
        "dot", description="(ours) Similarity of two vectors. Distances are negated, so that closer means higher."
    )
    loss: Literal["bce", "softmax", "ranking"] = Field(
        "bce",
        description="(ours) `bce`: binary cross-entropy, with a positive's negatives weighing together as much as it; "
        "`softmax`: cross-entropy of the positive among its negatives; `ranking`: every negative must score at least "
        "`margin` below the positive.",
    )
    margin: Scale = Field(0.1, description="(ours) Margin of the ranking loss.")
    temperature: Scale = Field(1.0, description="(ours) Divides the scores before the softmax.")
    reciprocal: bool = Field(
        False,
        description="(ours) Give each relation a separate inverse for head queries (?, r, t). With the dot product, "
        "heads are otherwise ranked independently of the relation.",
    )
    init_std: Scale = Field(
        0.01, description="(ours) Standard deviation of the tables' initial weights; relations start at zero."
    )
    regularization: Regularization | None = Field(
        None, description="(ours) A penalty on large weights, against overfitting. Default: none."
    )
    relation_prediction: Strength = Field(
        0.0,
        description="(ours) Weight of an auxiliary objective: predicting an edge's relation from its nodes (Chen et "
        "al., 2021). For graphs with many relations. Needs the dot product and one operator for all relations: "
        "translation, diagonal or complex_diagonal.",
    )

    prior: Prior | None = Field(
        None,
        description="(ours) Part of the score for how many training edges a candidate has, so that vectors need not "
        "express popularity. Needs the comparator dot or cos. Default: none.",
    )

    @model_validator(mode="after")
    def _check_prior(self) -> Model:
        if self.prior is not None and self.comparator not in ("dot", "cos"):
            raise ValueError(
                f"prior: needs comparator: dot or cos, to whose inner product it adds one more coordinate, not "
                f"{self.comparator}"
            )
        return self

    @model_validator(mode="after")
    def _check_relation_prediction(self) -> Model:
        if not self.relation_prediction:
            return self
        if apart := sorted(negative_relations(self.relations)):
            raise ValueError(
                f"relation_prediction: would predict {apart[0]}, which has explicit negatives alone; remove it, or the "
                "negatives"
            )
        operators = {relation.operator for relation in self.relations}
        if self.comparator != "dot":
            raise ValueError(f"relation_prediction: needs comparator: dot, not {self.comparator}")
        if len(operators) > 1 or not operators <= {"translation", "diagonal", "complex_diagonal"}:
            raise ValueError(
                "relation_prediction: needs the operator translation, diagonal or complex_diagonal for all relations; "
                f"there are {', '.join(sorted(operators))}"
            )
        return self

    @model_validator(mode="after")
    def _check_model(self) -> Model:
        tables = {table.name for table in self.embeddings.tables}
        seen: set[str] = set()
        for position, relation in enumerate(self.relations):
            if relation.name in seen:
                raise ValueError(f"relations.{position}.name: {relation.name!r} is listed twice")
            seen.add(relation.name)
            for side in ("lhs", "rhs"):
                if (table := getattr(relation, side)) not in tables:
                    raise ValueError(
                        f"relations.{position}.{side}: no table named {table!r}; there are {', '.join(sorted(tables))}"
                    )
        check_negatives(self.relations)
        for key, default, loss in (("temperature", 1.0, "softmax"), ("margin", 0.1, "ranking")):
            if self.loss != loss and getattr(self, key) != default:
                raise ValueError(f"{key}: has no effect on the {self.loss} loss; set loss: {loss} or remove it")
        if (name := self.translation_optimizer.name) in ("rowwise_adagrad", "spherical_adagrad"):
            raise ValueError(f"translation_optimizer: {name} is for tables; use adagrad")
        if (
            self.regularization is not None
            and self.regularization.relations
            and all(relation.operator == "identity" for relation in self.relations)
        ):
            raise ValueError("regularization.relations: has no effect, the identity has no parameters; remove it")
        return self

    @model_validator(mode="after")
    def _check_target(self) -> Model:
        names = sorted(relation.name for relation in self.relations)
        if self.target is None or "*" in names:
            return self
        if self.target not in names:
            raise ValueError(f"target: no relation named {self.target!r}; there are {', '.join(names)}")
        if self.target in negative_relations(self.relations):
            raise ValueError(f"target: {self.target} has explicit negatives alone, which are not trained on as edges")
        if len(names) == 1:
            raise ValueError("target: has no effect, there is no other relation to weigh; remove it")
        return self

    @model_validator(mode="after")
    def _check_unit_rows(self) -> Model:
        if all(table.is_spherical for table in self.embeddings.tables):
            if self.init_std != 0.01:
                raise ValueError("init_std: has no effect, spherical_adagrad gives rows length 1; remove it")
            if self.regularization is not None and self.regularization.tables:
                raise ValueError("regularization.tables: rows keep length 1 under spherical_adagrad; remove it")
        return self

    @property
    def dim(self) -> int:
        return self.embeddings.tables[0].embedding_dim

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those of the relations and of each table."""
        return [self.translation_optimizer, *(table.optimizer for table in self.embeddings.tables)]

    def has_prior(self, side: str) -> bool:
        """Whether the scores of candidates for that side include the prior."""
        return self.prior is not None and side in self.prior.sides

    def table(self, name: str) -> Table:
        return next(table for table in self.embeddings.tables if table.name == name)
