"""Whether the libraries that training looks rows up with load on this machine, and what installs those that do."""

from __future__ import annotations

import importlib

from twhin_core.errors import UserError

FBGEMM = TORCHREC = "1.8.0"
"""Releases that fit together, and the pinned torch."""

# torchrec requires fbgemm-gpu, whose files would overwrite those of fbgemm-gpu-cpu: so pip must not follow it.
INSTALL = {
    "cpu": "pip uninstall --yes fbgemm-gpu fbgemm-gpu-cpu && pip install --force-reinstall --no-deps "
    f"fbgemm-gpu-cpu=={FBGEMM} torchrec=={TORCHREC}",
    "cuda": f"pip install fbgemm-gpu=={FBGEMM} torchrec=={TORCHREC}",
}


def check() -> str:
    """Looks rows up by torchrec and fbgemm; gives what was found.

    Raises:
        UserError: they are missing or do not load; it names the command that installs them.
    """
    try:
        return f"torch, torchrec and fbgemm work together: looked up {_look_up()} rows"
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # whatever another version of one raises
        why = f"{error}: {error.__cause__}" if error.__cause__ is not None else str(error)
        raise UserError(
            f"torchrec and fbgemm, which training needs, do not load here ({' '.join(why.split())}); install them by: "
            + INSTALL[_device()]
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


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
