"""The section `prepare`: invalid settings, and the meaning of time bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import SmallConfig
from twhin_core.config import file as config_file
from twhin_core.config.time_window import TimeWindow
from twhin_core.errors import UserError

TIMED: dict[str, Any] = {"path": "x.parquet", "relation_column": "relation", "timestamp": "time"}
PLAIN = {key: value for key, value in TIMED.items() if key != "timestamp"}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no origin": ({"sources": []}, "prepare: needs either sources or generate"),
    "two origins": ({"generate": {}}, "prepare: needs either sources or generate"),
    "two relations": ({"sources": [{**PLAIN, "relation": "fav"}]}, "sources.0: needs exactly one of relation"),
    "a split for some sources": (
        {"sources": [{**PLAIN, "split": "train"}, PLAIN]},
        "either every source has a split or",
    ),
    "two ways to split": ({"sources": [{**PLAIN, "split": "train"}]}, "prepare.split: has no effect"),
    "nothing to train on": ({"split": {"validation": 0.5, "test": 0.5}}, "prepare.split: validation and test together"),
    "split by last without numbers": (
        {"sources": [TIMED], "split": {"by": "last"}},
        "prepare.split.validation: by: last",
    ),
    "half an edge": (
        {"sources": [TIMED], "split": {"by": "last", "validation": 1, "test": 0.5}},
        "prepare.split.test: by: last needs an integer",
    ),
    "split by last without times": (
        {"sources": [TIMED, PLAIN], "split": {"by": "last", "validation": 1, "test": 1}},
        "prepare.split.by: last needs a timestamp column in every source",
    ),
    "a time split without times": ({"split": {"by": "time"}}, "prepare.split.by: time needs a timestamp column"),
    "a window without times": ({"time_window": {"start": 1}}, "prepare.time_window: needs a timestamp column"),
    "an open window": ({"sources": [TIMED], "time_window": {}}, "prepare.time_window: needs start, end or both"),
    "a window of two types": (
        {"sources": [TIMED], "time_window": {"start": 1, "end": "2020-01-01"}},
        "prepare.time_window: start and end must both be",
    ),
    "a window without a time": (
        {"sources": [TIMED], "time_window": {"start": "soon"}},
        "prepare.time_window.start: neither an integer nor an ISO date or time: 'soon'",
    ),
    "an empty window": (
        {"sources": [TIMED], "time_window": {"start": "2020-01-01", "end": "2020-01-01T00:00"}},
        "prepare.time_window.end: must be later than start",
    ),
    "repeats by time without times": ({"repeats": "last"}, "prepare.repeats: last needs a timestamp column"),
    "weights that a count ignores": (
        {"sources": [{**PLAIN, "weight": "w"}], "repeats": "count"},
        "prepare.sources.0.weight: has no effect with repeats: count",
    ),
    "a share of 0": ({"sampling": {"fav": 0.0}}, "prepare.sampling.fav: input should be greater than 0"),
    "a share above 1": ({"sampling": {"fav": 1.5}}, "prepare.sampling.fav: input should be less than or equal to 1"),
    "a share of an unknown relation": (
        {"sampling": {"poke": 0.5}},
        "prepare.sampling: no relation named 'poke'; there are",
    ),
    "a degree of an unknown table": (
        {"min_degree": {"users": 2}},
        "prepare.min_degree: no table named 'users'; there are",
    ),
    "a Spark master with DuckDB": (
        {"spark_master": "local[2]"},
        "prepare.spark_master: has no effect with engine: duckdb",
    ),
    "an unknown type of master": ({"engine": "spark", "spark_master": "mesos://x"}, "prepare.spark_master: "),
    "remote scratch space with DuckDB": (
        {"temp_directory": "gs://b/t"},
        "prepare.temp_directory: DuckDB needs a local folder",
    ),
    "remote scratch space with Spark on one machine": (
        {"engine": "spark", "temp_directory": "s3://b/t"},
        "prepare.temp_directory: Spark on one machine needs a local folder",
    ),
    "a cluster without shared scratch space": (
        {"engine": "spark", "spark_master": "yarn"},
        "prepare.temp_directory: is required on a cluster",
    ),
    "rounds without a minimum": (
        {"min_degree_rounds": 3},
        "prepare.min_degree_rounds: has no effect without min_degree",
    ),
}


@pytest.mark.parametrize(("section", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_gives_one_line_that_names_the_key(
    small_config: SmallConfig, section: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        small_config(prepare=section)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("start", "second"),
    [
        (17, 17),
        ("1970-01-02", 86_400),
        ("1970-01-01T01:00:00", 3600),
        ("1970-01-01T01:00:00+02:00", -3600),
        ("1970-01-01T00:00:00.5", 1),  # times are whole seconds; bounds are rounded up
    ],
)
def test_a_bound_is_an_integer_or_seconds_since_1970(start: int | str, second: int) -> None:
    assert TimeWindow(start=start).bounds == (second, None)


def test_dates_need_no_quotes_and_survive_saving(small_config: SmallConfig) -> None:
    tree = json.loads(config_file.to_line(small_config(prepare={"sources": [TIMED]})))
    config = config_file.parse(
        json.dumps(tree), overrides=["prepare.time_window={start: 2023-01-01, end: 2023-01-01 12:00:00}"]
    )
    assert config.prepare is not None
    assert config.prepare.time_window is not None
    assert config.prepare.time_window.bounds == (1672531200, 1672574400)
    assert config_file.parse(config_file.to_yaml(config)) == config
    assert config_file.parse(config_file.to_line(config)) == config


@pytest.mark.parametrize(
    "key",
    [
        "training.save_dir", "training.initial_checkpoint_dir", "train_data.data_root", "evaluation.previous",
        "export.align", "export.map.to", "prepare.graph", "prepare.previous", "prepare.sources.0.path",
        "prepare.features.0.path", "prepare.labels.0.path",
    ],
)  # fmt: skip
@pytest.mark.parametrize("url", ["ftp://host/x", "s3a://bucket/x", "https://host/x", "s3://"])
def test_a_place_that_no_store_here_has_is_refused_with_its_key(key: str, url: str) -> None:
    section, _, rest = key.partition(".")
    name = rest.partition(".")[0]
    entries = {
        "sources": {"path": url, "relation": "r"},
        "features": {"table": "user", "path": url, "column": "vector"},
        "labels": {"table": "user", "path": url},
        "map": {"to": url},
    }
    of_list = name in entries and name != "map"
    value = json.dumps([entries[name]] if of_list else entries.get(name, url))
    with pytest.raises(UserError, match=f"{key}: {url}: (only local paths, gs://, s3:// and abfs://|names no bucket)"):
        config_file.load("configs/quickstart.yaml", [f"{section}.{name}={value}"])


def test_spark_may_spill_to_any_system() -> None:
    settings = {"prepare.engine": "spark", "prepare.spark_master": "yarn", "prepare.temp_directory": "hdfs://host/tmp"}
    config = config_file.load("configs/quickstart.yaml", [f"{key}={value}" for key, value in settings.items()])
    assert config.prepare is not None
    assert config.prepare.temp_directory == "hdfs://host/tmp"
