"""Ranking as its definition says, in loops over plain lists; shares no code with what it checks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

Triple = tuple[int, int, int]
Score = Callable[[str, Triple], float]
"""(side asked for, (lhs, rel, rhs)) → score."""


class BruteForce:
    def __init__(
        self, splits: dict[str, list[Triple]], evaluated: str, sizes: dict[str, list[int]], score: Score
    ) -> None:
        """`sizes`: for each side, the rows of its table by relation."""
        self.splits, self.held = splits, splits[evaluated]
        self.known = {triple for edges in splits.values() for triple in edges}
        before = {"test": ["train", "validation"], "validation": ["train"]}[evaluated]
        self.removed = {triple for name in before for triple in splits.get(name, [])}
        self.sizes, self.score = sizes, score

    def _candidates(self, side: str, edge: Triple) -> list[Triple]:
        lhs, rel, rhs = edge
        nodes = range(self.sizes[side][rel])
        return [(lhs, rel, node) for node in nodes] if side == "rhs" else [(node, rel, rhs) for node in nodes]

    def rank_and_negatives(self, side: str, edge: Triple) -> tuple[float, int]:
        own = self.score(side, edge)
        negatives = [self.score(side, other) for other in self._candidates(side, edge) if other not in self.known]
        return 1 + sum(negative > own for negative in negatives) + sum(
            negative == own for negative in negatives
        ) / 2, len(negatives)

    def figures(self, rel: int | None, hits_at: list[int], recall_at: list[int]) -> dict[str, float]:
        held = [edge for edge in self.held if rel is None or edge[1] == rel]
        ranks = {side: [self.rank_and_negatives(side, edge) for edge in held] for side in ("lhs", "rhs")}
        figures: dict[str, float] = {"edges": len(held)}
        for suffix, of in (("", ranks["lhs"] + ranks["rhs"]), ("_lhs", ranks["lhs"]), ("_rhs", ranks["rhs"])):
            figures["mrr" + suffix] = sum(1 / rank for rank, _ in of) / len(of)
            for k in hits_at:
                figures[f"hits@{k}{suffix}"] = sum(rank <= k for rank, _ in of) / len(of)
            mean_rank = sum(rank for rank, _ in of) / len(of)
            by_chance = [sum(range(1, negatives + 2)) / (negatives + 1) for _, negatives in of]
            expected = sum(by_chance) / len(of)
            figures["amri" + suffix] = 1 - (mean_rank - 1) / (expected - 1) if expected > 1 else 0.0
        both = ranks["lhs"] + ranks["rhs"]
        figures["auc"] = sum(1 - (rank - 1) / negatives if negatives else 0.5 for rank, negatives in both) / len(both)
        heads, tails = (self._whole_sets(side, held, recall_at) for side in ("lhs", "rhs"))
        figures |= {f"{name}_lhs": value for name, value in heads.items()}
        figures |= {f"{name}_rhs": value for name, value in tails.items()}
        return figures | tails

    def _whole_sets(self, side: str, held: list[Triple], recall_at: list[int]) -> dict[str, float]:
        answers_of: dict[tuple[int, int], set[Triple]] = defaultdict(set)
        for edge in held:
            if edge not in self.removed:
                answers_of[edge[:2] if side == "rhs" else edge[1:]].add(edge)
        recall: dict[int, list[float]] = {k: [] for k in recall_at}
        ndcg: dict[int, list[float]] = {k: [] for k in recall_at}
        for answers in answers_of.values():
            places = self._places(side, answers)
            for k in recall_at:
                recall[k].append(sum(place <= k for place in places) / len(answers))
                gain = sum(1 / math.log2(1 + place) for place in places if place <= k)
                ndcg[k].append(gain / sum(1 / math.log2(1 + place) for place in range(1, 1 + min(k, len(answers)))))
        figures = {f"recall@{k}": sum(of) / max(len(of), 1) for k, of in recall.items()}
        return figures | {f"ndcg@{k}": sum(of) / max(len(of), 1) for k, of in ndcg.items()}

    def _places(self, side: str, tails: set[Triple]) -> list[float]:
        candidates = [edge for edge in self._candidates(side, next(iter(tails))) if edge not in self.removed]
        wrong = [self.score(side, edge) for edge in candidates if edge not in tails]
        places = []
        for held_before, own in enumerate(sorted((self.score(side, tail) for tail in tails), reverse=True)):
            in_front = sum(other > own for other in wrong) + sum(other == own for other in wrong) / 2
            places.append(1 + held_before + in_front)
        return places
