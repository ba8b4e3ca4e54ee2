"""Versions that were removed. What remains of each is `removed.json`, with its row of `twhin versions`."""

from __future__ import annotations

from typing import Any

from twhin_core import storage
from twhin_core.errors import UserError

REMOVED = "removed.json"


def read_removed(root: str) -> dict[str, Any] | None:
    """What is known of a removed version; None if it is there."""
    found: dict[str, Any] | None = storage.find_json(storage.join(root, REMOVED))
    return found


def check_present(root: str) -> None:
    """Raises UserError if the version at `root` was removed, or is just being removed."""
    found = read_removed(root)
    if found is not None:
        raise UserError(f"{root}: this version was removed on {found['when']}, and only its figures are kept")
