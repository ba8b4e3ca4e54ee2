"""`split.relations`: edges of other relations stay in train, and need no times."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.graph.reading import edges
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare

TABLES = [
    {"name": name, "embedding_dim": 4, "optimizer": {"adagrad": {"lr": 0.1}}} for name in ("user", "movie", "tag")
]
RELATIONS = [{"name": "rated", "lhs": "user", "rhs": "movie"}, {"name": "has", "lhs": "movie", "rhs": "tag"}]
LAST = {"by": "last", "validation": 1, "test": 2, "relations": ["rated"]}


def make_config(small_config: SmallConfig, folder: Path, sources: list[dict[str, Any]], **options: Any) -> Config:
    sources = [{**source, "path": str(folder / source["path"])} for source in sources]
    model = {"embeddings": {"tables": TABLES}, "relations": RELATIONS}
    return small_config(prepare={"sources": sources, **options}, model=model)


RATED = {"path": "rated.csv", "lhs": "user", "rhs": "movie", "relation": "rated", "timestamp": "t"}
HAS = {"path": "has.csv", "lhs": "movie", "rhs": "tag", "relation": "has"}


def test_the_last_edges_of_some_relations(small_config: SmallConfig, tmp_path: Path) -> None:
    """Users rate ten movies each; a movie has three tags, without times."""
    rng = random.Random(5)
    rated = [
        (f"u{user}", f"m{movie}", rng.randrange(10**6)) for user in range(20) for movie in rng.sample(range(30), 10)
    ]
    has = [(f"m{movie}", f"g{tag}") for movie in range(30) for tag in rng.sample(range(10), 3)]
    (tmp_path / "rated.csv").write_text("user,movie,t\n" + "".join(f"{u},{m},{t}\n" for u, m, t in rated))
    (tmp_path / "has.csv").write_text("movie,tag\n" + "".join(f"{m},{g}\n" for m, g in has))
    manifest = prepare(make_config(small_config, tmp_path, [RATED, HAS], split=LAST), str(tmp_path / "run"))
    by_user: dict[str, list[tuple[int, str]]] = {}
    for user, movie, time in rated:
        by_user.setdefault(user, []).append((time, movie))
    latest = {user: [movie for _, movie in sorted(of, reverse=True)] for user, of in by_user.items()}
    found = {split: set(edges(tmp_path / "run", manifest, split)) for split in manifest.splits}
    assert found["test"] == {(user, "rated", movie) for user, of in latest.items() for movie in of[:2]}
    assert found["validation"] == {(user, "rated", of[2]) for user, of in latest.items()}
    assert {edge for edge in found["train"] if edge[1] == "has"} == {(movie, "has", tag) for movie, tag in has}
    assert Counter(edge[1] for edge in found["train"]) == {"rated": 20 * 7, "has": 90}


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([{**RATED, "timestamp": None}, HAS], {"split": LAST}, "needs a timestamp column in every source of rated"),
        ([RATED, HAS], {"split": {**LAST, "relations": ["rate"]}}, "prepare.split.relations: no relation named 'rate'"),
        ([RATED, HAS], {"split": {**LAST, "relations": []}}, "prepare.split.relations"),
        ([RATED, HAS], {"split": LAST, "time_window": {"start": 1}}, "time_window: needs a timestamp column in every"),
        ([RATED, HAS], {"split": {**LAST, "relations": None}}, "split.by: last needs a timestamp column in every"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    small_config: SmallConfig, tmp_path: Path, sources: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        make_config(small_config, tmp_path, sources, **options)
    assert message in str(refused.value)


def test_relations_of_the_data_are_checked_once_they_are_known(small_config: SmallConfig, tmp_path: Path) -> None:
    split = {"validation": 0.1, "test": 0.1, "relations": ["poke"]}
    relations = [{"name": "*", "lhs": "user", "rhs": "user"}]
    config = small_config(prepare={"split": split}, model={"relations": relations})
    with pytest.raises(UserError, match=r"prepare.split.relations: no row has the relation 'poke'"):
        prepare(config, str(tmp_path / "run"))
