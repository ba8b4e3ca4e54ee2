"""Rules of another package that drop candidates from lists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.recommend.test_lists import Graph, Trained, read_lists
from tests.recommend.test_measure import Expected, assert_measured, measured, with_lists
from twhin_core.errors import UserError
from twhin_core.stages.recommend import recommend_once

CODE = """
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def even(relation, candidates):
    assert relation == "fav" and candidates.schema.names == ["user", "id", "score", "source"]
    numbers = pc.cast(pc.utf8_slice_codeunits(candidates["id"], 1), pa.int64())
    return pc.equal(pc.bit_wise_and(numbers, 1), 0)


def two_of_a_kind(relation, candidates):
    seen, kept = {}, []
    for user, name in zip(candidates["user"].to_pylist(), candidates["id"].to_pylist()):
        key = user, int(name[1:]) % 3
        seen[key] = seen.get(key, 0) + 1
        kept.append(seen[key] <= 2)
    return np.array(kept)


def numbers(relation, candidates):
    return np.ones(len(candidates))


def too_few(relation, candidates):
    return np.ones(len(candidates) - 1, bool)
"""
RULES = ("even", "two_of_a_kind", "numbers", "too_few")


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs the package, as pip would. Returns its metadata."""
    information = tmp_path / "site/shop_rules-1.0.dist-info"
    information.mkdir(parents=True)
    (tmp_path / "site/shop_rules.py").write_text(CODE)
    metadata = information / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: shop-rules\nVersion: 1.0\n")
    lines = [f"{name.replace('_', '-')} = shop_rules:{name}" for name in RULES]
    (information / "entry_points.txt").write_text("\n".join(["[twhin.rules]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return metadata


def made(root: str, tmp_path: Path, **settings: Any) -> dict[str, list[tuple[str, float]]]:
    folder = tmp_path / "lists"
    recommend_once(root, "fav", {"users_per_file": 7, **settings}, str(folder))
    return read_lists(folder)


@pytest.mark.parametrize("k", [3, 8, 30])
def test_the_first_candidates_that_a_rule_keeps_stay(trained: Trained, tmp_path: Path, k: int) -> None:
    whole = made(trained[1], tmp_path, k=30)
    found = made(trained[1], tmp_path, k=k, rule={"name": "even", "fetch": 30})
    expected = {user: [of for of in best if int(of[0][1:]) % 2 == 0][:k] for user, best in whole.items()}
    assert found == expected


def test_a_rule_sees_whole_lists_and_no_more_than_it_asks_for(trained: Trained, tmp_path: Path) -> None:
    whole = made(trained[1], tmp_path, k=10)
    found = made(trained[1], tmp_path, k=6, rule={"name": "two-of-a-kind", "fetch": 10})
    expected = {}
    for user, best in whole.items():
        seen, expected[user] = Counter[int](), []
        for of in best:
            kind = int(of[0][1:]) % 3
            seen[kind] += 1
            if seen[kind] <= 2:
                expected[user].append(of)
    assert found == {user: best[:6] for user, best in expected.items()}


def test_another_release_of_a_rule_makes_lists_anew(trained: Trained, tmp_path: Path, plugin: Path) -> None:
    folder, settings = str(tmp_path / "lists"), {"k": 3, "rule": {"name": "even", "fetch": 30}}
    first = recommend_once(trained[1], "fav", settings, folder)
    assert recommend_once(trained[1], "fav", settings, folder).made_from == first.made_from
    plugin.write_text(plugin.read_text().replace("1.0", "1.1"))
    assert recommend_once(trained[1], "fav", settings, folder).made_from != first.made_from


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"name": "odd", "fetch": 30}, "recommend.fav.rule.name: input should be 'even', "),
        ({"name": "even", "fetch": 3}, "rule.fetch: 3 is less than k: 10"),
        ({"name": "even"}, "recommend.fav.rule.fetch"),
        ({"name": "numbers", "fetch": 10}, "recommend.fav.rule: numbers returned float64 [70]; it must say true or"),
        ({"name": "too-few", "fetch": 10}, "recommend.fav.rule: too-few returned bool [69]"),
    ],
)
def test_what_a_rule_must_be(trained: Trained, tmp_path: Path, rule: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        made(trained[1], tmp_path, k=10, rule=rule)
    assert message in str(raised.value)


def test_measured_lists_have_gone_through_the_rule(trained: Trained) -> None:
    config, root = trained
    graph = Graph(config, root)
    settings = {"k": 6, "rule": {"name": "even", "fetch": 20}}
    found = measured(with_lists(config, {"fav": settings}, lists={"k": [2, 6]}), root)["fav"]
    left_out = graph.known("fav", ("train", "validation"))
    expected = Expected(graph, "fav", "test", 20, set(graph.tables["tweet"]), left_out)
    for user, best in expected.lists.items():
        expected.lists[user] = [name for name in best if int(name[1:]) % 2 == 0][:6]
    assert_measured(found, expected, [2, 6])
    even = sum(int(name[1:]) % 2 == 0 for name in graph.tables["tweet"])
    assert found["figures"]["random"]["coverage@6"] <= even / len(graph.tables["tweet"])
