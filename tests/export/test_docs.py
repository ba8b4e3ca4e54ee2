"""The examples of docs/export.md, run one after the other in a run root."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command_line import ROOT
from tests.export.exporting import export_as, vocabulary, weights
from twhin_core.config import Config
from twhin_core.stages.export import export

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)


def run(number: int) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(EXAMPLES[number], names)
    return names


def test_the_examples_load_what_they_say(trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, root = trained
    before = shutil.copytree(root, Path(root, "../before"))
    export(trained[0], str(before))
    others = {"pq": {"subspaces": 4, "bits": 4}, "query_side": "fav", "map": {"to": str(before)}}
    export_as(trained, "parquet", "npy", "faiss", "pq", **others)
    monkeypatch.chdir(root)
    tweets, ids = weights(root, "tweet"), vocabulary(root, "tweet")
    assert len(EXAMPLES) == 6
    assert run(0)["row"][0] == tweets[ids.index("t7")].tolist()
    assert (run(1)["ids"], run(1)["vectors"].shape) == (ids, (30, 8))
    assert run(2)["near"] == [ids[row] for row in np.argsort(-(tweets @ tweets[0]))[:5]]
    assert run(3)["vectors"].shape == tweets.shape
    assert np.abs(run(3)["vectors"] - tweets).mean() < np.abs(tweets).mean() / 2
    users, translations = weights(root, "user"), {}
    import pyarrow.parquet as pq

    for row in pq.read_table(Path(root, "embeddings/relations.parquet")).to_pylist():
        translations[row["name"]] = np.float32(row["embedding"])
    scores = tweets @ (users[vocabulary(root, "user").index("u3")] + translations["fav"])
    found = run(4)
    assert found["rows"][0].tolist() == np.argsort(-scores)[:10].tolist()
    np.testing.assert_allclose(found["scores"][0], np.sort(scores)[::-1][:10], rtol=1e-5)
    (matrix,) = Path("embeddings").glob("map-user-*.npy")
    mapped = users[vocabulary(root, "user").index("u3")] @ np.load(matrix)
    np.testing.assert_allclose(run(5)["vector"], mapped, rtol=1e-5, atol=1e-6)
