"""Checks that the libraries for embedding lookups load on this machine."""

from __future__ import annotations

import importlib

from twhin_core.errors import UserError, in_one_line

FBGEMM = TORCHREC = "1.8.0"
"""Releases that work together and with the pinned torch."""

# torchrec requires fbgemm-gpu, whose files would overwrite those of fbgemm-gpu-cpu, so install it without dependencies.
INSTALL = {
    "cpu": "pip uninstall --yes fbgemm-gpu fbgemm-gpu-cpu && pip install --force-reinstall --no-deps "
    f"fbgemm-gpu-cpu=={FBGEMM} torchrec=={TORCHREC}",
    "cuda": f"pip install fbgemm-gpu=={FBGEMM} torchrec=={TORCHREC}",
}


def check() -> str:
    """Looks up rows with torchrec and fbgemm, and returns a line about the result.

    Raises:
        UserError: a library is missing or does not load; the message has the command that installs it.
    """
    try:
        return f"torch, torchrec and fbgemm work together: looked up {_look_up()} rows"
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # depending on which version does not fit
        import torch

        why = f"{error}: {error.__cause__}" if error.__cause__ is not None else str(error)
        raise UserError(
            f"torchrec and fbgemm, which training needs, do not load here ({in_one_line(why)}); "
            f"install them with: {INSTALL['cuda' if torch.cuda.is_available() else 'cpu']}"
        ) from error


def _look_up() -> int:
    import torch

    torchrec = importlib.import_module("torchrec")
    tables = torchrec.EmbeddingCollection(
        tables=[torchrec.EmbeddingConfig(name="t", num_embeddings=4, embedding_dim=4, feature_names=["t"])]
    )
    rows, lengths = torch.tensor([1, 3]), torch.tensor([2])
    lookups = torchrec.KeyedJaggedTensor.from_lengths_sync(["t"], rows, lengths)
    found = tables(lookups)["t"].values()
    torch.ops.fbgemm.asynchronous_complete_cumsum(lengths)
    return len(found)
