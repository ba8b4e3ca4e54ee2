"""What a registry can do, whichever it is."""

from __future__ import annotations

from typing import Protocol

from twhin_core.registry.lineage import Lineage


class Registry(Protocol):
    """A model in a registry.

    Both methods may raise UserError, if the registry refuses, and `Unreachable`.
    """

    def check(self) -> None:
        """Asks the registry for the model, which need not be there yet."""
        ...

    def register(self, lineage: Lineage) -> str:
        """Registers a version, or updates what is known of it, and marks it as the published one.

        Returns:
            Its name there.
        """
        ...
