"""Training steps on dense tables, query by query, written without the model's code."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Operate = Callable[[Tensor, Tensor], Tensor]
"""Applies a relation's parameters to vectors, one a row."""


def complex_product(parameters: Tensor, vectors: Tensor) -> Tensor:
    product = torch.complex(*parameters.chunk(2)) * torch.complex(*vectors.chunk(2, 1))
    return torch.cat([product.real, product.imag], 1)


OPERATORS: dict[str, Operate] = {
    "identity": lambda _, vectors: vectors,
    "translation": lambda parameters, vectors: vectors + parameters,
    "diagonal": lambda parameters, vectors: vectors * parameters,
    "complex_diagonal": complex_product,
    "linear": lambda parameters, vectors: vectors @ parameters.T,
    "affine": lambda parameters, vectors: vectors @ parameters[:, :-1].T + parameters[:, -1],
}


@dataclass
class PlainQuery:
    """An edge as a query for its `side`, and its negatives; a negative that is the true node is masked."""

    side: str
    lhs: int
    rel: int
    rhs: int
    weight: float
    negatives: list[int]
    has_self: bool = False
    """Whether the query's own node is one more negative, if it is in the same table."""
    explicit: list[int] = field(default_factory=list)
    """Its explicit negatives."""


@dataclass
class PlainModel:
    """Dense parameters: one tensor per table, the relations' and, if any, the inverse relations'."""

    tables: dict[str, Tensor]
    relation_tables: list[tuple[str, str]]
    operate: Operate
    relations: Tensor
    inverse: Tensor | None
    cosine: bool
    loss: str
    temperature: float
    favour: Callable[[str, int, int], float] = lambda *_: 1.0
    """How much likelier than uniformly a node is drawn for a side of a relation's edges, which logQ corrects."""
    penalty: tuple[float, float, int] = (0.0, 0.0, 3)
    """λ of an edge's nodes, λ of its relation, and the power of the absolute values that are summed."""
    full: bool = False
    """Whether the negatives together weigh as much as all rows of their table."""
    at_most: tuple[int, int] | None = None
    """N in-batch and M global negatives, if a table may have fewer than M rows, which then count as so many."""
    explicit_share: float = 0.0
    """What explicit negatives weigh together, as a share of the weight of all negatives."""
    prior: Tensor | None = None
    """The weights of the prior by relation and side, lhs before rhs."""
    log_share: Callable[[str, int, int], float] = lambda *_: 0.0
    """log p of a node as a candidate for a side of a relation's edges."""
    learns_prior: bool = False
    """By Adagrad, lr 0.005."""
    prior_squares: Tensor | float = 0.0
    is_complex: bool = False
    """Whether the coordinates are complex numbers, the real halves first."""

    def loss_of(self, queries: list[PlainQuery]) -> Tensor:
        """The mean over both sides of all edges."""
        total = torch.zeros(())
        for query in queries:
            true = query.lhs if query.side == "lhs" else query.rhs
            nodes = [true, *(node for node in query.negatives if node != true)]
            corrections = [math.log(self.favour(query.side, query.rel, node)) for node in nodes]
            if query.has_self and self._is_within(query) and query.lhs != query.rhs:
                nodes.append(query.lhs if query.side == "rhs" else query.rhs)
                corrections.append(0.0)
            if weight := self._weight(query):
                corrections[1:] = [
                    correction - math.log(weight / len(query.negatives)) for correction in corrections[1:]
                ]
            scores = self._scores(query, nodes + query.explicit)
            drawn, explicit = scores[: len(nodes)], scores[len(nodes) :]
            loss = self._loss(drawn, corrections, explicit, weight or len(query.negatives))
            total = total + query.weight * (loss + self._penalty(query))
        return total / len(queries)

    def _weight(self, query: PlainQuery) -> int | None:
        """What the negatives together weigh in a softmax; None for as many as there are."""
        rows = len(self.tables[self.relation_tables[query.rel][0 if query.side == "lhs" else 1]])
        if self.full:
            return rows
        if self.at_most is None or self.loss != "softmax":
            return None
        in_batch, uniform = self.at_most
        return in_batch + min(uniform, rows)

    def _is_within(self, query: PlainQuery) -> bool:
        lhs_table, rhs_table = self.relation_tables[query.rel]
        return lhs_table == rhs_table

    def _penalty(self, query: PlainQuery) -> Tensor:
        """The penalty of one query; each edge has two."""
        tables, relations, power = self.penalty
        lhs_table, rhs_table = (self.tables[name] for name in self.relation_tables[query.rel])
        of = self.relations if query.side == "rhs" or self.inverse is None else self.inverse
        vectors = self._powers(lhs_table[query.lhs], power) + self._powers(rhs_table[query.rhs], power)
        return tables * vectors + relations * self._powers(of[query.rel], power)

    def _powers(self, vector: Tensor, power: int) -> Tensor:
        coordinates = torch.complex(*vector.chunk(2)) if self.is_complex else vector
        return (coordinates.abs() ** power).sum()

    def _scores(self, query: PlainQuery, nodes: list[int]) -> Tensor:
        """The scores of the query's edge with each of `nodes` on the query's side."""
        lhs_table, rhs_table = (self.tables[name] for name in self.relation_tables[query.rel])
        s = lhs_table[nodes if query.side == "lhs" else [query.lhs]]
        t = rhs_table[nodes if query.side == "rhs" else [query.rhs]]
        prior = torch.zeros(())
        if self.prior is not None:
            weight = self.prior[query.rel, 0 if query.side == "lhs" else 1]
            log_shares = torch.tensor([self.log_share(query.side, query.rel, node) for node in nodes])
            prior = weight * self.temperature * log_shares
        if query.side == "lhs" and self.inverse is not None:
            return self._compare(self.operate(self.inverse[query.rel], t), s) + prior
        return self._compare(self.operate(self.relations[query.rel], s), t) + prior

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        products = (a * b).sum(1)
        return products / (a.norm(dim=1) * b.norm(dim=1)) if self.cosine else products

    def _loss(self, scores: Tensor, corrections: list[float], explicit: Tensor, drawn: int) -> Tensor:
        """The loss of the positive, which comes first, against its negatives, of which `drawn` weigh 1 each."""
        share = self.explicit_share if len(explicit) else 0.0
        if self.loss == "softmax":
            logits = scores / self.temperature - torch.tensor(corrections)
            total = torch.exp(logits).sum()
            if len(explicit):  # together share · (drawn + theirs), not corrected
                total = total + share / (1 - share) * drawn * torch.exp(explicit / self.temperature).mean()
            return -torch.log(torch.exp(logits[0]) / total)
        corrected = scores - torch.tensor(corrections)
        wrong, known = (-torch.log(1 - torch.sigmoid(of)) for of in (corrected[1:], explicit))
        loss = -torch.log(torch.sigmoid(corrected[0]))
        if len(wrong):
            loss = loss + (1 - share) * wrong.mean()
        return loss + share * known.mean() if len(known) else loss

    def step(self, queries: list[PlainQuery], update: Update, lr_relations: float) -> float:
        """Trains on `queries`: tables by `update`, relations by plain gradient descent."""
        relations = [self.relations] + ([self.inverse] if self.inverse is not None else [])
        parameters = [*self.tables.values(), *(relation for relation in relations if relation.numel())]
        if self.prior is not None and self.learns_prior:
            parameters.append(self.prior)
        for parameter in parameters:
            parameter.requires_grad_(True)
        loss = self.loss_of(queries)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                assert gradient.abs().sum() > 0, "every parameter must learn"
                if parameter is self.prior:
                    self.prior_squares = self.prior_squares + gradient.square()
                    change = 0.005 * gradient / (self.prior_squares.sqrt() + 1e-10)
                elif place >= len(self.tables):
                    change = lr_relations * gradient
                else:
                    change = update.change(place, gradient, parameter)
                parameter.copy_(parameter - change)
        return float(loss.detach())


