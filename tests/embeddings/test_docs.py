"""The notebook examples of README.md and docs/embeddings.md run, and answer with what they say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.command_line import ROOT
from tests.embeddings.test_embeddings import cosine, read, relation
from twhin_core.config import file as config_file
from twhin_core.graph.manifest import SPLITS, find_manifest
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

PAGE = (ROOT / "docs/embeddings.md").read_text()
SMALL = [
    "prepare.generate={users: 150, tweets: 200, communities: 5, edges_per_user: 20}",
    "training.num_epochs=2",
    "train_data.per_replica_batch_size=500",
    "train_data.global_negatives=20",
]


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A smaller run of the quickstart, at `runs/quickstart` of the working folder."""
    config = config_file.load("configs/quickstart.yaml", SMALL)
    monkeypatch.chdir(tmp_path)
    for stage in (prepare, train, export):
        stage(config, "runs/quickstart")
    return "runs/quickstart"


def count_favs(root: str, user: str) -> tuple[Counter[str], set[str]]:
    """The training edges of each tweet, and the tweets that a user has faved in any split."""
    relations = [entry.name for entry in find_manifest(root).relations]
    ids = {table: dict(zip(*read_columns(f"{root}/graph/vocab/{table}"), strict=True)) for table in ("user", "tweet")}
    degree, mine = Counter[str](), set()
    for split in SPLITS:
        for lhs, rel, rhs in zip(*read_columns(f"{root}/graph/edges/{split}"), strict=True):
            if relations[rel] == "fav":
                degree[ids["tweet"][rhs]] += split == "train"
                if ids["user"][lhs] == user:
                    mine.add(ids["tweet"][rhs])
    return degree, mine


def read_columns(folder: str) -> list[list[Any]]:
    names = ["lhs", "rel", "rhs"] if "/edges/" in folder else ["index", "id"]
    return [pq.read_table(folder)[name].to_pylist() for name in names]


def test_the_notebook_example_runs(quickstart: str, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/embeddings.md", "exec"), names)
    (users, of_users), (tweets, of_tweets) = read(quickstart, "user"), read(quickstart, "tweet")
    row = users.index("user:17")
    np.testing.assert_array_equal(names["vector"], of_users[row].astype(np.float32))
    assert names["many"] == (len(users), True, users[:3])
    near = np.argsort(-cosine(of_users[row], of_users))[1:6]
    assert [one.id for one in names["near"]] == [users[at] for at in near]
    fav = relation(quickstart, "fav")
    scores = of_tweets @ (of_users[row] + fav)  # the quickstart compares by the dot product
    best = np.argsort(-scores)[:5]
    assert [one.id for one in names["favs"]] == [tweets[at] for at in best]
    assert [one.score for one in names["favs"]] == pytest.approx(scores[best].tolist(), abs=1e-5)
    degree, mine = count_favs(quickstart, "user:17")
    new = [at for at in np.argsort(-scores) if tweets[at] not in mine and degree[tweets[at]] >= 20]
    assert [one.id for one in names["new"]] == [tweets[at] for at in new[:5]]
    inverse = relation(quickstart, "fav", "inverse")  # the quickstart is reciprocal
    fans = np.argsort(-(of_users @ (of_tweets[best[0]] + inverse)))[:10]
    assert [one.id for one in names["fans"]] == [users[at] for at in fans]
    score, rank, candidates = capsys.readouterr().out.split()
    assert (float(score), float(rank), int(candidates)) == (pytest.approx(scores[best[0]], abs=1e-5), 1, len(tweets))
    assert names["table"].equals(pq.read_table(f"{quickstart}/embeddings/user"))
    assert names["frame"]["id"].tolist() == users
    assert names["rows"] == len(users)


def test_the_example_of_the_readme_runs(quickstart: str) -> None:
    example, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert (names["vector"].dtype, names["vector"].shape) == (np.float32, (64,))
    scores = read(quickstart, "tweet")[1] @ (names["vector"] + relation(quickstart, "fav"))
    assert [tweet.score for tweet in names["tweets"]] == pytest.approx(sorted(scores)[:-4:-1], abs=1e-5)
