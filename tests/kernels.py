"""Triton's kernels in tests: on a GPU, or in Triton's interpreter. Where Triton is missing, importing this skips."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="requirements/dev_cpu.txt installs it; PyTorch for CUDA brings it")

from triton.runtime.interpreter import InterpretedFunction

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

_call, _called = InterpretedFunction.__call__, set[Any]()


def _call_quickly(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a function of a kernel.

    The interpreter replaces Triton's language when a kernel starts, and again at each such call, which takes half of
    the time. Once is enough for each function, whose module may know the language by another name than the kernel's.
    """
    if self.fn in _called:
        return self.rewrite()(*args, **kwargs)
    _called.add(self.fn)
    return _call(self, *args, **kwargs)


InterpretedFunction.__call__ = _call_quickly
