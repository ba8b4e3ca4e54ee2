"""Parts of a step taken by threads give what one thread gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.training.test_step import SIZES, Case, make_batches, make_config
from twhin_core.distributed.ranks import process_group
from twhin_core.model import both_sides, threads
from twhin_core.schema import Schema
from twhin_core.training.build import build


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def train(case: Case, *, amp: bool, in_threads: bool) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of three steps, and the weights and optimizer state after them."""
    config = make_config(case)
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"enable_amp": amp})})
    if not in_threads:
        torch.set_num_threads(1)
    with process_group() as ranks:
        model = build(config, Schema(SIZES, config.model.relations), ranks)
        losses = [float(model.step(make_batches(config, step)[1][0])) for step in range(3)]
        return losses, {name: value.clone() for name, value in model.state().items()}  # type: ignore[union-attr]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        Case("adagrad", "row_wise", reciprocal=True, has_self=True, logq=True),
        Case("rowwise_adagrad", "row_wise", "bce", operator="linear"),
        Case("spherical_adagrad", "row_wise", operator="diagonal", penalty=(0.0, 0.05, 3)),
        Case("sgd", "row_wise", "softmax", "cos", operator="identity", in_batch=0),
    ],
    ids=str,
)
def test_steps_in_threads_equal_those_of_one_thread(case: Case, amp: bool) -> None:
    assert both_sides.are_worthwhile(torch.device("cpu"))
    found, expected = (train(case, amp=amp, in_threads=of) for of in (True, False))
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_thread_is_raised() -> None:
    def fail(item: int) -> int:
        if item == 2:
            raise ValueError("the second")
        return item

    with pytest.raises(ValueError, match="the second"):
        threads.map_in_threads(fail, [1, 2, 3])


@pytest.mark.usefixtures("two_threads")
def test_a_thread_has_its_share_of_torchs_threads() -> None:
    assert threads.map_in_threads(lambda _: torch.get_num_threads(), range(4)) == [1] * 4
    assert torch.get_num_threads() == 2
