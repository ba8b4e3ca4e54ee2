"""The formats by their names in `export.formats`; to add one, write its module and add it here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from twhin_core import __version__, plugins
from twhin_core.config.export import QUERY_FORMATS, Export, Format
from twhin_core.export import faiss_index, faiss_library, npy, parquet, product_quantization, projector, vertex
from twhin_core.export.manifest import FormatExport
from twhin_core.export.vector_set import VectorSet
from twhin_core.progress import Progress

Writer = Callable[[VectorSet, Progress], FormatExport]

WRITERS: dict[Format, Writer] = {
    "parquet": parquet.write,
    "npy": npy.write,
    "faiss": faiss_index.write,
    "pq": product_quantization.write,
    "vertex-vector-search": vertex.write,
    "tensorboard-projector": projector.write,
}
"""Writes the files of one vector_set."""

CHECKS: dict[Format, Callable[[VectorSet], None]] = {
    "faiss": faiss_index.check,
    "pq": product_quantization.check,
    "vertex-vector-search": vertex.check,
}
"""Raises UserError, before anything is written, if a vector_set cannot be had in the format."""

SETTINGS: dict[Format, set[str]] = {
    "parquet": {"rows_per_file"},
    "faiss": {"faiss"},
    "pq": {"rows_per_file", "pq"},
    "vertex-vector-search": {"rows_per_file"},
    "tensorboard-projector": {"projector"},
}
"""What the files depend on, besides the vectors."""

CHOICES = {"tables", "formats"}
"""What the files of another package's format do not depend on; they may on all else of the section."""


def check_installed(export: Export) -> None:
    """Raises UserError, before hours of training, if a format asked for needs a library that is not installed."""
    for name in export.formats:
        writer(name)
    if {"faiss", "pq"} & set(export.formats):
        faiss_library.load()


def writer(name: Format) -> Writer:
    """Writes a format. Raises UserError if another package brings it and it does not load."""
    if name in WRITERS:
        return WRITERS[name]
    write: Writer = plugins.load(plugins.EXPORT_FORMATS, name)
    return write


def takes(name: Format, vector_set: VectorSet) -> bool:
    """Whether the vector_set is written in the format: queries are not searched, and are only in some."""
    return vector_set.relation is None or name in QUERY_FORMATS


def digest(name: Format, export: Export) -> str:
    """Of all settings that the files of a format depend on."""
    included = {"normalize"} | SETTINGS.get(name, set()) if name in WRITERS else set(Export.model_fields) - CHOICES
    settings = export.model_dump(include=included)
    return hashlib.sha256(json.dumps([__version__, settings], sort_keys=True).encode()).hexdigest()[:16]
