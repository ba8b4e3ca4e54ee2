"""The softmax loss of a batch made on a GPU, without materializing its scores."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from twhin_core.model.losses import Correction
from twhin_core.model.scorer import Scorer
from twhin_core.schema import Side

if TYPE_CHECKING:
    from twhin_core.model.batch import Queries  # imports torchrec, and ranking asks this module for Triton

LARGEST_DIM = 256
"""Wider rows do not fit in a multiprocessor's shared memory."""


def is_available(device: torch.device, dim: int) -> bool:
    """Whether the kernels run on this device: PyTorch for CUDA brings Triton, but not the C compiler that it needs.

    False for exact float32 products, whose kernels take a minute to compile.
    """
    is_exact = torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled(device.type)
    return device.type == "cuda" and dim <= LARGEST_DIM and not is_exact and has_triton()


@functools.cache
def has_triton() -> bool:
    """Whether Triton's kernels can be compiled. Cached, since every step asks and the answer searches PATH."""
    compilers = ("cc", "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


def softmax_losses(
    scorer: Scorer,
    comparator: str,
    side: Side,
    batch: Queries,
    vectors: tuple[Tensor, Tensor, Tensor],
    ids: tuple[Tensor, Tensor],
    correction: Correction | None,
    temperature: float,
) -> Tensor:
    """The losses that `Softmax` computes from the scores of a batch's queries: float32 [C, L].

    Args:
        vectors: of the queries' nodes [C, L, dim], the true answers [C, L, dim] and the candidates [C, K, dim].
        ids: int64, of the true answers [C, L] and of the candidates [C, K].
    """
    from twhin_core.model.softmax_function import METRICS, SoftmaxLosses  # needs Triton

    node, answer, candidates = vectors
    queries = scorer.query_points(side, batch.rel, node).float().contiguous()
    answers = scorer.answer_points(side, batch.rel, answer).float().contiguous()
    rel_of_candidates = batch.rel[:, :1].expand(-1, candidates.shape[1])
    negatives = scorer.answer_points(side, rel_of_candidates, candidates)
    answer_shift, shift, own_shift = correction or (None, None, None)
    self_negative = None
    if batch.log_weight is not None:
        weights = batch.log_weight[:, None].expand(batch.rel.shape)
        answer_shift = weights if answer_shift is None else answer_shift + weights
    if batch.self_masked is not None:
        own = scorer.answer_points(side, batch.rel, node)
        self_negative = scorer.comparator.pairs(queries, own).float() / temperature
        if own_shift is not None:
            self_negative = self_negative - own_shift
        self_negative = self_negative.masked_fill(batch.self_masked, -torch.inf)
    low = torch.get_autocast_dtype(node.device.type) if torch.is_autocast_enabled(node.device.type) else torch.float32
    losses: Tensor = SoftmaxLosses.apply(  # type: ignore[no-untyped-call]  # a Function of torch's
        queries, answers, negatives, ids, shift, answer_shift, self_negative, 1 / temperature,
        METRICS[comparator], low,
    )  # fmt: skip
    return losses


def masked_positions(batch: Queries, ids: tuple[Tensor, Tensor]) -> Tensor:
    """`Queries.masked` for a batch made on a device: positions in the flattened scores."""
    answer, candidates = ids
    same = answer[:, :, None] == candidates[:, None, :]
    first = torch.zeros_like(same[..., :1])
    columns = [first, same] if batch.self_masked is None else [first, batch.self_masked[..., None], same]
    return torch.cat(columns, -1).flatten().nonzero().squeeze(1)
