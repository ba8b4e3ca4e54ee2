"""A planted graph with nothing but popularity: the scores learned from it depend on how negatives are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.stored_tensor import StoredTensor
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.stages.train import train

USERS, TWEETS, EDGES = 30, 40, 20_000


@pytest.fixture(scope="module")
def popularity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, npt.NDArray[np.float64]]:
    """The file of edges, whose tweets do not depend on their users, and log popularity of the tweets."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, TWEETS + 1)
    rhs = rng.choice(TWEETS, EDGES, p=share / share.sum())
    path = tmp_path_factory.mktemp("popularity") / "edges.parquet"
    lhs = rng.integers(USERS, size=EDGES)
    pq.write_table(pa.table({"lhs": lhs, "rel": np.zeros(EDGES, np.int64), "rhs": rhs}), path)
    return path, np.log(np.bincount(rhs, minlength=TWEETS))


def learned(edges: Path, root: Path, **data: Any) -> npt.NDArray[np.float64]:
    """The tweets' scores after training, averaged over the users."""
    optimizer = {"adagrad": {"lr": 0.1}}
    tree = {
        "model": {
            "embeddings": {
                "tables": [
                    {"name": name, "num_embeddings": rows, "embedding_dim": 4, "optimizer": optimizer}
                    for name, rows in (("user", USERS), ("tweet", TWEETS))
                ]
            },
            "relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}],
            "translation_optimizer": optimizer,
            "loss": "softmax",
        },
        "training": {"num_epochs": 8, "checkpoint_every_n": 10**6},
        "train_data": {"data_root": str(edges), "per_replica_batch_size": 500, "chunk_size": 100, **data},
    }
    train(config_file.validate(Config, tree, "test"), str(root))
    newest = checkpoint.newest(str(root))
    assert newest is not None
    translation = StoredTensor(newest.url, "scorer.operator.translation").read(0, 1)
    scores = (newest.rows("user").read(0, USERS) + translation) @ newest.rows("tweet").read(0, TWEETS).T
    mean: npt.NDArray[np.float64] = scores.mean(0).double().numpy()
    return mean


@pytest.mark.parametrize(
    ("data", "slope"),
    [
        ({"in_batch_negatives": 20}, 0.0),
        ({"in_batch_negatives": 20, "logq_correction": True}, 1.0),
        ({"in_batch_negatives": 10, "global_negatives": 10, "logq_correction": True}, 1.0),
        ({"global_negatives": 20}, 1.0),
        ({"global_negatives": 20, "global_negatives_power": 1.0}, 0.0),
        ({"global_negatives": 20, "global_negatives_power": 0.5}, 0.5),
        ({"global_negatives": 20, "global_negatives_power": 0.5, "logq_correction": True}, 1.0),
    ],
    ids=str,
)
def test_scores_follow_log_popularity_as_far_as_negatives_do_not(
    data: dict[str, Any], slope: float, popularity: tuple[Path, npt.NDArray[np.float64]], tmp_path: Path
) -> None:
    """The best score is the logarithm of popularity over the probability that a negative is drawn with."""
    edges, logarithm = popularity
    scores = learned(edges, tmp_path / "run", **data)
    found = np.polyfit(logarithm, scores, 1, w=np.exp(logarithm / 2))[0]
    assert found == pytest.approx(slope, abs=0.12)
