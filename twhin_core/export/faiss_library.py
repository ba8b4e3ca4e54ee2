"""faiss, an optional dependency: only the formats faiss and pq need it."""

from __future__ import annotations

from typing import Any

from twhin_core.errors import UserError


def load() -> Any:
    """The module `faiss`, set to use as many threads as torch.

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
