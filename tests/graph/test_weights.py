"""How unequal the weights of training edges are, and when prepare says so."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.command_line import twhin
from tests.conftest import SmallConfig
from twhin_core.graph.manifest import Manifest
from twhin_core.graph.weights import RANGES_PER_OCTAVE, summarize
from twhin_core.progress import log
from twhin_core.stages.prepare import prepare


def ranges_of(weights: list[float]) -> list[tuple[int, int, float, float]]:
    """As the engine groups them."""
    number = np.floor(np.log2(weights) * RANGES_PER_OCTAVE + 0.5).astype(int)
    of = {each: np.array(weights)[number == each] for each in np.unique(number).tolist()}
    return [(each, len(values), float(values.sum()), float(values.max())) for each, values in of.items()]


@settings(max_examples=100)
@given(
    count=st.integers(1, 5000),
    sigma=st.floats(0, 4),
    scale=st.floats(-10, 10),
    rounded=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_share_of_the_heaviest_edges_is_that_of_a_sort(
    count: int, sigma: float, scale: float, rounded: bool, seed: int
) -> None:
    weights = np.exp(scale + sigma * np.random.default_rng(seed).standard_normal(count))
    if rounded:
        weights = np.maximum(1, weights.round())
    entry = summarize(ranges_of(weights.tolist()))
    top = -(-count // 1000)
    share = np.sort(weights)[-top:].sum() / weights.sum()
    assert entry.top_edges == top
    # At most the width of a range off, for the edges of the range that is divided.
    assert entry.top_share == pytest.approx(share, rel=2 ** (1 / RANGES_PER_OCTAVE) - 1 + 1e-3)
    assert entry.mean == pytest.approx(weights.mean(), rel=1e-3)
    assert entry.max == weights.max()


def prepared(small_config: SmallConfig, folder: Path, weights: dict[str, Any], **settings: Any) -> Manifest:
    """One relation for each list of weights, all in training; None for a relation of a source without weights."""
    sources = []
    folder.mkdir(exist_ok=True)
    for name, of in weights.items():
        count = 300 if of is None else len(of)
        columns = {"lhs": [f"u{n}" for n in range(count)], "rhs": [f"t{n % 40}" for n in range(count)]}
        source = {"path": str(folder / f"{name}.parquet"), "relation": name, "split": "train"}
        if of is not None:
            columns["w"], source["weight"] = of, "w"
        pq.write_table(pa.table(columns), source["path"])
        sources.append(source)
    relations = [{"name": name, "lhs": "user", "rhs": "tweet"} for name in weights]
    config = small_config(prepare={"sources": sources, "split": None, **settings}, model={"relations": relations})
    return prepare(config, str(folder / "run"))


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.WARNING, log.name)
    return caplog


LISTENS = np.exp(5 + 2 * np.random.default_rng(1).standard_normal(2000)).round() + 1

SKEWS: dict[str, tuple[list[float], str | None]] = {
    # The weights, and what is said of them.
    "equal": ([1.0] * 500, None),
    "equal and heavy": ([1e20] * 500, None),
    "few": ([1.0, 2.0, 3.0], None),
    "one": ([7.0], None),
    "stars": ([float(1 + n % 5) for n in range(500)], None),
    "mild": (np.exp(np.random.default_rng(0).standard_normal(2000)).tolist(), None),
    "one of few": (
        [1.0] * 9 + [1e30],
        "100% of their sum is that of the heaviest edge of 10, up to 1e+30 at a mean ",
    ),
    "huge": ([1.0] * 199 + [1e30], "100% of their sum is that of the heaviest edge of 200, up to 1e+30 at a mean of"),
    "heavy": ([1.0] * 999 + [111.0], "10% of their sum is that of the heaviest edge of 1,000, up to 111 at a mean of"),
    "just below": ([1.0] * 999 + [49.0], None),
    "two of 2,000": (
        [1.0] * 1998 + [222.0] * 2,
        "18% of their sum is that of the 2 heaviest edges of 2,000, up to ",
    ),
    "listens": (LISTENS.tolist(), "heaviest edges of 2,000, up to "),
    "logarithms of them": (np.log1p(LISTENS).tolist(), None),
}


@pytest.mark.parametrize("case", SKEWS)
def test_weights_that_decide_the_loss_are_pointed_out(
    case: str, small_config: SmallConfig, tmp_path: Path, warned: pytest.LogCaptureFixture
) -> None:
    weights, expected = SKEWS[case]
    prepared(small_config, tmp_path, {"likes": weights, "sees": None})
    said = [line for line in warned.messages if "weights of" in line]
    assert len(said) == (expected is not None)
    for line in said:
        assert line.startswith("prepare: weights of likes: ")
        assert expected is not None
        assert expected in line
        assert "logarithm" in line


def test_describe_shows_them(small_config: SmallConfig, tmp_path: Path) -> None:
    weights = {"likes": [1.0, 2.0, 4.0, 9.0], "sees": None, "hears": [1.0] * 1998 + [222.0, 223.0]}
    prepared(small_config, tmp_path, weights)
    found = json.loads(twhin("describe", tmp_path / "run", "--json").stdout)["weights"]
    assert found == [  # the relations with the most edges first; the heaviest 0.1 % of 2,000 edges are two
        {"relation": "hears", "edges": 2000, "mean": 1.222, "max": 223.0, "top_edges": 2, "top_share": 0.1822},
        {"relation": "sees", "edges": 300, "mean": 1.0, "max": 1.0, "top_edges": 1, "top_share": 0.003333},
        {"relation": "likes", "edges": 4, "mean": 4.0, "max": 9.0, "top_edges": 1, "top_share": 0.5625},
    ]  # fmt: skip
    lines = twhin("describe", tmp_path / "run").stdout
    assert "relation\tedges\tmean\tmax\ttop_edges\ttop_share\nhears\t2000\t1.222\t223\t2\t0.1822\n" in lines
    prepared(small_config, tmp_path / "without", {"sees": None})
    assert "weights" not in json.loads(twhin("describe", tmp_path / "without/run", "--json").stdout)


def test_each_relation_has_its_own_statistics(small_config: SmallConfig, tmp_path: Path) -> None:
    manifest = prepared(small_config, tmp_path, {"likes": [1.0, 2.0, 4.0, 9.0], "sees": None})
    likes, sees = (entry.weights for entry in manifest.relations)
    assert likes is not None
    assert sees is not None
    assert likes.model_dump() == {"mean": 4.0, "max": 9.0, "top_edges": 1, "top_share": 0.5625}
    assert sees.model_dump() == {"mean": 1.0, "max": 1.0, "top_edges": 1, "top_share": 0.003333}


def test_a_graph_without_weights_has_no_statistics(small_config: SmallConfig, tmp_path: Path) -> None:
    assert [entry.weights for entry in prepared(small_config, tmp_path, {"sees": None}).relations] == [None]


def test_counts_are_weights(small_config: SmallConfig, tmp_path: Path, warned: pytest.LogCaptureFixture) -> None:
    columns = {"lhs": [f"u{n}" for n in range(200)] + ["u0"] * 300, "rhs": ["t1"] * 500}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    source = {"path": str(tmp_path / "r.parquet"), "relation": "sees", "split": "train"}
    config = small_config(
        prepare={"sources": [source], "split": None, "repeats": "count"},
        model={"relations": [{"name": "sees", "lhs": "user", "rhs": "tweet"}]},
    )
    (entry,) = prepare(config, str(tmp_path / "run")).relations
    assert entry.weights is not None
    assert (entry.weights.max, entry.weights.mean) == (301.0, 2.5)
    assert "weights of sees: 60% of their sum is that of the heaviest edge of 200" in warned.text
