"""TwHIN: embeddings of a heterogeneous information network, learned from typed edges.

`train(config, run_root)` runs all stages on this machine and returns a `Run` with the metrics and the embeddings.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {"train": "twhin_core.stages.whole", "Run": "twhin_core.stages.whole"}


def __getattr__(name: str) -> Any:
    """Imports what needs other modules once it is used, so that importing the package takes no time."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
