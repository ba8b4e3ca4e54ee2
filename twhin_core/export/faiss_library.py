"""faiss, an optional dependency: only the formats faiss and pq and the mixture of `recommend` need it."""

from __future__ import annotations

from typing import Any

from twhin_core.errors import UserError


def load(needed_by: str = "export.formats: faiss and pq") -> Any:
    """The module `faiss`, set to use as many threads as torch.

    Args:
        needed_by: begins the message if it is not installed.

    Raises:
        UserError: it is not installed.
    """
    import torch

    try:
        import faiss
    except ImportError:
        raise UserError(
            f"{needed_by} need the library faiss, which is not installed: pip install 'twhin[faiss]'"
        ) from None
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
