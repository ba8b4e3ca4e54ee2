"""What a checkpoint and a model must have in common."""

from __future__ import annotations

from pydantic import BaseModel

from twhin_core.config import Config
from twhin_core.config.model import Prior
from twhin_core.schema import Schema


class ModelDescription(BaseModel):
    """The properties that a checkpoint and a model must share."""

    tables: dict[str, int]
    dim: int
    relations: list[str]
    operators: list[str]
    comparator: str
    reciprocal: bool
    prior: list[str] | None = None
    """The sides with a prior, and whether its weight is learned."""
    target: str | None = None
    """The relation whose weight is fixed while those of the others are found."""
    optimizers: dict[str, str]
    content: dict[str, list[int]] = {}
    """By table, the length of its vectors of content, the number of categories and of their values."""


def model_description(config: Config, schema: Schema) -> ModelDescription:
    model = config.model
    optimizers = {table.name: table.optimizer.name for table in model.embeddings.tables}
    return ModelDescription(
        tables=schema.tables,
        dim=model.dim,
        relations=[relation.name for relation in schema.relations],
        operators=[relation.operator for relation in schema.relations],
        comparator=model.comparator,
        reciprocal=model.reciprocal,
        prior=None if model.prior is None else _prior_description(model.prior),
        target=model.target,
        optimizers={**optimizers, "relations": model.translation_optimizer.name},
        content={table: [of.dim, of.categories, of.values] for table, of in schema.content.items()},
    )


def _prior_description(prior: Prior) -> list[str]:
    return [*sorted(prior.sides), "learned" if prior.weight == "learned" else "fixed"]


# Properties that only matter for resuming, not for loading weights.
NOT_OF_WEIGHTS = {"comparator", "optimizers", "prior", "target"}
