"""The config's optimizers as those of torch and torchrec."""

from __future__ import annotations

from typing import Any

import torch
from torchrec.optim import RowWiseAdagrad

from twhin_core.config import Optimizer

CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adagrad": torch.optim.Adagrad,
    "rowwise_adagrad": RowWiseAdagrad,
}


def optimizer_class(optimizer: Optimizer) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The class and its arguments; torchrec turns them into the kernel fused with a table's backward pass."""
    return CLASSES[optimizer.name], optimizer.choice.model_dump()
