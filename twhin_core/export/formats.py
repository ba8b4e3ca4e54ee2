"""The export formats by name. To add one, write its module and list it in `FORMATS`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple

from twhin_core import __version__, plugins
from twhin_core.config.export import QUERY_FORMATS, Export, Format
from twhin_core.export import faiss_index, faiss_library, npy, parquet, product_quantization, projector, vertex
from twhin_core.export.manifest import FormatExport
from twhin_core.export.vector_set import VectorSet
from twhin_core.progress import Progress

Writer = Callable[[VectorSet, Progress], FormatExport]


class BuiltIn(NamedTuple):
    """A format of this package."""

    write: Writer
    """Writes the files of one vector set."""
    settings: set[str]
    """The keys of `export` that the files depend on, besides `normalize`."""


FORMATS: dict[Format, BuiltIn] = {
    "parquet": BuiltIn(parquet.write, {"rows_per_file", "prior"}),
    "npy": BuiltIn(npy.write, {"query_side", "prior"}),
    "faiss": BuiltIn(faiss_index.write, {"faiss", "query_side", "prior"}),
    "pq": BuiltIn(product_quantization.write, {"rows_per_file", "pq", "prior"}),
    "vertex-vector-search": BuiltIn(vertex.write, {"rows_per_file", "query_side", "prior"}),
    "tensorboard-projector": BuiltIn(projector.write, {"projector"}),
}


def check_installed(export: Export) -> None:
    """Raises UserError if a requested format needs a library that is not installed. Called before training."""
    for name in export.formats:
        writer(name)
    if {"faiss", "pq"} & set(export.formats):
        faiss_library.load()


def writer(name: Format) -> Writer:
    """The function that writes a format. Raises UserError if it belongs to another package and does not load."""
    if name in FORMATS:
        return FORMATS[name].write
    write: Writer = plugins.load(plugins.EXPORT_FORMATS, name)
    return write


def takes(name: Format, vector_set: VectorSet) -> bool:
    """Whether the vector set is written in the format. Queries are written only in some: nobody searches for them."""
    return vector_set.relation is None or name in QUERY_FORMATS


def digest(name: Format, export: Export) -> str:
    """Digest of all settings that the files of a format depend on."""
    if name in FORMATS:
        included = {"normalize"} | FORMATS[name].settings
    else:  # unknown: any key but the choice of tables and formats
        included = set(Export.model_fields) - {"tables", "formats"}
    settings = export.model_dump(include=included)
    return hashlib.sha256(json.dumps([__version__, settings], sort_keys=True).encode()).hexdigest()[:16]