class Update:
    """Plain gradient descent, lr 0.1."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor | float] = {}

    def change(self, table: int, gradient: Tensor, weight: Tensor) -> Tensor:
        """What to subtract from the weights of a table."""
        return 0.1 * gradient


class Adagrad(Update):
    def squares(self, gradient: Tensor) -> Tensor:
        return gradient.square()

    def change(self, table: int, gradient: Tensor, weight: Tensor) -> Tensor:
        self.sums[table] = self.sums.get(table, 0.0) + self.squares(gradient)
        return 0.1 * gradient / (self.sums[table] ** 0.5 + 1e-8)


class RowwiseAdagrad(Adagrad):
    def squares(self, gradient: Tensor) -> Tensor:
        return gradient.square().mean(1, keepdim=True)


class SphericalAdagrad(Adagrad):
    """Rows of length 1: steps along the tangent by an angle, then back to the sphere."""

    def squares(self, gradient: Tensor) -> Tensor:
        return gradient.square().sum(1, keepdim=True)

    def change(self, table: int, gradient: Tensor, weight: Tensor) -> Tensor:
        tangent = torch.stack([g - (g @ row) / (row @ row) * row for g, row in zip(gradient, weight, strict=True)])
        moved = weight - super().change(table, tangent, weight)
        return weight - moved / moved.norm(dim=1, keepdim=True)


UPDATES: dict[str, type[Update]] = {
    "sgd": Update,
    "adagrad": Adagrad,
    "rowwise_adagrad": RowwiseAdagrad,
    "spherical_adagrad": SphericalAdagrad,
}
