"""A loss that is not finite ends the run at once, says where it began, and spares the checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import SmallConfig
from tests.ranks import run_ranks
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import Position
from twhin_core.config import Config, Relation
from twhin_core.data.files import EdgeFiles
from twhin_core.distributed.ranks import process_group
from twhin_core.errors import TwhinError, UserError
from twhin_core.schema import Schema
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.divergence import LossGuard, advice

TABLES = ("user", "tweet")


def poisoned(small_config: SmallConfig, tmp_path: Path, others: float = 1.0, **sections: Any) -> Config:
    """One edge, the only one of its relation, weighs so much that its loss has no float32; batches hold one edge.

    `others`: the weight of the other edges.
    """
    odd = 50
    raw = {
        "lhs": [f"u{n % 40}" for n in range(90)],
        "rhs": [f"t{n % 30}" for n in range(90)],
        "relation": ["poison" if n == odd else "fav" for n in range(90)],
        "weight": [3e38 if n == odd else others for n in range(90)],
    }
    path = tmp_path / "weighted.parquet"
    pq.write_table(pa.table(raw), path)
    source = {"path": str(path), "relation_column": "relation", "weight": "weight", "split": "train"}
    relations = [{"name": name, "lhs": "user", "rhs": "tweet"} for name in ("fav", "poison")]
    return small_config(
        prepare={"sources": [source], "split": None},
        model={"relations": relations, **sections.get("model", {})},
        train_data={"per_replica_batch_size": 1, "chunk_size": 1},
        training={"checkpoint_every_n": 1, "seed": 3, **sections.get("training", {})},
    )


def test_the_step_and_its_relations_are_named_and_the_last_good_checkpoint_is_the_newest(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    config = poisoned(small_config, tmp_path)
    root = str(tmp_path / "run")
    prepare(config, root)
    with pytest.raises(UserError, match=r"the loss is (inf|nan) at step (\d+), in a batch of the relations poison; "):
        train(config, root)
    logged = [json.loads(line)["step"] for line in (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()]
    last = logged[-1]
    assert 1 < last < 90
    newest = checkpoint.newest(root)
    assert newest is not None
    assert newest.step == last
    assert newest.rows("tweet").read(0, 30).isfinite().all()
    with pytest.raises(UserError, match=rf"at step {last + 1}, in a batch of the relations poison; "):
        train(config, root)


def train_and_tell(config: Config, root: str) -> tuple[str, str]:
    """How training ended on this rank."""
    try:
        train(config, root)
    except TwhinError as end:
        return type(end).__name__, str(end)
    return "", "trained to the end"


def test_all_ranks_end_after_the_step_that_one_of_them_finds(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = poisoned(small_config, tmp_path), str(tmp_path / "run")
    prepare(config, root)
    (kind, found), other = run_ranks(2, train_and_tell, config, root)
    assert (kind, found) == other
    assert kind == "Diverged"
    assert "in a batch of the relations poison; an edge of the relation poison weighs 3e+38, " in found
    newest = checkpoint.newest(root)
    assert newest is None or newest.rows("tweet").read(0, 30).isfinite().all()


def test_weights_that_are_not_finite_are_never_a_checkpoint(small_config: SmallConfig, tmp_path: Path) -> None:
    """The loss of the first step is sound, the weights that it leaves are not."""
    table = {"embedding_dim": 8, "optimizer": {"sgd": {"lr": 1e6}}}
    tables = [{"name": name, **table} for name in ("user", "tweet")]
    config = poisoned(
        small_config, tmp_path, others=1e36, model={"embeddings": {"tables": tables}}, training={"num_train_steps": 1}
    )
    root = str(tmp_path / "run")
    prepare(config, root)
    with pytest.raises(UserError, match=r"step 1 made values in tables\.embeddings\.\w+\.weight that are not finite; "):
        train(config, root)
    assert checkpoint.newest(root) is None
    assert not list((tmp_path / "run").glob("checkpoints/*")), "nothing is left of it"


def test_looking_later_names_the_first_step_all_the_same() -> None:
    guard = LossGuard(lambda before: [f"relation {before.step}"], steps_between_checks=4)
    losses = [0.5, 0.4, float("nan"), float("inf"), 0.1]
    for step, loss in enumerate(losses[:3]):
        guard.add(torch.tensor(loss), Position(step=step))
    with pytest.raises(UserError, match="the loss is nan at step 3, in a batch of the relations relation 2;"):
        guard.add(torch.tensor(losses[3]), Position(step=3))


def check_together(ranks_with_inf: dict[int, int], steps: int) -> str:
    """What this rank raises in a check of several steps; `ranks_with_inf`: rank → its first step that is not finite."""
    with process_group() as ranks:
        guard = LossGuard(lambda before: [f"r{ranks.rank}s{before.step}"], steps_between_checks=steps, ranks=ranks)
        mine = ranks_with_inf.get(ranks.rank, steps)
        try:
            for step in range(steps):
                guard.add(torch.tensor(1.0 if step < mine else float("inf")), Position(step=step))
        except UserError as error:
            return str(error)
        return ""


@pytest.mark.parametrize(
    ("ranks_with_inf", "named"), [({1: 2, 2: 1}, "step 2, in a batch of the relations r2s1;"), ({}, "")]
)
def test_the_first_step_of_any_rank_is_named_on_all(ranks_with_inf: dict[int, int], named: str) -> None:
    found = run_ranks(3, check_together, ranks_with_inf, 4)
    assert len(set(found)) == 1
    assert named in found[0]
    assert bool(found[0]) == bool(named)


WEIGHTS = {
    # What the edges weigh, what their relations weigh, and what is named.
    "none": (None, [1.0, 1.0], None),
    "ones": ([1.0] * 9, [1.0, 1.0], None),
    "small": ([1e-20] * 9, [1.0, 1.0], None),
    "counts": ([float(n) for n in range(1, 10)], [2.0, 3.0], None),
    "just below": ([9_999.0, *[1.0] * 8], [1.0, 1.0], None),
    "one": ([*[1.0] * 8, 1e30], [1.0, 1.0], "an edge of the relation r0 weighs 1e+30, "),
    "one in the middle": ([*[1.0] * 3, 12_345.0, *[1.0] * 5], [1.0, 1.0], "an edge of the relation r1 weighs 12345, "),
    "all": ([1e20] * 9, [1.0, 1.0], "weighs 1e+20, "),
    "the largest of several": ([1e5, 1e7, 1e6, *[1.0] * 6], [1.0, 1.0], "an edge of the relation r1 weighs 1e+07, "),
    "a relation": (None, [1.0, 1e6], "model.relations: r1 has the weight 1e+06, "),
    "an edge before a relation": ([1e9, *[1.0] * 8], [1e6, 1.0], "an edge of the relation r0 weighs 1e+09, "),
}


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("case", WEIGHTS)
def test_a_weight_is_named_where_one_can_be_the_cause(case: str, statistics: bool, tmp_path: Path) -> None:
    """Edge n has the relation n % 2. Row groups of two edges; without statistics, all of them are read."""
    weights, of_relations, expected = WEIGHTS[case]
    lhs = np.arange(9)
    columns: dict[str, Any] = {"lhs": lhs, "rel": lhs % 2, "rhs": lhs}
    if weights is not None:
        columns["weight"] = np.array(weights, np.float32)
    pq.write_table(pa.table(columns), tmp_path / "edges.parquet", row_group_size=2, write_statistics=statistics)
    relations = [Relation(name=f"r{n}", lhs="a", rhs="a", weight=weight) for n, weight in enumerate(of_relations)]
    schema = Schema({"a": 9}, relations)
    found = advice(EdgeFiles([str(tmp_path / "edges.parquet")], schema), schema)
    assert (found is None) == (expected is None)
    assert (expected or "") in (found or "")


def test_only_edges_that_are_trained_on_are_named(tmp_path: Path) -> None:
    """With an offset and a limit, the footer's largest weight may be of another edge."""
    lhs, weight = np.arange(9), np.array([1e30, 1, 1, 2e5, 1, 1e6, 1, 1, 1e20], np.float32)
    pq.write_table(
        pa.table({"lhs": lhs, "rel": lhs * 0, "rhs": lhs, "weight": weight}), tmp_path / "e.parquet", row_group_size=3
    )
    schema = Schema({"a": 9}, [Relation(name="r", lhs="a", rhs="a")])
    found = advice(EdgeFiles([str(tmp_path / "e.parquet")], schema, offset=1, limit=6), schema)
    assert found is not None
    assert "weighs 1e+06, " in found


