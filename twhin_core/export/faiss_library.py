"""The library faiss, an extra: only who exports an index or product-quantized vectors needs it."""

from __future__ import annotations

from typing import Any

from twhin_core.errors import UserError


def load() -> Any:
    """The module `faiss`, with as many threads as torch has.

    Raises:
        UserError: it is not installed.
    """
    import torch

    try:
        import faiss
    except ImportError:
        raise UserError(
            "export.formats: faiss and pq need the library faiss, which is not installed: pip install 'twhin[faiss]'"
        ) from None
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
