"""What a sweep may try: the mistakes that are refused before any work, and the config of each combination."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig, small_configs
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.config.sweep import PRESETS
from twhin_core.errors import UserError
from twhin_core.tuning.space import check, combine, measured, own_values, short_names, sweep_of, with_values

LR = "model.embeddings.tables.*.optimizer.rowwise_adagrad.lr"

MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a misspelt key": ({"model.temprature": {"log": [0.1, 1.0]}}, ["space.model.temprature", "temperature?"]),
    "no such section": ({"modle.temperature": {"log": [0.1, 1.0]}}, ["space.modle.temperature", "model"]),
    "no such position": (
        {"model.embeddings.tables.7.embedding_dim": {"choice": [8, 16]}},
        ["space.model.embeddings.tables.7.embedding_dim", "no key"],
    ),
    "a text for a number": ({"model.temperature": {"choice": [0.1, "low"]}}, ["space.model.temperature", "'low'"]),
    "a fraction for an integer": ({"training.num_epochs": {"uniform": [1.0, 2.0]}}, ["space.training.num_epochs"]),
    "out of the key's range": ({"model.temperature": {"uniform": [-1.0, 2.0]}}, ["space.model.temperature", "-1"]),
    "not a multiple of 4": (
        {"model.embeddings.tables.*.embedding_dim": {"integer": [8, 16]}},
        ["tables.*.embedding_dim", "multiple of 4", "9"],
    ),
    "what has no effect, after a key that has": (
        {"model.temperature": {"log": [0.1, 1.0]}, "model.margin": {"log": [0.2, 1.0]}},
        ["space.model.margin", "ranking"],
    ),
    "an empty range": ({"model.temperature": {"log": [0.5, 0.05]}}, ["space.model.temperature.log", "empty range"]),
    "a range of one number": ({"model.temperature": {"uniform": [1.0, 1.0]}}, ["temperature.uniform", "empty range"]),
    "a logarithm of 0": ({"model.temperature": {"log": [0.0, 1.0]}}, ["space.model.temperature.log", "above 0"]),
    "one end": ({"model.temperature": {"log": [0.1]}}, ["space.model.temperature.log"]),
    "a fraction as an end": ({"training.num_epochs": {"integer": [1, 2.5]}}, ["training.num_epochs.integer", "2.5"]),
    "two kinds": ({"model.temperature": {"log": [0.1, 1.0], "choice": [1.0]}}, ["temperature", "log, choice"]),
    "no kind": ({"model.temperature": {}}, ["space.model.temperature", "none"]),
    "no section": ({"model.temperature": 0.3}, ["space.model.temperature"]),
    "no choice": ({"model.loss": {"choice": []}}, ["space.model.loss.choice"]),
    "a choice twice": ({"model.loss": {"choice": ["bce", "bce"]}}, ["space.model.loss", "twice"]),
    "an unknown kind": ({"model.loss": {"chioce": ["bce"]}}, ["space.model.loss.chioce", "choice?"]),
    "what the graph is made of": ({"prepare.self_loops": {"choice": ["keep", "drop"]}}, ["space.prepare.self_loops"]),
    "a relation's name": ({"model.relations.0.lhs": {"choice": ["user"]}}, ["relations.0.lhs", "the graph"]),
    "all tables": ({"model.embeddings": {"choice": [{}]}}, ["space.model.embeddings", "the graph"]),
    "how it is measured": ({"evaluation.recall_at": {"choice": [[5], [6]]}}, ["space.evaluation.recall_at"]),
    "the same key twice": (
        {"model.temperature": {"log": [0.1, 1.0]}, "model.margin": {"log": [0.1, 1.0], "also": ["model.temperature"]}},
        ["space.model.temperature", "twice"],
    ),
    "a wrong key beside": (
        {"model.temperature": {"log": [0.1, 1.0], "also": ["model.marign"]}},
        ["space.model.temperature", "model.marign"],
    ),
    "a condition on nothing": (
        {"model.temperature": {"log": [0.1, 1.0], "when": {"model.loss": "bce"}}},
        ["space.model.temperature.when", "model.loss"],
    ),
    "a condition on what comes later": (
        {"model.margin": {"log": [0.1, 1.0], "when": {"model.loss": "bce"}}, "model.loss": {"choice": ["bce"]}},
        ["space.model.margin.when", "earlier"],
    ),
    "a condition that never holds": (
        {"model.loss": {"choice": ["bce"]}, "model.margin": {"log": [0.1, 1.0], "when": {"model.loss": "ranking"}}},
        ["space.model.margin.when.model.loss", "'ranking'"],
    ),
}  # fmt: skip

SETTINGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no such metric": ({"metric": "validation.all.recal@20"}, ["sweep.metric", "recall@20"]),
    "no such relation": ({"metric": "validation.folow.recall@20"}, ["sweep.metric", "validation.follow"]),
    "a metric of test edges": ({"metric": "test.all.recall@20"}, ["sweep.metric", "final"]),
    "a budget without a unit": ({"budget": "12"}, ["sweep.budget", "12h"]),
    "no budget": ({"budget": 0}, ["sweep.budget", "above 0"]),
    "no trials": ({"trials": 0}, ["sweep.trials"]),
    "no such stopping": ({"stopping": "mean"}, ["sweep.stopping", "median"]),
    "no space": ({"space": {}}, ["sweep.space"]),
}


def of(build: SmallConfig, space: dict[str, Any], **settings: Any) -> Config:
    return build(sweep={"space": space, **settings})


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_space_is_one_line_that_names_the_key(name: str, small_config: SmallConfig) -> None:
    space, fragments = MISTAKES[name]
    with pytest.raises(UserError) as error:
        check(of(small_config, space))
    assert "\n" not in str(error.value)
    assert not [fragment for fragment in fragments if fragment not in str(error.value)], error.value


@pytest.mark.parametrize("name", SETTINGS)
def test_a_mistake_beside_the_space_is_one_line_too(name: str, small_config: SmallConfig) -> None:
    settings, fragments = SETTINGS[name]
    with pytest.raises(UserError) as error:
        check(of(small_config, **{"space": {"model.loss": {"choice": ["bce"]}}, **settings}))
    assert not [fragment for fragment in fragments if fragment not in str(error.value)], error.value


def test_the_command_refuses_a_mistake_before_any_work(small_config: SmallConfig, tmp_path: Path) -> None:
    path, root = tmp_path / "config.yaml", tmp_path / "sweep"
    path.write_text(config_file.to_yaml(of(small_config, {"model.temprature": {"log": [0.1, 1.0]}})))
    ran = twhin("tune", path, "--run-root", root)
    assert_refused(ran, "sweep.space.model.temprature", "did you mean temperature?")
    assert not root.exists()
    path.write_text(config_file.to_yaml(small_config()))
    assert_refused(twhin("tune", path, "--run-root", root), "sweep", "retrieval")


NUMBERS = {"model.temperature": "log", "model.init_std": "uniform", "train_data.global_negatives": "integer"}


@st.composite
def combinations(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A space over some keys, and what each draws: numbers, a choice, and a number that only counts with it."""
    space: dict[str, Any] = {}
    drawn: dict[str, Any] = {}
    for key in draw(st.lists(st.sampled_from(sorted(NUMBERS)), unique=True)):
        low = draw(st.integers(1, 50))
        high = low + draw(st.integers(1, 50))
        ends = [low, high] if NUMBERS[key] == "integer" else [float(low), float(high)]
        space[key] = {NUMBERS[key]: ends}
        drawn[key] = draw(st.integers(low, high) if NUMBERS[key] == "integer" else st.floats(low, high))
    space["model.comparator"] = {"choice": ["dot", "cos", "l2"]}
    drawn["model.comparator"] = draw(st.sampled_from(["dot", "cos", "l2"]))
    admitted = draw(st.sampled_from(["dot", "l2", ["dot", "cos"]]))
    space[LR] = {"log": [0.01, 1.0], "when": {"model.comparator": admitted}}
    drawn[LR] = draw(st.floats(0.01, 1.0))
    return space, drawn


