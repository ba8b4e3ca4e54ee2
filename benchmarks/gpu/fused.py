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
    from twhin_core.model.softmax_function import METRICS, SoftmaxLosses

    chunks = sizes.batch // sizes.chunk
    queries, answers, candidates = (
        torch.randn(chunks, rows, sizes.dim, device=device, requires_grad=True)
        for rows in (sizes.chunk, sizes.chunk, negatives)
    )
    one, other = (torch.randint(10**8, (chunks, rows), device=device) for rows in (sizes.chunk, negatives))
    gradient = torch.randn(chunks, sizes.chunk, device=device)

    def fused() -> Tensor:
        found: Tensor = SoftmaxLosses.apply(
            queries, answers, candidates, (one, other), None, None, None, 0.1, METRICS["dot"], torch.bfloat16
        )
        return found

    def plain() -> Tensor:
        scores = (queries.bfloat16() @ candidates.bfloat16().mT).float() * 0.1
        positive = (queries * answers).sum(-1, keepdim=True) * 0.1
        return torch.cat([positive, scores], -1).logsumexp(-1) - positive[..., 0]

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
