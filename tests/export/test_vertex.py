"""The JSON lines for Vertex AI Vector Search, checked by a JSON schema of its documented format."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.export.exporting import export_as, vocabulary, weights
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.export import fits, vector_set
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

# cloud.google.com/vertex-ai/docs/vector-search/setup/format-structure, "JSON"
RECORD = {
    "type": "object",
    "required": ["id", "embedding"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "embedding": {"type": "array", "items": {"type": "number"}, "minItems": 8, "maxItems": 8},
        "restricts": {"type": "array"},
        "numeric_restricts": {"type": "array"},
        "crowding_tag": {"type": "string"},
    },
}


@pytest.mark.parametrize(("rows_per_file", "sizes"), [(1_000_000, [40]), (7, [7, 7, 7, 7, 7, 5]), (20, [20, 20])])
def test_every_line_is_a_record_of_the_documented_schema(
    trained: tuple[Config, str], rows_per_file: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_set, "BLOCK_BYTES", 11 * 4 * 8)
    _, root = trained
    manifest = export_as(trained, "vertex-vector-search", rows_per_file=rows_per_file)
    assert [file.rows for file in manifest.formats["vertex-vector-search"]["user"].files] == sizes
    files = sorted(Path(root, "embeddings/vertex/user").iterdir())
    assert {file.suffix for file in files} == {".json"}
    records = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
    assert [len(part) for part in records] == sizes
    flat = [record for part in records for record in part]
    validator = jsonschema.Draft202012Validator(RECORD)
    assert not [error for record in flat for error in validator.iter_errors(record)]
    assert [record["id"] for record in flat] == vocabulary(root, "user")
    np.testing.assert_array_equal(np.array([record["embedding"] for record in flat], np.float32), weights(root, "user"))


def test_ids_of_any_characters_survive(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = small_config(), str(tmp_path / "run")
    raw = Path(config.prepare.sources[0].path)
    odd = 'é "quoted" \\ tab\tend'
    table = pq.read_table(raw)
    lhs = [odd if name == "u7" else name for name in table["lhs"].to_pylist()]
    rhs = [odd if name == "u7" else name for name in table["rhs"].to_pylist()]
    pq.write_table(table.set_column(0, "lhs", [lhs]).set_column(2, "rhs", [rhs]), raw)
    prepare(config, root)
    train(config, root)
    export_as((config, root), "vertex-vector-search")
    lines = Path(root, "embeddings/vertex/user/part-00000.json").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["id"] for line in lines[:-1]].count(odd) == 1


def test_more_files_than_a_batch_may_have_are_refused(
    trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits, "MOST_FILES", 5)
    with pytest.raises(UserError, match=r"export\.rows_per_file: user would need 6 files.*set it to 8 or more"):
        export_as(trained, "vertex-vector-search", rows_per_file=7)