@settings(max_examples=60)
@given(made=combinations())
def test_a_trial_differs_from_the_config_in_the_values_that_count(
    made: tuple[dict[str, Any], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    space, drawn = made
    build = small_configs(tmp_path_factory.getbasetemp())
    config = of(build, space)
    check(config)
    asked: list[str] = []

    def draw(key: str, _: object) -> Any:
        asked.append(key)
        return drawn[key]

    values = combine(sweep_of(config), draw)
    admitted = space[LR]["when"]["model.comparator"]
    counts = drawn["model.comparator"] in (admitted if isinstance(admitted, list) else [admitted])
    assert asked == [key for key in space if key != LR or counts]

    expected = build().model_dump()
    for key in set(asked) - {LR}:
        section, name = key.split(".")
        expected[section][name] = drawn[key]
    for table in expected["model"]["embeddings"]["tables"]:
        if counts:
            table["optimizer"]["rowwise_adagrad"]["lr"] = drawn[LR]
    assert with_values(config, values).model_dump() == expected


def test_the_config_keeps_its_own_values_and_a_section_may_be_a_choice(small_config: SmallConfig) -> None:
    before = small_config().model_dump()
    prior = {"weight": 0.5, "sides": ["rhs"]}
    config = of(
        small_config,
        {
            "model.prior": {"choice": [None, prior]},
            "model.temperature": {"uniform": [0.5, 2.0]},
            LR: {"log": [1.0, 2.0]},
        },
    )
    # The rate of .1 is not in the space, so the first trial draws it.
    assert own_values(config) == {"model.prior": "null", "model.temperature": 1.0}
    values = combine(
        sweep_of(config),
        lambda key, _: {"model.prior": '{"weight":0.5,"sides":["rhs"]}', "model.temperature": 1.5, LR: 1.25}[key],
    )
    assert with_values(config, values).model_dump()["model"]["prior"] == prior
    assert config.model_copy(update={"sweep": None}).model_dump() == before


def test_a_trial_is_measured_by_its_metric_alone(small_config: SmallConfig) -> None:
    config = small_config(
        sweep={"space": {"model.loss": {"choice": ["bce"]}}, "metric": "validation.fav.hits@3_rhs"},
        evaluation={"gates": {"test.all.mrr": {"min": 0.5}}, "hits_at": [3]},
    )
    evaluation = measured(config).evaluation
    assert (evaluation.split, list(evaluation.gates)) == ("validation", ["validation.fav.hits@3_rhs"])


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["model.temperature"], ["temperature"]),
        (["model.temperature", "model.margin"], ["temperature", "margin"]),
        (
            ["model.translation_optimizer.adagrad.lr", LR],
            ["adagrad_lr", "rowwise_adagrad_lr"],
        ),
        (
            ["model.embeddings.tables.0.embedding_dim", "model.embeddings.tables.1.embedding_dim"],
            ["0_embedding_dim", "1_embedding_dim"],
        ),
    ],
)  # fmt: skip
def test_short_names_are_the_ends_that_tell_keys_apart(
    keys: list[str], names: list[str], small_config: SmallConfig
) -> None:
    space = {key: {"uniform": [0.1, 0.2]} for key in keys}
    assert list(short_names(sweep_of(of(small_config, space))).values()) == names


