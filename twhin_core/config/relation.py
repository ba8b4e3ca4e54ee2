"""The entries of `model.relations`: types of edges, and which of them are explicit negatives of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from twhin_core import plugins
from twhin_core.config.numbers import Decay, Name, Negatives, Scale
from twhin_core.config.section import Section

OPERATORS = ("identity", "translation", "diagonal", "complex_diagonal", "linear", "affine")
"""Built-in operators; other packages can add more."""
ROTATABLE_OPERATORS = ("identity", "translation", "linear", "affine")
"""Those that remain of their kind, with other parameters, if an orthogonal matrix multiplies all vectors."""
Operator = Annotated[str, AfterValidator(lambda name: plugins.check_name(plugins.OPERATORS, name, OPERATORS))]


class ExplicitNegatives(Section):
    """Edges of another relation that are negatives of this one's queries (lhs, rel, ?)."""

    relation: Name = Field(
        description="The relation that holds them, which needs an entry of its own in `model.relations`."
    )
    per_positive: Annotated[Negatives, Field(gt=0)] = Field(
        5, description="At most so many of the lhs's explicit negatives join the drawn negatives of each positive."
    )
    share: Decay = Field(
        0.2,
        description="What they weigh together, as a share of the weight of all negatives of a positive, the drawn ones "
        "included. 0: they do not count in the loss.",
    )


class Relation(Section):
    """A type of edge."""

    name: Name = Field(
        description="Unique. `*` matches every value of the source's relation column that has no entry of its own.",
    )
    lhs: str = Field(description="Table of the edge's source.")
    rhs: str = Field(description="Table of the edge's target.")
    operator: Operator = Field(
        "translation",
        description="Transforms the lhs x. `identity`: x; `translation`: x + θ; `diagonal`: θ ∘ x; `complex_diagonal`: "
        "θ ∘ x as complex numbers (real parts in the first half); `linear`: A·x; `affine`: A·x + b; or the name of an "
        "entry point in the group `twhin.operators`.",
    )
    weight: Scale = Field(1.0, description="(ours) Multiplies the weights of its edges in the loss.")
    symmetric: bool = Field(
        False,
        description="(ours) For relations without direction, such as friendship. `prepare` treats a pair and its "
        "reverse as one edge, which it puts in one split and writes in both directions. Needs both ends in one table.",
    )
    negatives: ExplicitNegatives | None = Field(
        None,
        description="(ours) Pairs that are known to be negative, such as dislikes, mutes, or impressions without a "
        "click: another relation between the same tables, whose edges then serve for nothing else. See "
        "[explicit negatives](negatives.md).",
    )

    @model_validator(mode="after")
    def _check_symmetry(self) -> Relation:
        if self.symmetric and self.lhs != self.rhs:
            raise ValueError(f"symmetric: needs both ends in one table, not {self.lhs} and {self.rhs}")
        return self


def negative_relations(relations: Iterable[Relation]) -> set[str]:
    """The names of the relations that are explicit negatives of another."""
    return {relation.negatives.relation for relation in relations if relation.negatives is not None}


def check_negatives(relations: Sequence[Relation]) -> None:
    """Raises ValueError if the negatives of a relation are no other relation that fits."""
    given = {relation.name: relation for relation in relations if relation.name != "*"}
    for position, relation in enumerate(relations):
        if relation.negatives is None:
            continue
        key, name = f"relations.{position}.negatives.relation", relation.negatives.relation
        if name == relation.name:
            raise ValueError(f"{key}: {name} cannot be its own negatives; name another relation")
        if (other := given.get(name)) is None:
            raise ValueError(
                f"{key}: no relation named {name!r} has an entry of its own; there are {', '.join(sorted(given))}"
            )
        if other.negatives is not None:
            raise ValueError(f"{key}: {name} has negatives itself, but its edges would not be trained on")
        if (other.lhs, other.rhs) != (relation.lhs, relation.rhs):
            raise ValueError(
                f"{key}: {name} leads from {other.lhs} to {other.rhs}, but {relation.name} from {relation.lhs} to "
                f"{relation.rhs}"
            )
        if other.symmetric != relation.symmetric:
            raise ValueError(f"{key}: {name} and {relation.name} must both be symmetric or neither")
