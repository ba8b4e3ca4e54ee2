"""`embeddings/projector/<table>/`: vectors for TensorBoard's embedding projector.

The projector loads all its data into the browser, hence a large table is reduced to a random sample.
"""

from __future__ import annotations

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector import ProjectorConfig

from twhin_core import storage
from twhin_core.checksum import ChecksumWriter
from twhin_core.config.export import Projector
from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.export.vector_set import VectorSet
from twhin_core.graph.manifest import read_manifest
from twhin_core.parquet import FileEntry
from twhin_core.progress import Progress
from twhin_core.vectors.labels import has_labels, read_labels
from twhin_core.vectors.rows import Ints


def write(vector_set: VectorSet, progress: Progress) -> FormatExport:
    options = vector_set.run.config.export.projector or Projector()
    positions = vector_set.sample(options.rows)
    vectors = vector_set.rows.gather(positions).numpy()
    shown = (
        vector_set.name
        if len(positions) == vector_set.size
        else f"{vector_set.name}, {len(positions)} of {vector_set.size} at random"
    )
    texts = {
        # As float32, which prints fewer digits than the same number as a Python float.
        "vectors.tsv": "".join("\t".join(map(str, row)) + "\n" for row in vectors.astype(np.str_)),
        "metadata.tsv": _metadata(vector_set, positions),
        "projector_config.pbtxt": _config(shown, vectors.shape),
    }
    folder = f"{FOLDER}/projector/{vector_set.name}"
    files = [_write(vector_set.run.root, f"{folder}/{name}", text, len(positions)) for name, text in texts.items()]
    progress.update(vector_set.size)
    figures = {"shown": len(positions), "of": vector_set.size}
    return FormatExport(table=vector_set.table, rows=len(positions), files=files, figures=figures)


def _metadata(vector_set: VectorSet, positions: Ints) -> str:
    """A line per row at `positions`: its id, and its label if the table has labels; then a header names the columns.

    The projector takes the first line of a file with a single column for a row.
    """
    names, run = _names(vector_set, positions), vector_set.run
    manifest = read_manifest(run.root) if run.config.prepare is not None else None
    if not has_labels(manifest, vector_set.table):
        return "".join(f"{_field(name)}\n" for name in names)
    labels = read_labels(manifest, run.root, vector_set.table, names)
    rows = [f"{_field(name)}\t{_field(labels.get(name, name))}\n" for name in names]
    return "".join(["id\tlabel\n", *rows])


def _field(text: str) -> str:
    """The text with tabs and newlines, which delimit fields and rows, replaced by spaces."""
    return " ".join(text.split()) or repr(text)


def _names(vector_set: VectorSet, positions: Ints) -> list[str]:
    """The ids of the rows at `positions`."""
    found: list[str] = []
    start = 0
    for names in vector_set.names():
        inside = positions[np.searchsorted(positions, start) : np.searchsorted(positions, start + len(names))] - start
        found += names["id"].take(inside).to_pylist()
        start += len(names)
    return found


def _config(shown: str, shape: tuple[int, ...]) -> str:
    config = ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = shown
    embedding.tensor_shape.extend(shape)
    embedding.tensor_path, embedding.metadata_path = "vectors.tsv", "metadata.tsv"
    text: str = text_format.MessageToString(config)
    return text


def _write(root: str, path: str, text: str, rows: int) -> FileEntry:
    with storage.open_write(storage.join(root, path)) as file:
        checksum = ChecksumWriter(file)
        checksum.write(text.encode())
        return FileEntry(path=path, rows=rows, **checksum.checksums())
