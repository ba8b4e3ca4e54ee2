"""Operators by hand, and the identities that move them from one side of a product to the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from twhin_core.config import Relation
from twhin_core.config.relation import ROTATABLE_OPERATORS
from twhin_core.model.operators import OPERATORS, Operator
from twhin_core.model.relation_operators import RelationOperators

DIM = 4
X = torch.tensor([1.0, 2.0, 3.0, 4.0])

# The parameters of one relation, and the image of (1, 2, 3, 4).
BY_HAND: dict[str, tuple[list[float] | list[list[float]], list[float]]] = {
    "identity": ([], [1, 2, 3, 4]),
    "translation": ([1, 0, -1, 2], [2, 2, 2, 6]),
    "diagonal": ([2, 0, -1, 1], [2, 0, -3, 4]),
    # (1 + 3i)(2 + 1i) = -1 + 7i and (2 + 4i)(0 - 1i) = 4 - 2i.
    "complex_diagonal": ([2, 0, 1, -1], [-1, 4, 7, -2]),
    "linear": ([[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0], [2, 0, 0, 0]], [2, 4, 4, 2]),
    "affine": ([[0, 1, 0, 0, 1], [0, 0, 0, 1, 0], [1, 0, 1, 0, -4], [2, 0, 0, 0, 9]], [3, 4, 0, 11]),
}


def relations(*operators: str) -> list[Relation]:
    return [Relation(name=f"r{rel}", lhs="a", rhs="a", operator=kind) for rel, kind in enumerate(operators)]


def randomised(*operators: str) -> RelationOperators:
    made = RelationOperators(relations(*operators), DIM)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.normal_(generator=generator)
    return made


def test_every_operator_is_worked_out_below() -> None:
    assert set(BY_HAND) == set(OPERATORS)


@pytest.mark.parametrize("kind", BY_HAND)
def test_by_hand(kind: str) -> None:
    parameters, expected = BY_HAND[kind]
    made = RelationOperators(relations(kind), DIM)
    assert torch.equal(made(torch.tensor(0), X), X), "it begins as the identity"
    made.get_parameter(kind).data[0] = torch.tensor(parameters)
    assert made(torch.tensor(0), X).tolist() == expected
    assert made(torch.zeros(2, 3, dtype=torch.int64), X.expand(2, 3, DIM)).tolist() == [[expected] * 3] * 2


@pytest.mark.parametrize("kind", BY_HAND)
def test_moved_over_to_the_other_side_of_the_product(kind: str) -> None:
    made = randomised(kind, kind, kind)
    rel = torch.tensor([[2, 0], [1, 2]])
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 2, DIM, generator=generator), torch.randn(2, 2, DIM, generator=generator)
    moved = (x * made.adjoint(rel, y)).sum(-1)
    bias = made.bias(rel, y)
    torch.testing.assert_close((made(rel, x) * y).sum(-1), moved if bias is None else moved + bias)


def test_relations_of_several_kinds_each_have_their_own() -> None:
    kinds = ["linear", "translation", "identity", "translation", "affine", "diagonal", "complex_diagonal"]
    made = randomised(*kinds)
    rel = torch.tensor([[6, 3, 0], [1, 4, 3], [2, 5, 1]])
    vectors = torch.randn(3, 3, DIM, generator=torch.Generator().manual_seed(2))
    for method, *more in (
        ("__call__",), ("adjoint",), ("bias",), ("powers", 3), ("inverse", True), ("inverse", False),
    ):  # fmt: skip
        together = getattr(made, method)(rel, vectors, *more)
        for place in [(row, column) for row in range(3) for column in range(3)]:
            alone = RelationOperators(relations(kinds[rel[place]]), DIM)
            for parameter in alone.parameters():
                parameter.data[0] = made.of(int(rel[place])).view_as(parameter[0])
            expected: Tensor | None = getattr(alone, method)(torch.tensor(0), vectors[place], *more)
            torch.testing.assert_close(together[place], torch.tensor(0.0) if expected is None else expected)


@pytest.mark.parametrize("kind", BY_HAND)
def test_a_kind_may_be_missing_from_a_batch(kind: str) -> None:
    made = randomised(kind, kind, "translation", "diagonal", kind)
    rel, vectors = torch.tensor([2, 3, 3]), torch.randn(3, DIM, generator=torch.Generator().manual_seed(4))
    expected = torch.stack([vectors[0] + made.of(2), vectors[1] * made.of(3), vectors[2] * made.of(3)])
    torch.testing.assert_close(made(rel, vectors), expected)


def test_powers_of_parameters_by_hand() -> None:
    made = RelationOperators(relations("linear", "translation", "identity", "translation"), DIM)
    made.get_parameter("linear").data[0, 0, 1] = -2.0  # beside the four ones of the identity
    made.get_parameter("translation").data[:] = torch.tensor([[1.0, -3, 0, 0], [0, 0, 2, 0]])
    weight = torch.tensor([1.0, 10, 100, 1000])
    assert made.relations == 4
    assert made.cost(weight, 3).item() == (4 + 8) + 10 * (1 + 27) + 1000 * 8
    assert made.cost(weight, 2).item() == (4 + 4) + 10 * (1 + 9) + 1000 * 4


@pytest.mark.parametrize("kind", [kind for kind in BY_HAND if kind != "identity"])
def test_only_relations_that_occur_learn(kind: str) -> None:
    made = randomised(kind, kind, kind)
    made(torch.tensor([0, 2, 2]), X.expand(3, DIM)).square().sum().backward()
    gradient = made.get_parameter(kind).grad
    assert gradient is not None
    assert [bool(gradient[rel].any()) for rel in range(3)] == [True, False, True]


@pytest.mark.parametrize("kind", [kind for kind in BY_HAND if kind != "identity"])
def test_a_kind_that_does_not_occur_has_a_gradient_of_zero(kind: str) -> None:
    made = randomised(kind, "identity")
    rel, vectors = torch.tensor([1, 1, 1]), X.expand(3, DIM)
    for moved in (made(rel, vectors), made.adjoint(rel, vectors)):
        assert torch.equal(moved, vectors)
    made(rel, vectors).sum().backward()
    gradient = made.get_parameter(kind).grad
    assert gradient is not None
    assert not gradient.any()


def test_the_config_knows_which_operators_rotate() -> None:
    has = {kind for kind, of in OPERATORS.items() if type(of).rotated is not Operator.rotated}
    assert has == set(ROTATABLE_OPERATORS)


@pytest.mark.parametrize("kind", ROTATABLE_OPERATORS)
def test_a_rotated_operator_does_to_rotated_vectors_what_it_did(kind: str) -> None:
    made, rotated = randomised(kind, kind, kind), randomised(kind, kind, kind)
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator)).Q
    rotated.rotate(rotation)
    rel, x = torch.tensor([2, 0, 1, 1]), torch.randn(4, DIM, generator=generator)
    for moved, there in (
        (rotated(rel, x @ rotation), made(rel, x)),
        (rotated.adjoint(rel, x @ rotation), made.adjoint(rel, x)),
        (rotated.inverse(rel, x @ rotation, exact=True), made.inverse(rel, x, exact=True)),
    ):
        assert torch.allclose(moved, there @ rotation, atol=1e-4)
    bias = made.bias(rel, x)
    if bias is not None:
        assert torch.allclose(rotated.bias(rel, x @ rotation), bias, atol=1e-5)
