"""Gates that name a baseline: its value in the same run is the bound, and it must be computed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import SmallConfig
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.evaluation.gates import check_names, decide

METRICS: dict[str, Any] = {
    "test": {"all": {"mrr": 0.2, "amri": -0.2}, "fav": {"recall@20": 0.5}, "follow": {"mrr": 0.3}},
    "degrees": {
        "model": {"query": {"0": {"mrr": 0.1}}, "answer": {}},
        "popularity": {"query": {"0": {"mrr": 0.125}}, "answer": {}},
    },
    "baselines": {
        "popularity": {"all": {"mrr": 0.1, "amri": -0.1}, "fav": {"recall@20": 0.5}},
        "random": {"all": {"mrr": 0.001}},
    },
    "lists": {
        "relations": {
            "fav": {
                "figures": {
                    "model": {"recall@10": 0.25, "diversity@10": 0.5},
                    "popularity": {"recall@10": 0.125},
                    "item-item": {"recall@10": 0.5},
                }
            }
        }
    },
    "checkpoint": 100,
}
"""Popularity is twice as bad as the model over all relations, ties in fav, is better without a degree, and has no
figure of follow."""


def config_of(small_config: SmallConfig, path: str, gate: dict[str, Any], **evaluation: Any) -> Config:
    section: dict[str, Any] = {"gates": {path: gate}, "lists": {}, **evaluation}
    return small_config(evaluation=section, recommend={"fav": {}})


@pytest.mark.parametrize(
    ("path", "gate", "miss"),
    [
        ("test.all.mrr", {"at_least_baseline": "popularity"}, None),
        ("test.all.mrr", {"at_least_baseline": "random", "factor": 100.0}, None),
        ("test.all.mrr", {"at_least_baseline": "popularity", "factor": 1.5}, None),
        (
            "test.all.mrr",
            {"at_least_baseline": "popularity", "factor": 2.5},
            "is 0.2, 0.05 below 2.5 times the 0.1 of popularity",
        ),
        ("test.all.amri", {"at_least_baseline": "popularity"}, "is -0.2, 0.1 below the -0.1 of popularity"),
        ("test.fav.recall@20", {"at_least_baseline": "popularity"}, None),
        ("test.follow.mrr", {"at_least_baseline": "popularity"}, "is 0.3, popularity has no value to compare with"),
        (
            "test.degrees.query.0.mrr",
            {"at_least_baseline": "popularity"},
            "is 0.1, 0.025 below the 0.125 of popularity",
        ),
        ("lists.fav.recall@10", {"at_least_baseline": "item-item"}, "is 0.25, 0.25 below the 0.5 of item-item"),
        ("lists.fav.recall@10", {"at_least_baseline": "item-item", "factor": 0.5}, None),
        ("lists.fav.recall@10", {"at_least_baseline": "popularity", "factor": 2.0}, None),
        ("lists.fav.diversity@10", {"at_least_baseline": "random"}, "is 0.5, random has no value to compare with"),
        (
            "lists.fav.recall@10",
            {"min": 0.3, "at_least_baseline": "item-item"},
            "is 0.25, 0.05 below its gate of at least 0.3 and 0.25 below the 0.5 of item-item",
        ),
    ],
)
def test_the_value_of_the_baseline_is_the_bound(
    small_config: SmallConfig, path: str, gate: dict[str, Any], miss: str | None
) -> None:
    config = config_of(small_config, path, gate)
    check_names(config)
    (decided,) = decide(config, METRICS)["gates"]
    assert decided["passed"] == (miss is None)
    assert decided["reason"] == f"{path} {miss}" or miss is None
    assert decided["bounds"] == gate


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it makes a config, and keeps none
@given(st.floats(0, 1), st.floats(0, 1), st.one_of(st.none(), st.floats(0.01, 100)))
def test_it_passes_what_is_at_least_the_factor_times_the_baseline(
    small_config: SmallConfig, value: float, baseline: float, factor: float | None
) -> None:
    gate = {"at_least_baseline": "popularity"} | ({} if factor is None else {"factor": factor})
    metrics = METRICS | {"test": {"all": {"mrr": value}}, "baselines": {"popularity": {"all": {"mrr": baseline}}}}
    (decided,) = decide(config_of(small_config, "test.all.mrr", gate), metrics)["gates"]
    assert decided["passed"] == (value >= baseline * (factor or 1))
    assert decided["baseline"] == baseline


@pytest.mark.parametrize(
    ("path", "gate", "evaluation", "message"),
    [
        ("lists.fav.recall@10", {"at_least_baseline": "item-item"}, {"lists": {"baselines": ["random"]}},
         r"gates\.lists\.fav\.recall@10\.at_least_baseline: item-item is not computed; add it to evaluation\.lists"),
        ("lists.fav.recall@10", {"at_least_baseline": "popularity"}, {"lists": {"baselines": []}},
         "popularity is not computed; add it to evaluation.lists.baselines"),
        ("lists.fav.recall@10", {"at_least_baseline": "random"}, {"lists": None}, "needs evaluation.lists"),
        ("lists.fav.recall@10", {"at_least_baseline": "item_cf"}, {}, "at_least_baseline: .*item-item"),
        ("lists.fav.recall@10", {"at_least_baseline": "without prior"}, {}, "at_least_baseline: .*item-item"),
        ("test.all.mrr", {"at_least_baseline": "item-item"}, {},
         r"gates\.test\.all\.mrr\.at_least_baseline: item-item is not computed for this figure, as popularity and "
         "random is; it makes lists"),
        ("test.degrees.query.0.mrr", {"at_least_baseline": "random"}, {}, "random is not computed for this figure, as "
         "popularity is"),
        ("test.all.auc_reference", {"at_least_baseline": "popularity"}, {}, "no baseline has this figure"),
        ("drift.user.cosine", {"at_least_baseline": "popularity"}, {"previous": "runs/a"}, "no baseline has this"),
        ("data.edges", {"at_least_baseline": "popularity"}, {}, "no baseline has this figure; set min or max"),
        ("validation.all.mrr", {"at_least_baseline": "popularity"}, {}, "no baseline has this figure"),
        ("test.all.mrr", {"factor": 2.0, "min": 0}, {}, "factor: needs at_least_baseline"),
        ("test.all.mrr", {"at_least_baseline": "popularity", "factor": 0.0}, {}, "factor: "),
        ("test.all.mrr", {}, {}, "needs min, max, max_drop or at_least_baseline"),
        ("test.al.mrr", {"at_least_baseline": "popularity"}, {}, "test.al.mrr names no metric; near it: test.all.mrr"),
    ],
)  # fmt: skip
def test_a_baseline_that_is_not_computed_is_refused_by_the_config(
    small_config: SmallConfig, path: str, gate: dict[str, Any], evaluation: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_names(config_of(small_config, path, gate, **evaluation))
    assert "\n" not in str(error.value)
