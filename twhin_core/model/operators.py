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
from torch import Tensor, nn

from twhin_core import plugins
from twhin_core.config import Relation


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

    def bias(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        """⟨b, y⟩ for vectors [..., dim] → [...]."""
        return vectors.new_zeros(index.shape)

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

    def bias(self, parameters: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        return (_rows(parameters[:, :, -1], index) * vectors).sum(-1)


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


class RelationOperators(nn.Module):
    """The operator of every relation. Each kind has one parameter, named after it, with one row per relation."""

    def __init__(self, relations: list[Relation], dim: int) -> None:
        super().__init__()
        names = [relation.operator for relation in relations]
        self._kinds = [kind for kind in OPERATORS if kind in names] + sorted(set(names) - set(OPERATORS))
        counts = dict.fromkeys(self._kinds, 0)
        within = []
        for name in names:
            within.append(counts[name])
            counts[name] += 1
        number = {kind: position for position, kind in enumerate(self._kinds)}
        self.register_buffer("_kind", torch.tensor([number[name] for name in names]), persistent=False)
        self.register_buffer("_within", torch.tensor(within), persistent=False)
        for kind, count in counts.items():
            self.register_parameter(kind, nn.Parameter(find(kind).initial(count, dim)))

    def forward(self, rel: Tensor, vectors: Tensor) -> Tensor:
        """operator_rel(x): rel [...] and vectors [..., dim] → [..., dim]."""
        return self._by_kind(rel, vectors, vectors, lambda kind: kind.apply)

    def adjoint(self, rel: Tensor, vectors: Tensor) -> Tensor:
        """Aᵀ_rel·y: rel [...] and vectors [..., dim] → [..., dim]."""
        return self._by_kind(rel, vectors, vectors, lambda kind: kind.adjoint)

    def bias(self, rel: Tensor, vectors: Tensor) -> Tensor | None:
        """⟨b_rel, y⟩: rel [...] and vectors [..., dim] → [...]; None if no operator has a bias."""
        if not any(find(kind).has_bias for kind in self._kinds):
            return None
        return self._by_kind(rel, vectors, vectors[..., 0], lambda kind: kind.bias)

    def powers(self, rel: Tensor, vectors: Tensor, power: int) -> Tensor:
        """Σ_i |x_i|^power over the coordinates that operator_rel sees: rel [...] and vectors [..., dim] → [...]."""
        return self._by_kind(rel, vectors, vectors[..., 0], lambda kind: lambda _, __, rows: kind.powers(rows, power))

    def factors(self, vectors: Tensor, others: Tensor, relations: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """φ and θ with φ @ θᵀ = ⟨operator_rel(x), y⟩ up to a constant, for distinct `relations` [n] or for all.

        x and y [..., dim] → φ [..., dim] and θ [n, dim]. All relations must have the same kind of operator.
        """
        (kind,) = self._kinds
        theta = self.get_parameter(kind)
        return find(kind).features(vectors, others), theta if relations is None else theta.index_select(0, relations)

    def cost(self, weight: Tensor, power: int) -> Tensor:
        """Σ_rel weight_rel · Σ_i |θ_rel,i|^power over all relations' parameters: weight [relations] → a scalar."""
        total = weight.new_zeros(())
        for number, kind in enumerate(self._kinds):
            powers = find(kind).powers(self.get_parameter(kind).flatten(1), power)
            # Selecting relations makes the host wait for a GPU.
            of_kind = weight if len(self._kinds) == 1 else weight[self.get_buffer("_kind") == number]
            total = total + (of_kind * powers).sum()
        return total

    @property
    def has_fixed_shapes(self) -> bool:
        """As `Operator.has_fixed_shapes`; several kinds are told apart by their relations."""
        return len(self._kinds) == 1 and find(self._kinds[0]).has_fixed_shapes

    @property
    def relations(self) -> int:
        """The number of relations."""
        return len(self.get_buffer("_kind"))

    def of(self, rel: int) -> Tensor:
        """The parameters of one relation, flattened; for a translation, its vector."""
        within: Tensor = self.get_buffer("_within")
        kind: Tensor = self.get_buffer("_kind")
        return self.get_parameter(self._kinds[int(kind[rel])])[int(within[rel])].flatten()

    def _by_kind(
        self, rel: Tensor, vectors: Tensor, like: Tensor, method: Callable[[Operator], Callable[..., Tensor]]
    ) -> Tensor:
        """Applies a method of each relation's operator; the result has the shape and dtype of `like`.

        Under autocast, operators that multiply matrices return its dtype.
        """
        within = self.get_buffer("_within")[rel]
        if len(self._kinds) == 1:
            (kind,) = self._kinds
            return method(find(kind))(self.get_parameter(kind), within, vectors).to(like.dtype)
        kinds, within = self.get_buffer("_kind")[rel].flatten(), within.flatten()
        vectors, result = vectors.reshape(-1, vectors.shape[-1]), torch.zeros_like(like).flatten(0, rel.dim() - 1)
        for number, kind in enumerate(self._kinds):
            rows = (kinds == number).nonzero().squeeze(1)
            part = method(find(kind))(self.get_parameter(kind), within[rows], vectors[rows])
            result = result.index_copy(0, rows, part.to(like.dtype))
        return result.view_as(like)


def _rows(parameters: Tensor, index: Tensor) -> Tensor:
    """parameters[index]: [R, dim] and [...] → [..., dim]."""
    if len(parameters) == 1:
        return parameters[0].expand(*index.shape, -1)
    if parameters.is_cuda:
        return F.embedding(index, parameters)  # sums its gradients in a fixed order
    # index_select, because the backward pass of plain indexing is several times slower on a CPU.
    return parameters.index_select(0, index.flatten()).view(*index.shape, -1)


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
