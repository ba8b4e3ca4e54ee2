"""The softmax loss of a batch made on a GPU, without materializing its scores."""

from __future__ import annotations

import functools
import importlib.util
import shutil

import torch
from torch import Tensor

from twhin_core.model.batch import Queries
from twhin_core.model.scorer import Scorer
from twhin_core.schema import Side

METRICS = {"dot": 0, "cos": 0, "l2": 1, "squared_l2": 2}
"""The number of each comparator in `softmax_kernels`; the cosine is the dot product of its points."""

LARGEST_DIM = 256
"""Wider rows do not fit in a multiprocessor's shared memory."""


def is_available(device: torch.device, dim: int) -> bool:
    """Whether the kernels run on this device: PyTorch for CUDA brings Triton, but not the C compiler that it needs.

    False for exact float32 products, whose kernels take a minute to compile.
    """
    is_exact = torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled(device.type)
    return device.type == "cuda" and dim <= LARGEST_DIM and not is_exact and _has_triton()


@functools.cache
def _has_triton() -> bool:
    """Cached, since every step asks twice and the answer takes a search through PATH."""
    compilers = ("cc", "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


def softmax_losses(
    scorer: Scorer,
    comparator: str,
    side: Side,
    batch: Queries,
    vectors: tuple[Tensor, Tensor, Tensor],
    ids: tuple[Tensor, Tensor],
    temperature: float,
) -> Tensor:
    """The losses that `Softmax` computes from the scores of a batch's queries: float32 [C, L].

    Args:
        vectors: of the queries' nodes [C, L, dim], the true answers [C, L, dim] and the candidates [C, K, dim].
        ids: int64, of the true answers [C, L] and of the candidates [C, K].
    """
    from twhin_core.model.softmax_kernels import LogSumExp  # needs Triton

    node, answer, candidates = vectors
    queries = scorer.query_points(side, batch.rel, node)
    rel_of_candidates = batch.rel[:, :1].expand(-1, candidates.shape[1])
    negatives = LogSumExp.apply(  # type: ignore[no-untyped-call]  # a Function of torch's
        _low(queries),
        _low(scorer.answer_points(side, rel_of_candidates, candidates)),
        *ids,
        batch.correction,
        1 / temperature,
        METRICS[comparator],
    )
    answers = scorer.answer_points(side, batch.rel, answer)
    positive = scorer.comparator.pairs(queries, answers).float() / temperature
    if batch.answer_correction is not None:
        positive = positive - batch.answer_correction
    if batch.log_weight is not None:
        positive = positive - batch.log_weight[:, None]
    logits = [positive, negatives]
    if batch.self_masked is not None:
        self_negative = (
            scorer.comparator.pairs(queries, scorer.answer_points(side, batch.rel, node)).float() / temperature
        )
        logits.append(self_negative.masked_fill(batch.self_masked, -torch.inf))
    return torch.stack(logits).logsumexp(0) - positive


def masked_positions(batch: Queries, ids: tuple[Tensor, Tensor]) -> Tensor:
    """`Queries.masked` for a batch made on a device: positions in the flattened scores."""
    answer, candidates = ids
    same = answer[:, :, None] == candidates[:, None, :]
    first = torch.zeros_like(same[..., :1])
    columns = [first, same] if batch.self_masked is None else [first, batch.self_masked[..., None], same]
    return torch.cat(columns, -1).flatten().nonzero().squeeze(1)


def _low(vectors: Tensor) -> Tensor:
    """In autocast's dtype if it is enabled, contiguous."""
    device = vectors.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    return vectors.to(low).contiguous()
