"""Plans: what they contain, what does not fit, and initial weights that do not depend on them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import SmallConfig
from tests.ranks import run_ranks
from tests.training.test_step import SHARDINGS, whole_weights
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.errors import UserError
from twhin_core.schema import Schema
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training import plan
from twhin_core.training.build import TrainableModel, build
from twhin_core.training.initialise import ROWS_PER_BLOCK
from twhin_core.training.plan import TablePlan, TableShard, show

ROWS = {"user": 7, "tweet": 8 * ROWS_PER_BLOCK + 5}


def make_config(sharding: str, optimizer: str = "adagrad", tweets: int = ROWS["tweet"]) -> Config:
    table = {"embedding_dim": 8, "sharding": sharding, "optimizer": {optimizer: {"lr": 0.1}}}
    rows = {**ROWS, "tweet": tweets}
    tree = {
        "model": {
            "embeddings": {"tables": [{"name": name, "num_embeddings": rows[name], **table} for name in rows]},
            "relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}],
            "translation_optimizer": {"sgd": {"lr": 0.1}},
        },
        "train_data": {"data_root": "unused", "per_replica_batch_size": 64, "global_negatives": 4},
    }
    return config_file.validate(Config, tree, "test")


def build_one(config: Config, ranks: Ranks) -> TrainableModel:
    sizes = {table.name: table.num_embeddings or 0 for table in config.model.embeddings.tables}
    return build(config, Schema(sizes, config.model.relations), ranks)


class Drawn(TorchDispatchMode):
    """Counts the rows drawn from a normal distribution, in total and at once."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.name() == "aten::normal_" and not args[0].is_meta:
            self.rows.append(args[0].shape[0])
        return function(*args, **(kwargs or {}))


def every_kind() -> dict[str, Any]:
    """By kind: the initial weights, this rank's plan, and the rows drawn here."""
    found = {}
    with process_group() as ranks:
        for kind in (*SHARDINGS, "auto"):
            with Drawn() as drawn:
                model = build_one(make_config(kind), ranks)
            found[kind] = {"weights": whole_weights(model), "plan": model.plan, "drawn": drawn.rows}
    return found


def refusals() -> list[str]:
    """A rank's errors for tables that do not fit, by kind: all ranks must raise them, and none may hang."""
    said = []
    with process_group() as ranks:
        for kind in ("auto", "row_wise", "table_wise", "data_parallel", "column_wise"):
            with pytest.raises(UserError) as refused:
                build_one(make_config(kind, tweets=10**13), ranks)
            said.append(str(refused.value))
    return said


def within_little_memory() -> tuple[list[str], list[str]]:
    """The kinds that `auto` chooses if a rank can hold half of the large table, and the errors for two such tables."""
    half = ROWS["tweet"] // 2 * 8 * 8  # bytes of weights and accumulators
    with patch.object(plan, "_memory_of", return_value=int(1.5 * half / (1 - plan.RESERVED))), process_group() as ranks:
        kinds = [table.sharding for table in build_one(make_config("auto"), ranks).plan]
        tree = make_config("auto").model_dump()
        tree["model"]["embeddings"]["tables"][0]["num_embeddings"] = ROWS["tweet"]
        with pytest.raises(UserError) as refused:
            build_one(config_file.validate(Config, tree, "test"), ranks)
        with pytest.raises(UserError) as alone:
            build_one(make_config("table_wise"), ranks)
        return kinds, [str(refused.value), str(alone.value)]


def test_auto_finds_what_fits_into_the_memory_of_the_ranks() -> None:
    first, second = run_ranks(2, within_little_memory)
    assert first == second
    kinds, (together, whole) = first
    assert kinds[1] == "row_wise"
    assert "no plan fits all tables into 6 MiB per rank; they need at least 8 MiB" in together
    assert (
        "tweet, 131,077 rows with sharding table_wise, needs 8 MiB on one rank, which has only 6 MiB available" in whole
    )


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return run_ranks(2, every_kind)


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return every_kind()


