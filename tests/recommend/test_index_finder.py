"""Lists through an exported faiss index, against exact ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import SmallConfig
from tests.export.exporting import changed
from tests.recommend.test_lists import with_lists
from twhin_core.embeddings.result import open_result
from twhin_core.embeddings.search import Query
from twhin_core.errors import UserError
from twhin_core.export.vector_set import TrainedRun
from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.products import Arithmetic
from twhin_core.ranking.projections import Projections
from twhin_core.recommend import index_finder as module
from twhin_core.recommend.finder import ExactFinder, Found
from twhin_core.recommend.index_finder import IndexFinder, open_finder
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.recommend import recommend, recommend_once
from twhin_core.stages.train import train


def finder_of(root: str, relation: str, k: int) -> IndexFinder:
    result = open_result(root)
    run, schema, rel = result.scored, result.schema, result.schema.names.index(relation)
    assert isinstance(run, TrainedRun)
    scorer: Scorer = run.scorer()
    lhs, rhs = (schema.table_of(rel, side) for side in ("lhs", "rhs"))
    tables = {name: run.checkpoint.rows(name) for name in schema.tables}
    projections = Projections(scorer, schema, tables, Arithmetic("fp32", torch.device("cpu")), 1 << 26, run.prior)
    exact = ExactFinder(scorer, projections, CandidateSet("rhs", rhs, np.array([rel]), schema.tables[rhs]), k)
    return open_finder(exact, result, Query(lhs, rhs, rel))


def drawn_pairs(rng: np.random.Generator, users: int, candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """For each user another number of candidates, up to nearly all."""
    counts = rng.integers(0, candidates, users)
    pairs = [(user, of) for user, count in enumerate(counts) for of in rng.choice(candidates, count, replace=False)]
    return np.array([of[0] for of in pairs]), np.array([of[1] for of in pairs])


def found_by(finder: Any, rows: np.ndarray, excluded: tuple[np.ndarray, np.ndarray]) -> Found:
    with Progress("test", 1, "scores", quiet=True) as progress:
        found: Found = finder.find(rows, excluded, progress)
    return found


@pytest.mark.parametrize(
    ("comparator", "prior"),
    [("dot", None), ("cos", None), ("l2", None), ("dot", {"sides": ["rhs"]}), ("cos", {"sides": ["rhs"]})],
)
@pytest.mark.parametrize("relation", ["fav", "follow"])
def test_a_flat_index_gives_exact_lists(
    small_config: SmallConfig, tmp_path: Any, comparator: str, prior: dict[str, Any] | None, relation: str
) -> None:
    config = small_config(model={"comparator": comparator} | ({} if prior is None else {"prior": prior}))
    root = str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    export(changed(config, "export", formats=["parquet", "faiss"]), root)
    finder = finder_of(root, relation, k=7)
    users = finder.result.schema.tables["user"]
    rng = np.random.default_rng(4)
    rows, excluded = rng.permutation(users)[:25], drawn_pairs(rng, 25, finder.candidates.size)
    found, expected = found_by(finder, rows, excluded), found_by(finder.exact, rows, excluded)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(
        found.scores[found.rows != NONE], expected.scores[found.rows != NONE], rtol=1e-5, atol=1e-6
    )
    assert (found.sources, found.source.max()) == (("index",), 0)
    assert found.compared == ((expected.rows[:1] != NONE).sum(),) * 2


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_lists_of_every_index_have_model_scores_in_order_and_nothing_excluded(
    trained: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    export(changed(config, "export", formats=["parquet", "faiss"], faiss={"kind": kind}), root)
    monkeypatch.setattr(module, "EVERY", 1)
    finder = finder_of(root, "fav", k=5)
    rng = np.random.default_rng(5)
    rows, excluded = np.arange(40), drawn_pairs(rng, 40, 30)
    found = found_by(finder, rows, excluded)
    left_out = set(zip(*(of.tolist() for of in excluded), strict=True))
    everything = ExactFinder(finder.exact.scorer, finder.exact.projections, finder.candidates, 30)
    all_scores = found_by(everything, rows, (np.empty(0, np.int64),) * 2)
    overlap = total = 0
    for user in range(40):
        scores = dict(zip(all_scores.rows[user].tolist(), all_scores.scores[user].tolist(), strict=True))
        there = [row for row in found.rows[user].tolist() if row != NONE]
        assert len(set(there)) == len(there)
        assert not {(user, row) for row in there} & left_out
        given = [scores[row] for row in there]
        assert given == sorted(given, reverse=True)
        np.testing.assert_allclose(found.scores[user][: len(there)], given, rtol=1e-5, atol=1e-6)
        best = [row for row in all_scores.rows[user].tolist() if (user, row) not in left_out][:5]
        overlap, total = overlap + len(set(best) & set(there)), total + len(best)
    assert found.compared == (overlap, total)
    assert overlap > 0.8 * total


def test_lists_through_the_index_say_which_share_of_exact_ones_they_have(trained: Any, tmp_path: Path) -> None:
    config, root = trained
    config = changed(config, "export", formats=["parquet", "faiss"])
    export(config, root)
    exact = recommend_once(root, "fav", {"k": 6, "users_per_file": 7}, str(tmp_path / "exact"))
    by_index = recommend(with_lists(config, fav={"k": 6, "users_per_file": 7, "index": True}), root)["fav"]
    assert (exact.share_of_exact, by_index.share_of_exact) == (None, 1.0)
    folders = (tmp_path / "exact", Path(root, "recommendations/fav"))
    lists = [pq.read_table([folder / file.path for file in exact.files]).to_pylist() for folder in folders]
    for one, other in zip(*lists, strict=True):
        assert [of["id"] for of in one["candidates"]] == [of["id"] for of in other["candidates"]]
        assert {of["source"] for of in other["candidates"]} == {"index"}
    export(changed(config, "export", faiss={"kind": "hnsw"}), root)
    again = recommend(with_lists(config, fav={"k": 6, "users_per_file": 7, "index": True}), root)["fav"]
    assert again.made_from != by_index.made_from, "made anew with another index"


@pytest.mark.parametrize(
    ("formats", "settings", "message"),
    [
        (["parquet"], {}, "recommend.fav.index: needs faiss in export.formats"),
        (["faiss"], {"min_degree": 2}, "index: searches all nodes by single vectors; leave out min_degree, or"),
        (["faiss"], {"candidates": "ids.txt"}, "leave out candidates, or the index"),
        (["faiss"], {"mixture": {}}, "leave out mixture, or the index"),
    ],
)
def test_what_an_index_cannot_do_is_refused_before_any_work(
    small_config: SmallConfig, formats: list[str], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        small_config(export={"formats": formats}, recommend={"fav": {"index": True, **settings}})


def test_an_index_that_was_not_exported_is_missed_in_one_line(trained: Any, tmp_path: Path) -> None:
    config, root = trained
    export(config, root)
    config = changed(config, "export", formats=["parquet", "faiss"])
    with pytest.raises(UserError, match=r"no index of table tweet was exported; add faiss to export\.formats"):
        recommend(with_lists(config, fav={"index": True}), root)
