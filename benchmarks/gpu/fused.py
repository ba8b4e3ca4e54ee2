"""How fast the fused loss is, beside the same scores in memory and the device's peak; only on a GPU.

python -m benchmarks.gpu.fused
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.common import Sizes, ceilings, options, report, seconds


def measure(sizes: Sizes, device: torch.device, flops: float) -> None:
    """The fused loss alone, beside the same scores in memory."""
    for negatives in sizes.negatives:
        _measure(sizes, negatives, device, flops)


def _measure(sizes: Sizes, negatives: int, device: torch.device, flops: float) -> None:
    from twhin_core.model import softmax_kernels as kernels

    chunks = sizes.batch // sizes.chunk
    queries = torch.randn(chunks, sizes.chunk, sizes.dim, device=device, dtype=torch.bfloat16, requires_grad=True)
    candidates = torch.randn(chunks, negatives, sizes.dim, device=device, dtype=torch.bfloat16, requires_grad=True)
    ids = (torch.randint(10**8, shape, device=device) for shape in ((chunks, sizes.chunk), (chunks, negatives)))
    query_id, candidate_id = ids
    gradient = torch.randn(chunks, sizes.chunk, device=device)

    def fused() -> Tensor:
        found: Tensor = kernels.LogSumExp.apply(queries, candidates, query_id, candidate_id, None, 0.1, 0)
        return found

    def plain() -> Tensor:
        return (queries @ candidates.transpose(1, 2) * 0.1).float().logsumexp(-1)

    product = 2 * sizes.batch * negatives * sizes.dim
    forward = seconds(fused, device)
    both = seconds(lambda: fused().backward(gradient), device)
    unfused = seconds(lambda: plain().backward(gradient), device)
    report(
        "fused_loss", negatives=negatives, forward_ms=round(forward * 1e3, 3), both_ms=round(both * 1e3, 3),
        in_memory_ms=round(unfused * 1e3, 3), forward_tflops=round(2 * product / forward / 1e12, 1),
        backward_tflops=round(2 * product / (both - forward) / 1e12, 1),
        share_of_bf16_peak=round(4 * product / both / flops, 3),
        useful_share_of_bf16_peak=round(3 * product / both / flops, 3),
    )  # fmt: skip


def main() -> None:
    device, sizes, _ = options(__doc__, [])
    if device.type == "cuda":
        measure(sizes, device, ceilings(device)[1])


if __name__ == "__main__":
    main()
