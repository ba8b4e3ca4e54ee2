"""Whether this device computes what it should: the fused loss beside float64, and the tests of training and model.

python -m benchmarks.gpu.correctness [--device cpu]
"""

from __future__ import annotations

import re
import subprocess
import sys

import torch
from torch import Tensor

from benchmarks.gpu.common import options, report
from tests.model.softmax_losses import in_float64

# Everything that a step does; of the slow ones that start ranks of their own, none.
TESTS = [
    "tests/training/test_device_batch.py",
    "tests/training/test_optimizers.py",
    "tests/training/test_precision.py",
    "tests/training/test_resume.py",
    "tests/training/test_initial.py",
    "tests/training/test_validation.py",
    "tests/checkpoints",
    "tests/model",
]
TESTS_ON_CPU = ["tests/model/test_fused_softmax.py"]
"""CI runs the others anyway."""


def check_fused_loss(device: torch.device) -> None:
    """Relative errors of values and gradients in bf16, by metric, of shapes that fill no block."""
    from twhin_core.model.softmax_function import METRICS, SoftmaxLosses

    torch.manual_seed(0)
    shapes = [(3, 300, 200, 64), (1, 1000, 77, 128), (2, 129, 65, 200)]
    for metric in ("dot", "l2", "squared_l2"):
        worst = [0.0] * 4
        for chunks, length, count, dim in shapes:
            # Numbers that bf16 holds exactly, so that only the arithmetic differs.
            vectors = [
                (torch.randn(chunks, rows, dim, device=device) * 0.5).bfloat16().float().requires_grad_()
                for rows in (length, length, count)
            ]
            one, other = (torch.randint(50, (chunks, rows), device=device) for rows in (length, count))
            shifts = torch.randn(chunks, count, device=device), torch.randn(chunks, length, device=device)
            found = SoftmaxLosses.apply(*vectors, (one, other), *shifts, None, 0.7, METRICS[metric], torch.bfloat16)
            gradient = torch.randn(chunks, length, device=device)
            found.backward(gradient)
            exact = [of.detach().double().requires_grad_() for of in vectors]
            expected = in_float64((exact[0], exact[1], exact[2]), (one, other), shifts, None, 0.7, metric)
            expected.backward(gradient.double())
            pairs = [(found, expected), *((ours.grad, of.grad) for ours, of in zip(vectors, exact, strict=True))]
            worst = [max(old, relative(*pair)) for old, pair in zip(worst, pairs, strict=True)]
        names = ("value", "to_queries", "to_answers", "to_candidates")
        report("fused_loss_error", metric=metric, **dict(zip(names, worst, strict=True)))


def relative(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    return float(((found.double() - expected).norm() / expected.norm()).detach())


def run_tests() -> None:
    """Of the project, on this device."""
    tests = TESTS if torch.cuda.is_available() else TESTS_ON_CPU
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--maxfail=40", "--timeout=120", "-n", "5"]
    ran = subprocess.run([*command, "--dist", "loadfile", *tests], capture_output=True, text=True, check=False)
    lines = ran.stdout.splitlines()
    found = re.findall(r"(\d+) (passed|failed|skipped|error)", lines[-1])
    report(
        "tests",
        **{name: int(number) for number, name in found},
        failed_ones=[line[:300] for line in lines if line.startswith(("FAILED", "ERROR"))],
    )


def main() -> None:
    device, _, only = options(__doc__, ["kernels", "tests"])
    if device.type == "cuda" and only in ("kernels", "all"):
        check_fused_loss(device)
    if only in ("tests", "all"):
        run_tests()


if __name__ == "__main__":
    main()
