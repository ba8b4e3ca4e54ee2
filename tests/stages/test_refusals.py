"""What later stages would refuse is refused by prepare, before anything is written, and the root stays free."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.evaluation.checks import check_pipeline
from twhin_core.evaluation.gates import read_decision
from twhin_core.evaluation.result import metrics_url
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

STAR = {"relations": [{"name": "*", "lhs": "user", "rhs": "user"}, {"name": "fav", "lhs": "user", "rhs": "tweet"}]}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt relation in a gate": (
        {"model": STAR, "evaluation": {"gates": {"test.folow.mrr": {"min": 0}}}},
        "evaluation.gates: test.folow.mrr names no metric; near it: test.follow.mrr",
    ),
    "a relation that the data lacks": (
        {"model": STAR, "evaluation": {"gates": {"test.block.mrr": {"min": 0}}}},
        "evaluation.gates: test.block.mrr names no metric",
    ),
    "a misspelt gate between similar names": (
        {"model": STAR, "evaluation": {"gates": {"test.all.mrr": {"min": 0}, "test.follows.hits@10": {"min": 0}}}},
        "evaluation.gates: test.follows.hits@10 names no metric; near it: test.follow.hits@10",
    ),
    "queries of an unknown relation": (
        {"model": STAR, "export": {"query_side": "folow"}},
        "export.query_side: no relation named 'folow'; did you mean follow?",
    ),
    "more candidates than nodes": (
        {"evaluation": {"candidates": 31}},
        "evaluation.candidates: 31 are more than the 30 nodes of table tweet",
    ),
    "too little memory to evaluate": (
        {"evaluation": {"memory_limit": "2KB"}},
        "evaluation.memory_limit: 2KB is too small for 59 held-out edges",
    ),
    "fewer rows than centroids": (
        {"export": {"formats": ["pq"]}},
        "export.pq.bits: 8 bits need 256 rows, but user has 40",
    ),
    "fewer rows than lists": (
        {"export": {"formats": ["faiss"], "faiss": {"kind": "ivf_pq", "ivf_pq": {"lists": 41}}}},
        "export.faiss: ivf_pq with 41 lists needs at least as many rows, but user has 40",
    ),
    "fewer rows than centroids of an index": (
        {"export": {"formats": ["faiss"], "faiss": {"tables": {"tweet": "ivf_pq"}}}},
        "export.faiss: ivf_pq with 256 centroids per subspace needs at least as many rows, but tweet has 30",
    ),
}


@pytest.mark.parametrize(("sections", "message"), REFUSED.values(), ids=REFUSED)
def test_prepare_refuses_what_a_later_stage_would(
    sections: dict[str, Any], message: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    with pytest.raises(UserError) as refused:
        prepare(small_config(**sections), str(root))
    assert str(refused.value).startswith(message)
    assert len(str(refused.value).splitlines()) == 1
    assert not (root / "graph").exists(), "nothing was written"
    prepare(small_config(train_data={"per_replica_batch_size": 32}), str(root))  # the root was not claimed
    with pytest.raises(UserError) as again:  # of the finished graph, too
        prepare(small_config(**sections, train_data={"per_replica_batch_size": 32}), str(root))
    assert ("made with another config" if "model" in sections else message) in str(again.value)


@pytest.mark.parametrize("name", ["all", "degrees", "*"])
def test_a_relation_of_the_data_with_a_reserved_name_is_refused(
    name: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    with (tmp_path / "named.csv").open("w") as file:
        rows = [(f"u{n % 7}", ("likes", name)[n % 2], f"u{n * 3 % 11}") for n in range(60)]
        csv.writer(file).writerows([("lhs", "relation", "rhs"), *rows])
    sources = [{"path": str(tmp_path / "named.csv"), "relation_column": "relation"}]
    tables = [{"name": "user", "embedding_dim": 4, "optimizer": {"sgd": {"lr": 0.1}}}]
    star = {"embeddings": {"tables": tables}, "relations": [{"name": "*", "lhs": "user", "rhs": "user"}]}
    config = small_config(prepare={"sources": sources}, model=star)
    with pytest.raises(UserError, match=re.escape(f"prepare.sources: a relation in the data: {name!r} is the name of")):
        prepare(config, str(tmp_path / "run"))
    assert not (tmp_path / "run/graph").exists()


def test_a_config_refused_by_itself_leaves_no_trace(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(evaluation={"gates": {"test.favs.mrr": {"min": 0}}})
    with pytest.raises(UserError, match=r"test\.favs\.mrr names no metric"):
        prepare(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_until_a_checkpoint_only_the_graph_binds_the_config(small_config: SmallConfig, tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    prepare(small_config(training={"num_epochs": 1}), root)
    for sections in ({"prepare": {"repeats": "count"}}, {"model": {"relations": STAR["relations"]}}):
        with pytest.raises(UserError, match=f"made with another config: {next(iter(sections))}"):
            train(small_config(training={"num_epochs": 1}, **sections), root)
    final = small_config(training={"num_epochs": 1}, train_data={"global_negatives": 5}, model={"temperature": 0.5})
    train(final, root)
    with pytest.raises(UserError, match=r"made with another config: train_data\.global_negatives was 5 and is 6"):
        train(
            small_config(training={"num_epochs": 1}, train_data={"global_negatives": 6}, model={"temperature": 0.5}),
            root,
        )


def test_a_gate_misspelt_later_costs_neither_the_metrics_nor_the_export(
    trained: tuple[Config, str], small_config: SmallConfig
) -> None:
    config, root = trained
    evaluate(config, root)
    before = storage.read_text(metrics_url(root, "test"))
    gates = {"test.fav.mrr": {"min": 0}, "test.folow.mrr": {"min": 0}}
    misspelt = config.model_copy(
        update={"evaluation": config.evaluation.model_validate({**config.evaluation.model_dump(), "gates": gates})}
    )
    for stage in (evaluate, export):
        with pytest.raises(UserError, match=r"test\.folow\.mrr names no metric"):
            stage(misspelt, root)
    assert storage.read_text(metrics_url(root, "test")) == before
    assert read_decision(root, "test") == {"passed": True, "checkpoint": 16, "gates": []}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"prepare": {"split": {"validation": 0.1, "test": 0.0}}}, "evaluation.split: the test split has no edges"),
        (
            {"prepare": {"split": {"validation": 0.0, "test": 0.1}}, "evaluation": {"split": "validation"}},
            "evaluation.split: the validation split has no edges",
        ),
        (
            {"prepare": {"sources": [{"path": "a", "relation": "fav", "split": "train"}], "split": None}},
            "evaluation.split: the test split has no edges",
        ),
    ],
)
def test_a_pipeline_without_edges_to_evaluate_on_is_not_started(
    sections: dict[str, Any], message: str, small_config: SmallConfig
) -> None:
    with pytest.raises(UserError) as refused:
        check_pipeline(small_config(**sections))
    assert str(refused.value).startswith(message)
