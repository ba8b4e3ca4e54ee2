"""The best candidates, compared with a sort of all scores."""

from __future__ import annotations

import pytest
import torch

from tests.evaluation.graphs import model_config
from twhin_core.model.scorer import Scorer
from twhin_core.schema import SIDES, Side
from twhin_core.vectors import top_k as module
from twhin_core.vectors.rows import TensorRows
from twhin_core.vectors.top_k import answers, similar, top_k


@pytest.mark.parametrize("values_a_block", [1, 40, 10_000])
@pytest.mark.parametrize("k", [1, 7, 23, 100])
def test_the_best_candidates_match_a_sort(monkeypatch: pytest.MonkeyPatch, values_a_block: int, k: int) -> None:
    monkeypatch.setattr(module, "BLOCK_VALUES", values_a_block)
    given, candidates = torch.randn(5, 4), torch.randn(23, 4)
    exclude = torch.tensor([0, 22, 7, 7, 11])
    products = torch.nn.functional.cosine_similarity(given[:, None], candidates[None], dim=2)
    for out in (None, exclude):
        if out is not None:
            products[torch.arange(5), out] = -2
        expected, order = products.sort(1, descending=True)
        count = min(k, 23 - (out is not None))
        scores, rows = top_k(similar(given), 5, TensorRows(candidates), k, out)
        torch.testing.assert_close(scores, expected[:, :count])
        assert torch.equal(rows, order[:, :count])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("comparator", ["dot", "l2"])
def test_answers_are_scored_like_edges(side: Side, comparator: str) -> None:
    config = model_config({"user": 9}, [("follow", "user", "user"), ("mute", "user", "user")], dim=4)
    model = config.model.model_copy(update={"comparator": comparator})
    scorer = Scorer(model, model.relations)
    torch.nn.init.normal_(scorer.operator.translation)
    vectors = torch.randn(9, 4)
    found, rows = top_k(answers(scorer, side, 1, vectors[:3]), 3, TensorRows(vectors), 9)
    for query in range(3):
        ends = (vectors[rows[query]], vectors[[query] * 9])
        lhs, rhs = ends if side == "lhs" else ends[::-1]
        torch.testing.assert_close(found[query], scorer.edges("rhs", torch.ones(9, dtype=torch.int64), lhs, rhs))
        assert (found[query].diff() <= 0).all()
