"""The operators of all relations of a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from twhin_core.config import Relation
from twhin_core.model.operators import OPERATORS, Operator, find


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

    def inverse(self, rel: Tensor, vectors: Tensor, exact: bool) -> Tensor:
        """A⁺_rel·(y - b_rel), or Aᵀ_rel·(y - b_rel) unless `exact`: rel [...] and vectors [..., dim] → [..., dim]."""
        linear = vectors - self(rel, torch.zeros_like(vectors))
        return self._by_kind(rel, linear, linear, lambda kind: kind.inverse if exact else kind.adjoint)

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

    @torch.no_grad()
    def rotate(self, rotation: Tensor) -> None:
        """Changes the parameters to those of the operators on vectors x·Q. `rotation`: Q, orthogonal [dim, dim]."""
        for kind in self._kinds:
            parameters = self.get_parameter(kind)
            parameters.copy_(find(kind).rotated(parameters.double(), rotation.double()))

    @property
    def has_fixed_shapes(self) -> bool:
        """As `Operator.has_fixed_shapes`; several kinds are told apart by their relations."""
        return len(self._kinds) == 1 and find(self._kinds[0]).has_fixed_shapes

    @property
    def relations(self) -> int:
        """The number of relations."""
        return len(self.get_buffer("_kind"))

    def place(self, rel: int) -> tuple[str, int]:
        """The name of the parameter that holds a relation's values, and the row there."""
        within: Tensor = self.get_buffer("_within")
        kind: Tensor = self.get_buffer("_kind")
        return self._kinds[int(kind[rel])], int(within[rel])

    def of(self, rel: int) -> Tensor:
        """The parameters of one relation, flattened; for a translation, its vector."""
        kind, row = self.place(rel)
        return self.get_parameter(kind)[row].flatten()

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