def test_weights_that_only_a_checkpoint_finds_are_named_too(small_config: SmallConfig, tmp_path: Path) -> None:
    """The losses are finite, the optimizer's state is not."""
    raw = {
        "lhs": [f"u{n % 40}" for n in range(90)],
        "rhs": [f"t{n % 30}" for n in range(90)],
        "weight": [1e30 if n == 50 else 1.0 for n in range(90)],
    }
    path = tmp_path / "weighted.parquet"
    pq.write_table(pa.table(raw), path)
    source = {"path": str(path), "relation": "fav", "weight": "weight", "split": "train"}
    tables = [{"name": name, "embedding_dim": 8, "optimizer": {"rowwise_adagrad": {"lr": 0.1}}} for name in TABLES]
    config = small_config(
        prepare={"sources": [source], "split": None},
        model={"relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}], "embeddings": {"tables": tables}},
    )
    root = str(tmp_path / "run")
    prepare(config, root)
    with pytest.raises(UserError, match=r"are not finite; an edge of the relation fav weighs 1e\+30, and weights"):
        train(config, root)


def test_many_relations_are_counted() -> None:
    guard = LossGuard(lambda _: [f"r{n}" for n in range(12)], steps_between_checks=1)
    with pytest.raises(UserError, match="r8, r9 and 2 more;"):
        guard.add(torch.tensor(float("inf")), Position())
