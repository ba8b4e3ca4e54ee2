"""Degree statistics, computed by hand."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from twhin_core.graph.manifest import DegreeEntry
from twhin_core.graph.statistics import summarize
from twhin_core.stages.prepare import prepare


@pytest.mark.parametrize(
    ("histogram", "quantiles", "mean", "shares"),
    [
        ({5: 1}, [5, 5, 5, 5], 5.0, [1.0, 0.0, 0.0, 0.0]),
        # Ten nodes: the fifth has degree 1, the ninth 2, the tenth 12; the top 1 % is one node of 12 among 24 ends,
        # as is the top tenth; the four of 2 make up the upper half, and the four of 1 and that of 0 the lower.
        ({1: 4, 2: 4, 0: 1, 12: 1}, [1, 2, 12, 12], 2.4, [0.5, 0.0, 8 / 24, 4 / 24]),
        # 300 nodes, of which the top 3 have 100, 7 and 7 of 1 * 296 + 7 * 3 + 100 ends, and the next 27 one 7 and ones.
        ({1: 296, 7: 3, 100: 1}, [1, 1, 7, 100], 417 / 300, [114 / 417, 33 / 417, 120 / 417, 150 / 417]),
        ({0: 3}, [0, 0, 0, 0], 0.0, []),
        ({}, [0, 0, 0, 0], 0.0, []),
    ],
)
def test_a_histogram(histogram: dict[int, int], quantiles: list[int], mean: float, shares: list[float]) -> None:
    named = dict(zip(["0.5", "0.9", "0.99", "1.0"], quantiles, strict=True))
    nodes = sum(histogram.values())
    assert summarize(histogram) == DegreeEntry(
        nodes=nodes, mean=mean, quantiles=named, top_share=shares[0] if shares else 0.0, shares=shares
    )


def test_degrees_count_training_edges(small_config: SmallConfig, tmp_path: Path) -> None:
    follow = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "a")]
    sources = []
    for split, pairs in (("train", follow), ("test", [("c", "a"), ("e", "a")])):
        lhs, rhs = zip(*pairs, strict=True)
        path = tmp_path / f"{split}.parquet"
        pq.write_table(pa.table({"lhs": lhs, "rhs": rhs}), path)
        sources.append({"path": str(path), "relation": "follow", "split": split})
    table = {"name": "user", "embedding_dim": 4, "optimizer": {"sgd": {"lr": 0.1}}}
    relations = [{"name": name, "lhs": "user", "rhs": "user"} for name in ("fav", "follow")]
    config = small_config(
        prepare={"sources": sources, "split": None}, model={"embeddings": {"tables": [table]}, "relations": relations}
    )
    manifest = prepare(config, str(tmp_path / "run"))
    # a has 4 ends of training edges, b 2, c and d 1, and e, only ever tested on, none.
    assert manifest.tables[0].degrees == DegreeEntry(
        nodes=5,
        mean=8 / 5,
        quantiles={"0.5": 1, "0.9": 4, "0.99": 4, "1.0": 4},
        top_share=0.5,
        shares=[0.5, 0, 3 / 8, 1 / 8],
    )
    none = {"0.5": 0, "0.9": 0, "0.99": 0, "1.0": 0}
    assert manifest.relations[0].degrees["lhs"] == DegreeEntry(nodes=0, mean=0, quantiles=none, top_share=0)
    of_lhs = {"0.5": 1, "0.9": 3, "0.99": 3, "1.0": 3}  # a three, b one
    assert manifest.relations[1].degrees["lhs"] == DegreeEntry(
        nodes=2, mean=2.0, quantiles=of_lhs, top_share=0.75, shares=[0.75, 0, 0, 0.25]
    )
    of_rhs = {"0.5": 1, "0.9": 1, "0.99": 1, "1.0": 1}
    assert manifest.relations[1].degrees["rhs"] == DegreeEntry(
        nodes=4, mean=1.0, quantiles=of_rhs, top_share=0.25, shares=[0.25, 0, 0.25, 0.5]
    )
    assert manifest.splits["test"].cold_edges == 1
