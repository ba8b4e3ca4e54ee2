"""The registries that a config names."""

from __future__ import annotations

import re

from twhin_core.config.registry import Registry as Settings
from twhin_core.errors import UserError
from twhin_core.registry.registry import Registry

NAME = re.compile(r"[a-z_][a-z0-9_-]{0,62}")


def open_registries(settings: Settings, series: str) -> list[Registry]:
    """Those of the section. Raises UserError if the model has no valid name."""
    found: list[Registry] = []
    if settings.kubeflow is None and settings.vertex is None:
        return found
    name = settings.name or series.rstrip("/").rsplit("/", 1)[-1]
    if not NAME.fullmatch(name):
        raise UserError(
            f"registry.name: set one; {name!r}, the series' own, has other characters than a-z, 0-9, _ and -"
        )
    if settings.kubeflow is not None:
        from twhin_core.registry.kubeflow import Kubeflow

        found.append(Kubeflow(settings.kubeflow, name))
    if settings.vertex is not None:
        from twhin_core.registry.vertex import Vertex

        found.append(Vertex(settings.vertex, name))
    return found
