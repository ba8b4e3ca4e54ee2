"""The table of a series: figures of each version, and what keeps one from being published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SmallConfig
from twhin_core import storage
from twhin_core.config import Config, Gate
from twhin_core.errors import GateFailed
from twhin_core.run import saved_config
from twhin_core.series.publish import publish
from twhin_core.series.versions import list_series, list_versions
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare

# Of the graph of `small_config`: 600 edges, half of each relation, among 40 users and 30 tweets, and no rejected row.
MISSED = [
    ({"data.edges": {"max": 599}}, "data.edges is 600, above its gate of at most 599"),
    ({"data.edges": {"min": 601}}, "data.edges is 600, below its gate of at least 601"),
    ({"data.nodes": {"max": 69}}, "data.nodes is 70, above its gate of at most 69"),
    ({"data.user.nodes": {"min": 41}}, "data.user.nodes is 40, below its gate of at least 41"),
    ({"data.tweet.nodes": {"max": 29}}, "data.tweet.nodes is 30, above its gate of at most 29"),
    ({"data.fav.edges": {"max": 10}}, "data.fav.edges is 300, above its gate of at most 10"),
    ({"data.follow.edges": {"min": 1000}}, "data.follow.edges is 300, below its gate of at least 1000"),
    ({"data.rejected": {"min": 1}}, "data.rejected is 0, below its gate of at least 1"),
    ({"data.rejected_share": {"min": 0.5}}, "data.rejected_share is 0, below its gate of at least 0.5"),
    ({"data.user.new_share": {"max": 0.5}}, "data.user.new_share is 1, above its gate of at most 0.5"),
    (
        {"data.edges": {"max": 1}, "data.nodes": {"min": 1}, "data.tweet.lost": {"min": 1}},
        "data.edges is 600, above its gate of at most 1; data.tweet.lost is 0, below its gate of at least 1",
    ),
]


def state(series: str, version: str) -> str:
    return next(one.state for one in list_versions(series) if one.id == version)


def test_a_version_that_its_data_stopped_names_the_gate_and_the_figure(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    series = str(tmp_path / "models")
    root = f"{series}/versions/1"
    prepare(small_config(), root)
    assert state(series, "1") == "not published: not trained yet"
    for gates, reason in MISSED:
        with pytest.raises(GateFailed) as caught:
            prepare(small_config(evaluation={"gates": gates}), root)
        assert reason in str(caught.value)
        assert state(series, "1") == f"not published: {reason}"
    prepare(small_config(), root)
    assert state(series, "1") == "not published: not trained yet"


def test_a_version_that_was_exported_although_its_data_miss_a_gate_is_not_published(series: str) -> None:
    root = f"{series}/versions/2"
    evaluate(with_evaluation(root, gates={"data.edges": Gate(max=599)}), root)
    assert state(series, "2") == "not published: data.edges is 600, above its gate of at most 599"
    with pytest.raises(GateFailed, match=r"version 2 was not published: data\.edges is 600"):
        publish(series, "2")


def test_a_version_that_prepared_nothing_itself(series: str) -> None:
    """Its edges were made elsewhere, so they are not counted, and what is missing is a later stage."""
    root = Path(series, "versions/3")
    root.mkdir()
    config = saved_config(f"{series}/versions/1").model_dump(exclude_unset=True)
    (root / "config.yaml").write_text(json.dumps(config | {"prepare": None} | without_prepare(config)))
    found = next(one for one in list_versions(series) if one.id == "3")
    assert (found.edges, found.nodes, found.state) == (None, None, "not published: not trained yet")


def without_prepare(config: dict[str, object]) -> dict[str, object]:
    model = json.loads(json.dumps(config["model"]))
    for table in model["embeddings"]["tables"]:
        table["num_embeddings"] = 10
    return {"model": model, "train_data": {**dict(config["train_data"]), "data_root": "edges"}}  # type: ignore[call-overload]


def with_evaluation(root: str, **changes: object) -> Config:
    config = saved_config(root)
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changes)})


def test_the_columns_are_the_headlines_of_the_configs(series: str) -> None:
    root = f"{series}/versions/2"
    evaluate(with_evaluation(root, headline="recall@20"), root)
    listing = list_series(series, list_versions(series))
    assert [column.heading for column in listing.columns] == [
        "version", "edges", "nodes", "mrr_rhs", "recall@20", "state",
    ]  # fmt: skip
    for row in listing.rows:
        figures = storage.read_json(f"{series}/versions/{row[0]}/evaluation/metrics.json")["test"]["all"]
        assert row[1:5] == [600, 70, figures["mrr_rhs"], figures["recall@20"]]


def test_the_drift_is_that_of_the_table_that_kept_the_fewest_neighbors(series: str) -> None:
    kept = {"1": None, "2": {"user": 0.5, "tweet": 0.25}, "10": {"user": 0.125, "tweet": 0.75}}
    for version, tables in kept.items():
        url = f"{series}/versions/{version}/evaluation/metrics.json"
        metrics = storage.read_json(url)
        if tables is not None:
            of = {name: {"all": {"nodes": 30, "cosine": 0.9, "neighbors@10": value}} for name, value in tables.items()}
            storage.write_json(url, metrics | {"drift": {"tables": of, "relations": {}}})
    listing = list_series(series, list_versions(series))
    at = [column.heading for column in listing.columns].index("neighbors@10")
    assert {row[0]: row[at] for row in listing.rows} == {"1": None, "2": 0.25, "10": 0.125}
    assert [column.heading for column in listing.columns][at + 1 :] == ["state"]
