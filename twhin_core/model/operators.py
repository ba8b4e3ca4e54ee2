"""What a relation does to its lhs vector (`score = comparator(operator_rel(θ_lhs), θ_rhs)`).

Every operator is affine, operator(x) = A·x + b, hence ⟨operator(x), y⟩ = ⟨x, Aᵀ·y⟩ + ⟨b, y⟩: with the dot product it
can move from the candidates to the query. To add one, write its class and add it to `OPERATORS`; another package brings
one as an entry point.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core import plugins

SMALLEST_SHARE = 1e-3
"""Factors and singular values below this share of a relation's largest one count as 0 when its operator is inverted."""


class Operator(ABC):
    """A kind of operator. Its parameters have one row per relation, selected by `index` [...]."""

    has_bias = False
    has_fixed_shapes = False
    """Whether `apply` and `adjoint` take the same steps on a GPU whatever the relations, without waiting for it."""

    @abstractmethod
    def initial(self, relations: int, dim: int) -> Tensor:
        """Parameters [relations, ...] that make the operator the identity."""

    @abstractmethod
    def apply(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        """A·x + b for vectors [..., dim] → [..., dim]."""

    @abstractmethod
    def adjoint(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        """Aᵀ·y for vectors [..., dim] → [..., dim]."""

    def inverse(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        """A⁺·y, the shortest x whose image A·x is nearest to y: vectors [..., dim] → [..., dim].

        Unless overridden, it is Aᵀ·y, which is the same if A is orthogonal.
        """
        return self.adjoint(parameters, index, vectors)

    def bias(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        """⟨b, y⟩ for vectors [..., dim] → [...]."""
        return vectors.new_zeros(index.shape)

    def rotated(self, parameters: Tensor, rotation: Tensor) -> Tensor:
        """The parameters of the operator on vectors x·Q: operator'(x·Q) = operator(x)·Q.

        Args:
            parameters: [relations, ...].
            rotation: Q, orthogonal [dim, dim].
        """
        raise NotImplementedError  # the config allows only rotatable operators

    def features(self, vectors: Tensor, others: Tensor) -> Tensor:
        """φ [..., dim] with ⟨operator(x), y⟩ = ⟨θ_rel, φ(x, y)⟩ + what no relation changes, for x and y [..., dim]."""
        raise NotImplementedError  # the config allows only operators that have features

    def powers(self, vectors: Tensor, power: int) -> Tensor:
        """Σ_i |x_i|^power over the coordinates of vectors [..., n] → [...]."""
        return vectors.abs().pow(power).sum(-1)


class Identity(Operator):
    """x."""

    has_fixed_shapes = True

    def initial(self, relations: int, dim: int) -> Tensor:
        return torch.empty(relations, 0)

    def apply(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return vectors

    adjoint = apply

    def rotated(self, parameters: Tensor, rotation: Tensor) -> Tensor:
        return parameters


class Translation(Operator):
    """x + θ_rel (Bordes et al., 2013, TransE)."""

    has_bias = True
    has_fixed_shapes = True

    def initial(self, relations: int, dim: int) -> Tensor:
        return torch.zeros(relations, dim)

    def apply(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return vectors + _rows(parameters, index)

    def adjoint(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return vectors

    def bias(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return (_rows(parameters, index) * vectors).sum(-1)

    def rotated(self, parameters: Tensor, rotation: Tensor) -> Tensor:
        return parameters @ rotation

    def features(self, vectors: Tensor, others: Tensor) -> Tensor:
        return others


class Diagonal(Operator):
    """θ_rel ∘ x (Yang et al., 2015, DistMult)."""

    has_fixed_shapes = True

    def initial(self, relations: int, dim: int) -> Tensor:
        return torch.ones(relations, dim)

    def apply(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return _rows(parameters, index) * vectors

    adjoint = apply

    def inverse(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return _rows(_reciprocals(parameters, parameters.abs()), index) * vectors

    def features(self, vectors: Tensor, others: Tensor) -> Tensor:
        return vectors * others


class ComplexDiagonal(Operator):
    """θ_rel ∘ x as complex numbers, the real halves first (Trouillon et al., 2016, ComplEx).

    With the dot product the score is Re⟨θ_rel ∘ x, y̅⟩.
    """

    has_fixed_shapes = True

    def initial(self, relations: int, dim: int) -> Tensor:
        return torch.cat([torch.ones(relations, dim // 2), torch.zeros(relations, dim // 2)], 1)

    def apply(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        (a, b), (x, y) = _rows(parameters, index).chunk(2, -1), vectors.chunk(2, -1)
        return torch.cat([a * x - b * y, a * y + b * x], -1)

    def adjoint(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        (a, b), (x, y) = _rows(parameters, index).chunk(2, -1), vectors.chunk(2, -1)
        return torch.cat([a * x + b * y, a * y - b * x], -1)

    def inverse(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        # 1/z = z̄/|z|², and the adjoint multiplies by z̄.
        length = torch.hypot(*parameters.chunk(2, -1))
        return self.adjoint(parameters, index, vectors) * _rows(
            _reciprocals(length, length).square().repeat(1, 2), index
        )

    def features(self, vectors: Tensor, others: Tensor) -> Tensor:
        (a, b), (x, y) = vectors.chunk(2, -1), others.chunk(2, -1)
        return torch.cat([a * x + b * y, a * y - b * x], -1)

    def powers(self, vectors: Tensor, power: int) -> Tensor:
        """As in `Operator`, with the absolute values of the complex coordinates."""
        x, y = vectors.chunk(2, -1)
        return (x.square() + y.square()).pow(power / 2).sum(-1)


class Linear(Operator):
    """A_rel·x (Nickel et al., 2011, RESCAL)."""

    def initial(self, relations: int, dim: int) -> Tensor:
        return torch.eye(dim).repeat(relations, 1, 1)

    def apply(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return _by_relation(index, vectors, lambda rel, rows: rows @ parameters[rel].T)

    def adjoint(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return _by_relation(index, vectors, lambda rel, rows: rows @ parameters[rel])

    def inverse(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return _by_relation(index, vectors, lambda rel, rows: rows @ _pseudoinverse(parameters[rel]).T)

    def rotated(self, parameters: Tensor, rotation: Tensor) -> Tensor:
        return rotation.T @ parameters @ rotation


class Affine(Operator):
    """A_rel·x + b_rel; the parameters are [A | b]."""

    has_bias = True

    def initial(self, relations: int, dim: int) -> Tensor:
        return torch.eye(dim, dim + 1).repeat(relations, 1, 1)

    def apply(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return _by_relation(
            index, vectors, lambda rel, rows: torch.addmm(parameters[rel, :, -1], rows, parameters[rel, :, :-1].T)
        )

    def adjoint(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return _by_relation(index, vectors, lambda rel, rows: rows @ parameters[rel, :, :-1])

    def inverse(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return _by_relation(index, vectors, lambda rel, rows: rows @ _pseudoinverse(parameters[rel, :, :-1]).T)

    def bias(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return (_rows(parameters[:, :, -1], index) * vectors).sum(-1)

    def rotated(self, parameters: Tensor, rotation: Tensor) -> Tensor:
        return rotation.T @ torch.cat([parameters[:, :, :-1] @ rotation, parameters[:, :, -1:]], -1)


OPERATORS: dict[str, Operator] = {
    "identity": Identity(),
    "translation": Translation(),
    "diagonal": Diagonal(),
    "complex_diagonal": ComplexDiagonal(),
    "linear": Linear(),
    "affine": Affine(),
}


@functools.cache
def find(kind: str) -> Operator:
    """The operator of that name. Raises UserError if another package brings it and it does not load."""
    if kind in OPERATORS:
        return OPERATORS[kind]
    operator: Operator = plugins.load(plugins.OPERATORS, kind)()
    return operator


def _reciprocals(values: Tensor, lengths: Tensor) -> Tensor:
    """1 / values [R, n], or 0 where the length of a value is less than `SMALLEST_SHARE` of the longest in its row."""
    is_large = (lengths > 0) & (lengths >= SMALLEST_SHARE * lengths.amax(-1, keepdim=True))
    return torch.where(is_large, 1 / values, 0.0)


def _pseudoinverse(matrix: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.pinv(matrix, rtol=SMALLEST_SHARE)
    return inverse


def _rows(parameters: Tensor, index: Tensor) -> Tensor:
    """parameters[index]: [R, dim] and [...] → [..., dim]."""
    if len(parameters) == 1:
        return parameters[0].expand(*index.shape, -1)
    if parameters.is_cuda:
        return F.embedding(index, parameters)  # sums its gradients in a fixed order
    # index_select, because the backward pass of plain indexing is several times slower on a CPU.
    return parameters.index_select(0, index.flatten()).view(*index.shape, parameters.shape[-1])


def _by_relation(index: Tensor, vectors: Tensor, function: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Applies function(relation, its vectors [n, dim]) relation by relation.

    One matrix per vector would take dim times the memory of the vectors.
    """
    flat, order = vectors.reshape(-1, vectors.shape[-1]), index.flatten().argsort(stable=True)
    if not len(flat):
        return function(0, flat).view_as(vectors)  # empty, but gives the parameters a zero gradient
    present, counts = index.flatten()[order].unique_consecutive(return_counts=True)
    parts = flat.index_select(0, order).split(counts.tolist())
    moved = torch.cat([function(rel, rows) for rel, rows in zip(present.tolist(), parts, strict=True)])
    return moved.index_select(0, order.argsort()).view_as(vectors)
