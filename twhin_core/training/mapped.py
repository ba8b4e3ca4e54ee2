"""Tensors in temporary files, for tables larger than memory: the system keeps in memory what is in use."""

from __future__ import annotations

import math
import os
import tempfile

import torch
from torch import Tensor

from twhin_core.errors import StorageRefused


def mapped_zeros(*shape: int) -> Tensor:
    """A float32 tensor of zeros in a file without a name, which is gone once the process ends.

    Raises:
        StorageRefused: the disk of the folder for temporary files is full.
    """
    size = math.prod(shape)
    try:
        with tempfile.NamedTemporaryFile(prefix="twhin-table-") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * size)  # a full disk would otherwise kill the process later
            return torch.from_file(file.name, shared=True, size=size, dtype=torch.float32).view(shape)
    except OSError as error:
        raise StorageRefused(
            f"{tempfile.gettempdir()}: cannot hold a table of {4 * size:,} bytes: {error.strerror}; set TMPDIR to "
            "another folder"
        ) from error
