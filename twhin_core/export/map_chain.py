"""The way from the vectors of one version to the space of an older one, over the maps of all versions between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from twhin_core.dependents import same_root
from twhin_core.errors import UserError
from twhin_core.export.manifest import ExportManifest, VersionMap, read_export_manifest
from twhin_core.export.npy import read_array
from twhin_core.published import root_of, series_of

if TYPE_CHECKING:
    from torch import Tensor


def read_map(root: str, to: str, table: str) -> Tensor | None:
    """The matrix that leads from what a run has exported to the space of an earlier version: float32 [dim, dim there].

    It is the product of the maps of all versions on the way; None if `to` is the run itself.

    Raises:
        UserError: no maps lead there, a version was exported anew since it was mapped to, or a file is damaged.
    """
    import torch

    product = None
    for at, found in _steps(root, to):
        if table not in found.tables:
            raise UserError(f"{at}: has no map of table {table}, which shares too few nodes or was not exported")
        matrix = torch.from_numpy(read_array(at, found.tables[table].matrix)).double()
        product = matrix if product is None else product @ matrix
    return None if product is None else product.float()


def _steps(root: str, to: str) -> Iterator[tuple[str, VersionMap]]:
    """The versions on the way from `root` to `to`, without `to`, each with its maps to the next."""
    at, space, passed = root, None, list[str]()
    while not same_root(at, to):
        manifest = _exported(at, space)
        if manifest is None and not passed:
            raise UserError(f"{root}: has no embeddings to map; run `twhin export` there first")
        if manifest is None or manifest.map is None or at in passed:
            known = f", only to those of {', '.join([*passed[1:], at])}" if passed else "; export it with export.map"
            raise UserError(f"{root}: no maps lead to the vectors of {to}{known}")
        yield at, manifest.map
        passed.append(at)
        at, space = _next(at, manifest.map), manifest.map.space
    _exported(at, space)


def _exported(root: str, space: str | None) -> ExportManifest | None:
    """What is exported there; `space`: what it must be, if that is known."""
    manifest = read_export_manifest(root)
    if manifest is not None and space is not None and manifest.space != space:
        raise UserError(f"{root}: was exported anew after others were mapped to its vectors; export those again too")
    return manifest


def _next(at: str, found: VersionMap) -> str:
    """The root that the maps at `at` lead to, from wherever the series is read."""
    series = series_of(at)
    return found.root if series is None or found.version is None else root_of(series, found.version)
