"""Training steps written out plainly on dense tables, edge by edge, with no code of the model's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Operate = Callable[[Tensor, Tensor], Tensor]
"""What a relation's parameters make of a vector."""


def complex_product(parameters: Tensor, vector: Tensor) -> Tensor:
    product = torch.complex(*parameters.chunk(2)) * torch.complex(*vector.chunk(2))
    return torch.cat([product.real, product.imag])


OPERATORS: dict[str, Operate] = {
    "identity": lambda _, vector: vector,
    "translation": lambda parameters, vector: vector + parameters,
    "diagonal": lambda parameters, vector: vector * parameters,
    "complex_diagonal": complex_product,
    "linear": lambda parameters, vector: parameters @ vector,
    "affine": lambda parameters, vector: parameters[:, :-1] @ vector + parameters[:, -1],
}


@dataclass
class PlainEdge:
    """An edge, and the nodes it is corrupted with on each side; a node that is the true one does not count."""

    lhs: int
    rel: int
    rhs: int
    weight: float
    lhs_negatives: list[int]
    rhs_negatives: list[int]


@dataclass
class PlainModel:
    """Dense parameters: a table a kind of node, the relations', and those of the inverse relations if there are."""

    tables: dict[str, Tensor]
    relation_tables: list[tuple[str, str]]
    operate: Operate
    relations: Tensor
    inverse: Tensor | None
    cosine: bool
    loss: str
    temperature: float
    favour: Callable[[str, int, int], float] = lambda *_: 1.0
    """How much likelier than uniformly a node is drawn for a side of a relation's edges; what logQ corrects for."""

    def loss_of(self, edges: list[PlainEdge]) -> Tensor:
        total = torch.zeros(())
        for edge in edges:
            lhs_table, rhs_table = (self.tables[name] for name in self.relation_tables[edge.rel])

            def tail_score(s: Tensor, t: Tensor, rel: int = edge.rel) -> Tensor:
                return self._compare(self.operate(self.relations[rel], s), t)

            def head_score(s: Tensor, t: Tensor, rel: int = edge.rel) -> Tensor:
                if self.inverse is None:
                    return tail_score(s, t, rel)
                return self._compare(self.operate(self.inverse[rel], t), s)

            s, t = lhs_table[edge.lhs], rhs_table[edge.rhs]
            tails = [edge.rhs, *(node for node in edge.rhs_negatives if node != edge.rhs)]
            heads = [edge.lhs, *(node for node in edge.lhs_negatives if node != edge.lhs)]
            both = self._loss(
                [tail_score(s, rhs_table[node]) for node in tails],
                [math.log(self.favour("rhs", edge.rel, node)) for node in tails],
            ) + self._loss(
                [head_score(lhs_table[node], t) for node in heads],
                [math.log(self.favour("lhs", edge.rel, node)) for node in heads],
            )
            total = total + edge.weight * both / 2
        return total / len(edges)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        product = (a * b).sum()
        return product / (a.norm() * b.norm()) if self.cosine else product

    def _loss(self, scores: list[Tensor], corrections: list[float]) -> Tensor:
        """Of the positive, which comes first, and its negatives."""
        if self.loss == "softmax":
            logits = torch.stack(scores) / self.temperature - torch.tensor(corrections)
            return -torch.log(torch.exp(logits[0]) / torch.exp(logits).sum())
        positive, *negatives = [score - correction for score, correction in zip(scores, corrections, strict=True)]
        wrong = [-torch.log(1 - torch.sigmoid(score)) for score in negatives]
        return -torch.log(torch.sigmoid(positive)) + (sum(wrong) / len(wrong) if wrong else 0.0)

    def step(self, edges: list[PlainEdge], update: Update, lr_relations: float) -> float:
        """Learns from `edges`: tables by `update`, relations by plain gradient descent."""
        relations = [self.relations] + ([self.inverse] if self.inverse is not None else [])
        parameters = [*self.tables.values(), *(relation for relation in relations if relation.numel())]
        for parameter in parameters:
            parameter.requires_grad_(True)
        loss = self.loss_of(edges)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                assert gradient.abs().sum() > 0, "every parameter must learn"
                is_relation = place >= len(self.tables)
                change = lr_relations * gradient if is_relation else update.change(place, gradient)
                parameter.copy_(parameter - change)
        return float(loss.detach())


class Update:
    """Plain gradient descent, lr 0.1."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor | float] = {}

    def change(self, table: int, gradient: Tensor) -> Tensor:
        """What is taken from the weights of a table."""
        return 0.1 * gradient


class Adagrad(Update):
    def squares(self, gradient: Tensor) -> Tensor:
        return gradient.square()

    def change(self, table: int, gradient: Tensor) -> Tensor:
        self.sums[table] = self.sums.get(table, 0.0) + self.squares(gradient)
        return 0.1 * gradient / (self.sums[table] ** 0.5 + 1e-8)


class RowwiseAdagrad(Adagrad):
    def squares(self, gradient: Tensor) -> Tensor:
        return gradient.square().mean(1, keepdim=True)


UPDATES: dict[str, type[Update]] = {"sgd": Update, "adagrad": Adagrad, "rowwise_adagrad": RowwiseAdagrad}
