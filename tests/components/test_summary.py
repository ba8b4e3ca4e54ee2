"""The Markdown of each stage, for values that the other tests' runs do not have."""

from __future__ import annotations

from typing import get_args

import pytest

from twhin.components.summary import export_text
from twhin_core.config.model import Model
from twhin_core.export.manifest import Aligned, AlignedTable, ExportManifest, TableExport, TableMap, VersionMap
from twhin_core.parquet import FileEntry


@pytest.mark.parametrize("comparator", get_args(Model.model_fields["comparator"].annotation))
def test_export_names_each_comparator(comparator: str) -> None:
    file = FileEntry(path="embeddings/user/part-00000.parquet", rows=1234, sha256="")
    manifest = ExportManifest(
        version="0", run="", checkpoint=7, config="", dim=8, comparator=comparator, normalized=False, reciprocal=False,
        tables=[TableExport(name="user", rows=1234, unnamed_rows=0, files=[file])], relations=file, formats={},
    )  # fmt: skip
    words = {
        "dot": "the dot product",
        "cos": "the cosine",
        "l2": "the Euclidean distance",
        "squared_l2": "the squared Euclidean distance",
    }
    text = export_text(manifest, "runs/my/embeddings")
    assert f"8 dimensions, compared by {words[comparator]}, in `runs/my/embeddings`." in text
    assert "| user | 1,234 | 1 |" in text
    assert "Rotated" not in text


def test_export_says_what_it_was_aligned_with() -> None:
    file = FileEntry(path="embeddings/rotation-0.npy", rows=8, sha256="")
    tables = {"user": AlignedTable(nodes=1234, cosine_before=-0.0125, cosine_after=0.9375)}
    manifest = ExportManifest(
        version="0", run="", checkpoint=7, config="", dim=8, comparator="dot", normalized=False, reciprocal=False,
        aligned=Aligned(root="runs/before", checkpoint=3, rotation=file, tables=tables), tables=[], relations=file,
        formats={},
    )  # fmt: skip
    text = export_text(manifest, "runs/my/embeddings")
    assert "Rotated onto the embeddings of `runs/before`." in text
    assert "| user | 1,234 | -0.0125 | 0.9375 |" in text


def test_export_says_how_well_its_vectors_are_mapped() -> None:
    file = FileEntry(path="embeddings/map-user-0.npy", rows=8, sha256="")
    of = TableMap(matrix=file, nodes=1234, held_out=137, relative_error=0.25, cosine=0.9375, neighbors_kept=0.5)
    mapped = VersionMap(root="runs/before", space="", kind="linear", tables={"user": of})
    manifest = ExportManifest(
        version="0", run="", checkpoint=7, config="", dim=8, comparator="dot", normalized=False, reciprocal=False,
        map=mapped, tables=[], relations=file, formats={},
    )  # fmt: skip
    text = export_text(manifest, "runs/my/embeddings")
    assert "Maps to the embeddings of `runs/before`" in text
    assert "| user | 1,234 | 137 | 0.2500 | 0.9375 | 50.0% |" in text
