"""The exported coordinate of the prior ranks every query of the quickstart as the evaluation does."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from twhin_core.config import file as config_file
from twhin_core.graph.manifest import SPLITS, find_manifest
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

LISTED = 500
ROUNDING = 2e-6


@pytest.mark.slow
@pytest.mark.parametrize(("relation", "table"), [("fav", "tweet"), ("follow", "user")])
def test_an_index_by_inner_product_ranks_all_test_edges_as_the_evaluation(
    relation: str, table: str, tmp_path: Path
) -> None:
    faiss = pytest.importorskip("faiss")
    root, changes = str(tmp_path / "run"), ["model.prior={}", "training.num_epochs=1", f"export.query_side={relation}"]
    config = config_file.load("configs/quickstart.yaml", [*changes, "export.formats=[npy, faiss]"])
    for stage in (prepare, train, evaluate, export):
        stage(config, root)

    rel = [entry.name for entry in find_manifest(root).relations].index(relation)
    known = defaultdict[int, set[int]](set)
    for split in SPLITS:
        edges = pq.read_table(f"{root}/graph/edges/{split}", filters=pc.field("rel") == rel)
        for lhs, rhs in zip(edges["lhs"].to_pylist(), edges["rhs"].to_pylist(), strict=True):
            known[lhs].add(rhs)
    wanted = (pc.field("side") == "rhs") & (pc.field("relation") == relation)
    ranks = pq.read_table(f"{root}/evaluation/ranks.parquet", filters=wanted).to_pylist()
    assert len(ranks) > 4000

    index = faiss.read_index(f"{root}/embeddings/faiss/{table}.index")
    queries = np.load(f"{root}/embeddings/npy/user.{relation}.npy")
    nodes = sorted({row["node"] for row in ranks})
    found = dict(zip(nodes, zip(*index.search(queries[nodes], LISTED), strict=True), strict=True))
    compared = equal = 0
    for row in ranks:
        scores, answers = found[row["node"]]
        is_left_out = np.isin(answers, [*(known[row["node"]] - {row["answer"]})])
        scores, answers = scores[~is_left_out], answers[~is_left_out]
        (place,) = np.flatnonzero(answers == row["answer"])[:1].tolist() or [None]
        if place is None:  # beyond the list
            assert row["rank"] > len(answers) - 1
            continue
        # Products of other shapes round differently: a candidate that scores the same but for that may be before or
        # behind the answer.
        before, not_behind = (int((scores > scores[place] + by).sum()) for by in (ROUNDING, -ROUNDING))
        assert 1 + before <= row["rank"] <= not_behind
        compared, equal = compared + 1, equal + (row["rank"] == 1 + place)
    assert compared > 0.4 * len(ranks)
    assert equal > 0.995 * compared