def test_initial_weights_are_the_same_however_the_tables_are_shared(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    expected = one["table_wise"]["weights"]
    assert np.std(expected["tables.embeddings.tweet.weight"]) == pytest.approx(0.01, rel=0.01)
    for results in (one, *two):
        for kind, result in results.items():
            assert result["weights"].keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_array_equal(result["weights"][name], value, err_msg=f"{kind}: {name}")


def test_a_rank_draws_no_more_than_the_rows_that_it_holds(two: list[dict[str, Any]]) -> None:
    for results in two:
        drawn = results["row_wise"]["drawn"]
        assert max(drawn) <= ROWS_PER_BLOCK, "never the whole table at once"
        # Half the table, in whole blocks; and one block for the half of the small one.
        assert sum(drawn) <= (4 + 1) * ROWS_PER_BLOCK + ROWS_PER_BLOCK


def test_every_row_is_somewhere_and_counted_with_its_optimizer(two: list[dict[str, Any]]) -> None:
    assert [[table.table for table in result["plan"]] for result in two[0].values()] == [["user", "tweet"]] * 5
    for kind, result in two[0].items():
        assert result["plan"] == two[1][kind]["plan"]
        for table in result["plan"]:
            cells = sum(part.rows * part.columns for part in table.parts)
            copies = 2 if kind == "data_parallel" else 1
            assert cells == copies * ROWS[table.table] * 8
            # fp32 weights and adagrad's fp32 accumulator; a replica also has gradients as large as itself.
            bytes_per_cell = 12 if kind == "data_parallel" else 8
            assert all(part.bytes == part.rows * part.columns * bytes_per_cell for part in table.parts)
            assert table.sharding == kind or kind == "auto"
    tweet = {kind: result["plan"][1] for kind, result in two[0].items()}
    assert Counter(part.rank for part in tweet["row_wise"].parts) == {0: 1, 1: 1}
    assert [part.columns for part in tweet["column_wise"].parts] == [4, 4]
    assert len(tweet["table_wise"].parts) == 1


def test_tables_that_no_rank_can_hold_are_refused_by_all_ranks() -> None:
    first, second = run_ranks(2, refusals)
    assert first == second
    kinds = ("auto", "row_wise", "table_wise", "data_parallel", "column_wise")
    for kind, message in zip(kinds, first, strict=True):
        assert f"tweet, 10,000,000,000,000 rows with sharding {kind}, needs" in message
        assert "\n" not in message
    # 8 columns of 4 bytes twice over, in all and on each of two ranks; thrice with gradients.
    for kind, message in zip(kinds, first, strict=True):
        needed = {"table_wise": 582.1, "data_parallel": 873.1}.get(kind, 291.0)
        assert f"needs {needed} TiB on one rank" in message


def test_tables_that_a_single_process_cannot_hold_are_refused() -> None:
    # 8 columns of 4 bytes twice over.
    with process_group() as ranks, pytest.raises(UserError, match=r"the tables need 582\.1 TiB, but this process"):
        build_one(make_config("auto", tweets=10**13), ranks)


def test_the_plan_is_logged_as_a_table_and_kept_with_the_run(
    trained: tuple[Config, str], caplog: pytest.LogCaptureFixture
) -> None:
    tables = json.loads((Path(trained[1]) / "training/plan.json").read_text())
    assert [(table["table"], table["parts"]) for table in tables] == [
        # 8 columns of 4 bytes and an accumulator of 4 bytes per row
        ("user", [{"rank": 0, "rows": 40, "columns": 8, "bytes": 40 * 36}]),
        ("tweet", [{"rank": 0, "rows": 30, "columns": 8, "bytes": 30 * 36}]),
    ]
    with caplog.at_level(logging.INFO, logger="twhin"):
        show([TablePlan("user", "row_wise", [TableShard(0, 5000, 8, 5000 * 36), TableShard(1, 4000, 8, 4000 * 36)])])
    assert [record.getMessage().split() for record in caplog.records] == [
        ["plan:", "table", "sharding", "ranks", "rows", "per", "rank", "columns", "memory", "per", "rank"],
        ["plan:", "user", "row_wise", "2", "5,000", "8", "175.8", "KiB"],
    ]


def test_a_run_goes_on_with_tables_shared_in_another_way(small_config: SmallConfig, tmp_path: Path) -> None:
    """Weights and accumulators of every kind go into a checkpoint, and out of it into another kind."""
    changed, same = str(tmp_path / "changed"), str(tmp_path / "same")

    def go_on(root: str, user: str, tweet: str, last_step: int) -> None:
        tree = small_config(training={"num_train_steps": last_step}).model_dump()
        for table, kind in zip(tree["model"]["embeddings"]["tables"], (user, tweet), strict=True):
            table["sharding"] = kind
        config = config_file.validate(Config, tree, "test")
        if not (Path(root) / "graph").exists():
            prepare(config, root)
        (Path(root) / "config.yaml").write_text(config_file.to_yaml(config))
        run_ranks(2, train, config, root)

    go_on(same, "row_wise", "table_wise", 6)
    go_on(changed, "data_parallel", "row_wise", 3)
    go_on(changed, "table_wise", "data_parallel", 6)
    for table, rows in (("user", 40), ("tweet", 30)):
        one, other = (checkpoint.newest(root) for root in (changed, same))
        assert one is not None
        assert other is not None
        assert one.step == other.step == 6
        torch.testing.assert_close(one.rows(table).read(0, rows), other.rows(table).read(0, rows), rtol=1e-4, atol=1e-5)
