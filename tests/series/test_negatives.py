"""A series with daily dislikes: one of a later day takes a favorite away, and training and `gauc` go on."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.graph import reading
from tests.series.test_plan import WHOLE, Days
from twhin_core import storage
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.graph.manifest import find_manifest
from twhin_core.series.continued import check_text
from twhin_core.series.publish import publish

RELATIONS = [
    {"name": "fav", "lhs": "user", "rhs": "tweet", "negatives": {"relation": "dislike"}},
    {"name": "dislike", "lhs": "user", "rhs": "tweet"},
]
Pair = tuple[str, str]


class DaysWithDislikes(Days):
    """Each day has favorites and dislikes of new pairs, and dislikes of `regretted` pairs."""

    def arrive(self, day: int, rows: int = 300, regretted: frozenset[Pair] = frozenset()) -> None:
        pairs = [(user, tweet) for user in range(40) for tweet in range(30) if (user + tweet) % 3 == day]
        chosen = [(f"u{user}", f"t{tweet}") for user, tweet in pairs]
        names = ["fav" if at % 7 % 2 else "dislike" for at in range(len(chosen))] + ["dislike"] * len(regretted)
        lhs, rhs = zip(*chosen, *sorted(regretted), strict=True)
        rows_ = {"lhs": lhs, "relation": names, "rhs": rhs, "time": [day] * len(names)}
        pq.write_table(pa.table(rows_), Path(self.series).parent / "raw" / f"day-{day}.parquet")


def pairs_of(root: str, kind: str) -> set[Pair]:
    manifest, splits = find_manifest(root), ("train", "validation", "test")
    return {(lhs, rhs) for split in splits for lhs, _, rhs in reading.edges(Path(root), manifest, kind + split)}


def test_a_dislike_of_the_second_day(tmp_path: Path, small_config: SmallConfig) -> None:
    config = small_config(
        model={"relations": RELATIONS},
        training={"num_epochs": 1},
        prepare={
            "sources": [{"path": "raw", "relation_column": "relation", "timestamp": "time"}],
            "repeats": "last",
            "split": {"validation": 0.1, "test": 0.2},
        },
    )
    days = DaysWithDislikes(tmp_path, config)
    days.arrive(1)
    first = days.plan()
    days.work(first, *WHOLE)
    publish(days.series, first.version, first.after)
    favored, disliked = pairs_of(first.root, ""), pairs_of(first.root, "negatives/")
    regretted = frozenset(sorted(favored)[::20])
    assert regretted
    days.arrive(2, regretted=regretted)
    second = days.plan()
    assert (second.version, second.after) == ("2", "1")
    days.work(second, *WHOLE)
    publish(days.series, second.version, second.after)
    now, negatives = pairs_of(second.root, ""), pairs_of(second.root, "negatives/")
    assert regretted <= negatives
    assert favored - now == regretted
    assert disliked < negatives
    manifest = find_manifest(second.root)
    assert manifest.rejected.by_reason["later_negative"] >= len(regretted) == manifest.rejected.edges_before
    loaded = config_file.load(second.config)
    assert loaded.training.warm_start is not None
    metrics = storage.read_json(f"{second.root}/evaluation/metrics.json")
    assert 0 < metrics["test"]["fav"]["gauc"] < 1


def test_a_series_with_negatives_needs_the_latest_times_from_its_first_day_on(
    tmp_path: Path, small_config: SmallConfig
) -> None:
    days = Days(tmp_path, small_config(model={"relations": RELATIONS}))
    with pytest.raises(UserError, match=r"^config: prepare\.repeats: first keeps no edge's latest time"):
        check_text(days.text)