RECIPES = {"retrieval": "configs/quickstart.yaml", "facts": "configs/fb15k_237.yaml"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fits_its_recipe_which_is_its_first_trial(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWHIN_DATA", "data")
    config = config_file.load(RECIPES[name], [f"sweep={name}"])
    check(config)
    values = own_values(config)
    assert set(values) >= {key for key, of in PRESETS[name]["space"].items() if "log" in of and "when" not in of}
    made = with_values(config, combine(sweep_of(config), lambda key, _: values[key]))
    assert made.model_dump() == config.model_copy(update={"sweep": None}).model_dump()


@pytest.mark.parametrize(
    ("preset", "own", "expected"),
    [
        # The recipe's rate, as the config has another optimizer, and the config's temperature where the space has it.
        ("retrieval", {}, {"lr": 3.0, "prior": "null"}),
        ("retrieval", {"temperature": 0.2}, {"lr": 3.0, "prior": "null", "temperature": 0.2}),
        ("retrieval", {"temperature": 0.5}, {"lr": 3.0, "prior": "null"}),
        # The prior as docs/tuning.md writes it is the preset's, which leaves out the default sides.
        ("retrieval", {"prior": {"weight": 0.5, "sides": ["rhs", "lhs"]}}, {"lr": 3.0, "prior": '{"weight":0.5}'}),
        ("retrieval", {"prior": {"weight": 0.5}}, {"lr": 3.0, "prior": '{"weight":0.5}'}),
        ("retrieval", {"prior": {"weight": 0.25}}, {"lr": 3.0}),
        ("facts", {}, {"lr": 0.2, "comparator": "dot"}),
        ("facts", {"comparator": "l2"}, {"lr": 0.2, "comparator": "l2"}),
        ("facts", {"comparator": "squared_l2"}, {"lr": 0.2}),
        (
            "facts",
            {"regularization": {"tables": 0.01, "relations": 0.01}},
            {"lr": 0.2, "comparator": "dot", "tables": 0.01},
        ),
    ],
)
def test_the_first_trial_is_the_config_with_what_its_preset_sets(
    preset: str, own: dict[str, Any], expected: dict[str, Any], small_config: SmallConfig
) -> None:
    config = small_config(sweep=preset, model=own)
    check(config)
    names = short_names(sweep_of(config))
    assert {names[key]: value for key, value in own_values(config).items()} == expected


def test_every_trial_of_facts_learns_relations_as_fast_as_tables(small_config: SmallConfig) -> None:
    config = small_config(sweep="facts")
    key = "model.embeddings.tables.*.optimizer.rowwise_adagrad.lr"
    for rate in (0.05, 0.3, 0.8):
        drawn = {key: rate, "model.comparator": "l2"}
        made = with_values(config, combine(sweep_of(config), lambda key, _, drawn=drawn: drawn[key])).model_dump()
        rates = [table["optimizer"]["rowwise_adagrad"]["lr"] for table in made["model"]["embeddings"]["tables"]]
        assert [*rates, made["model"]["translation_optimizer"]["adagrad"]["lr"]] == [rate] * (len(rates) + 1)


def test_a_preset_can_be_changed(small_config: SmallConfig) -> None:
    sweep = sweep_of(
        small_config(sweep={"preset": "facts", "trials": 3, "space": {"model.comparator": {"choice": ["dot", "cos"]}}})
    )
    assert (sweep.trials, sweep.metric) == (3, "validation.all.mrr")
    assert sweep.space["model.comparator"].choice == ["dot", "cos"]
    assert set(sweep.space) == set(PRESETS["facts"]["space"])
