"""Lists from mixtures, against plain loops over the run's vectors and edges, and by what must hold of any list."""

from __future__ import annotations

import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import SmallConfig
from tests.ranks import run_ranks
from tests.recommend.test_apportion import ideal_places
from tests.recommend.test_lists import MODELS, Graph, read_lists, with_lists
from twhin_core import storage
from twhin_core.config import Config, Relation
from twhin_core.config.recommend import Mixture
from twhin_core.data.edges import Edges
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.ranking.products import Arithmetic
from twhin_core.recommend import clusters as clustering
from twhin_core.recommend import finders, histories
from twhin_core.recommend.clusters import find_clusters
from twhin_core.recommend.histories import Histories
from twhin_core.recommend.mixture import Mixtures
from twhin_core.schema import Schema
from twhin_core.scratch import scratch
from twhin_core.stages.prepare import prepare
from twhin_core.stages.recommend import recommend, recommend_once
from twhin_core.stages.train import train
from twhin_core.vectors.adjacency import read_adjacencies
from twhin_core.vectors.rows import TensorRows

Trained = tuple[Config, str]
Floats = npt.NDArray[np.float64]


class Stored:
    """Edges as `EdgeFiles` gives them."""

    def __init__(self, pairs: list[tuple[int, int]], per_chunk: int) -> None:
        self._pairs, self._per_chunk = pairs, per_chunk

    def chunks(self) -> Any:
        for start in range(0, len(self._pairs), self._per_chunk):
            lhs, rhs = np.array(self._pairs[start : start + self._per_chunk]).T
            # Every other edge is of another relation, which does not count.
            rel = np.arange(start, start + len(lhs)) % 2
            yield Edges(lhs, rel, rhs, np.ones(len(lhs), np.float32))


def average(lists: list[Floats], clusters: int) -> Floats:
    return np.mean(lists, axis=0) if lists else np.zeros(clusters)


@given(data=st.data(), users=st.integers(1, 9), clusters=st.integers(1, 4), smoothing=st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=60)
def test_mixtures_are_smoothed_multinomials(data: st.DataObject, users: int, clusters: int, smoothing: float) -> None:
    edges = data.draw(st.lists(st.tuples(st.integers(0, users - 1), st.integers(0, 5)), max_size=40))
    cluster = np.array(data.draw(st.lists(st.integers(0, clusters - 1), min_size=6, max_size=6)))
    asked = np.array(data.draw(st.lists(st.integers(0, users - 1), min_size=1, max_size=7)))
    k = data.draw(st.integers(1, 4))
    vectors = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((users, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "EDGES_AT_ONCE", 3)
        relations = [Relation(name=name, lhs="user", rhs="item") for name in ("fav", "other")]
        schema, of_users = Schema({"user": users, "item": 6}, relations), (0, "lhs")
        with scratch("test") as folder:
            of = read_adjacencies([Stored(edges, 7)], schema, [of_users], folder)  # type: ignore[arg-type,list-item]
        stored = Histories(of[of_users])  # type: ignore[index]
        settings_ = Mixture(clusters=clusters, smoothing=smoothing, neighbors=k)
        arithmetic = Arithmetic("fp32", torch.device("cpu"))
        mixtures = Mixtures(stored, TensorRows(torch.from_numpy(vectors)), cluster, settings_, arithmetic, 1 << 20)
        patch.setattr("twhin_core.recommend.mixture.SHARES_AT_ONCE", 9)
        found = np.full((len(asked), clusters), np.nan)
        for block, mixture in mixtures.blocks(asked):
            found[block] = mixture

    mine = [
        [rhs for number, (lhs, rhs) in enumerate(edges) if lhs == user and number % 2 == 0] for user in range(users)
    ]
    position, item = stored.of(asked)
    assert list(zip(position.tolist(), item.tolist(), strict=True)) == [
        (at, rhs) for at, user in enumerate(asked) for rhs in mine[user]
    ]
    share = [
        np.array([[cluster[rhs] for rhs in of].count(c) / max(1, len(of)) for c in range(clusters)]) for of in mine
    ]
    for at, user in enumerate(asked.tolist()):
        others = [other for other in range(users) if other != user and mine[other]]
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        nearest = sorted(others, key=lambda other: -float(units[user] @ units[other]))[:k]
        expected = (1 - smoothing) * share[user] + smoothing * average([share[other] for other in nearest], clusters)
        total = expected.sum()
        np.testing.assert_allclose(found[at], expected / total if total else expected, atol=1e-9)
        assert found[at].sum() == pytest.approx(1 if total else 0)


def test_clusters_are_groups_of_near_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(clustering, "BLOCK_ROWS", 33)
    monkeypatch.setattr(clustering, "TRAINED_ON_PER_CLUSTER", 40)
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=300)
    places = np.array([[5, 0, 0], [-2, 4, 0]])
    vectors = torch.from_numpy((places[group] + 0.2 * rng.standard_normal((300, 3))).astype(np.float32))
    lengths = torch.from_numpy(rng.uniform(0.1, 9, (300, 1)).astype(np.float32))
    for rows, point, is_spherical in (
        (vectors, lambda of: of, False),
        (vectors * lengths, torch.nn.functional.normalize, True),
    ):
        found = find_clusters(TensorRows(rows), point, 2, is_spherical)
        assert len({*zip(group.tolist(), found.tolist(), strict=True)}) == 2 == len({*found.tolist()})
    vectors[7, 1] = np.nan
    with pytest.raises(UserError, match="scores are not finite"):
        find_clusters(TensorRows(vectors), lambda of: of, 4, False)


class Brute:
    """The lists of a relation, user by user, from the exported vectors and the edges of files."""

    def __init__(self, config: Config, root: str, relation: str, table: str, cluster: dict[str, int]) -> None:
        self.graph, self.relation, self.table, self.cluster = Graph(config, root), relation, table, cluster
        self.comparator = config.model.comparator
        self.known, train = self.graph.known(relation), sorted(self.graph.known(relation, ("train",)))
        self.items = {user: [rhs for lhs, rhs in train if lhs == user] for user in self.graph.tables["user"]}

    def score(self, query: Floats, rhs: str) -> float:
        item = self.graph.tables[self.table][rhs]
        if self.comparator == "l2":
            return -float(np.linalg.norm(query - item))
        if self.comparator == "cos":
            return float(query @ item / np.linalg.norm(query) / np.linalg.norm(item))
        return float(query @ item)

    def share(self, user: str, clusters: int) -> list[Fraction]:
        count = Counter(self.cluster[rhs] for rhs in self.items[user])
        return [Fraction(count[c], max(1, len(self.items[user]))) for c in range(clusters)]

    def mixture(self, user: str, of: Mixture) -> list[Fraction]:
        users = self.graph.tables["user"]
        near = sorted(
            (other for other in users if other != user and self.items[other]),
            key=lambda other: (
                -float(users[user] @ users[other] / np.linalg.norm(users[user]) / np.linalg.norm(users[other]))
            ),
        )[: of.neighbors]
        own, others = self.share(user, of.clusters), [self.share(other, of.clusters) for other in near]
        weight = Fraction(of.smoothing).limit_denominator(1000)
        mixed = [
            (1 - weight) * mine + weight * sum(theirs) / len(near) for mine, *theirs in zip(own, *others, strict=True)
        ]
        return [share / sum(mixed) for share in mixed]

    def lists(self, user: str, of: Mixture, k: int, among: set[str]) -> list[str] | None:
        """None if rounding might decide otherwise than fractions."""
        free = [rhs for rhs in self.graph.tables[self.table] if rhs in among - {user} and (user, rhs) not in self.known]
        k = min(k, len(among))
        mixture = self.mixture(user, of)
        best = sorted(range(of.clusters), key=lambda c: (-mixture[c], c))
        edge = [mixture[c] for c in best[of.top - 1 : of.top + 1]]
        if len(edge) == 2 and edge[1] and edge[0] - edge[1] < 1e-9:
            return None
        best = best[: of.top]
        supply = [sum(self.cluster[rhs] == c for rhs in free) for c in best]
        scale = [int(mixture[c] * 10**30) for c in best]
        ideal = ideal_places(scale, k, supply)
        rest = [exact - int(exact) for exact in ideal]
        gaps = [abs(x - y) for at, x in enumerate(rest) for y in rest[at + 1 :] if x and y]
        if min(gaps, default=1) < 1e-9:
            return None
        places = [int(exact) for exact in ideal]
        short = min(k, sum(n for n, c in zip(supply, best, strict=True) if mixture[c])) - sum(places)
        for at in sorted(range(len(best)), key=lambda at: -rest[at])[:short]:
            places[at] += 1
        own = self.graph.tables["user"][user] + self.graph.moved[self.relation]
        picked = []
        for c, count in zip(best, places, strict=True):
            query = self.pulled(own, [rhs for rhs in self.items[user] if self.cluster[rhs] == c])
            found = sorted((rhs for rhs in free if self.cluster[rhs] == c), key=lambda rhs: -self.score(query, rhs))
            picked += [((at + 0.5) / count, -self.score(own, rhs), rhs) for at, rhs in enumerate(found[:count])]
        ones = [rhs for _, _, rhs in sorted(picked)]
        twos = sorted(free, key=lambda rhs: -self.score(own, rhs))[:k]
        due = [((at + 0.5) / of.share, 0, rhs) for at, rhs in enumerate(ones)]
        due += [((at + 0.5) / (1 - of.share) if of.share < 1 else np.inf, 1 + at, rhs) for at, rhs in enumerate(twos)]
        return list(dict.fromkeys(rhs for _, _, rhs in sorted(due, key=lambda of: of[:2])))[:k]

    def pulled(self, own: Floats, items: list[str]) -> Floats:
        """A third of the way to the centroid."""
        if not items:
            return own
        vectors = np.array([self.graph.tables[self.table][rhs] for rhs in items])
        if self.comparator == "l2":
            return own * 2 / 3 + vectors.mean(0) / 3
        if self.comparator == "cos":
            own = own / np.linalg.norm(own)
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        center = vectors.mean(0)
        return own * 2 / 3 + center / np.linalg.norm(center) * np.linalg.norm(own) / 3


@pytest.mark.parametrize("comparator", ["dot", "cos", "l2"])
def test_lists_are_those_of_plain_loops(
    comparator: str, small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = small_config(model={"comparator": comparator}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    embeddings = Embeddings.load(root)
    rng = np.random.default_rng(1)
    for number, (relation, table) in enumerate([("fav", "tweet"), ("follow", "user")] * 2):
        of = Mixture(
            clusters=6, top=int(rng.integers(1, 7)), smoothing=float(rng.choice([0.31, 0.77])),
            neighbors=int(rng.integers(1, 6)), share=float(rng.choice([0.4, 1])),
        )  # fmt: skip
        names = list(embeddings[table])
        drawn = rng.integers(6, size=len(names))
        monkeypatch.setattr(finders, "find_clusters", lambda *_, drawn=drawn: drawn)
        among = {*names} if number < 2 else {*rng.choice(names, 20, replace=False).tolist()}
        (tmp_path / "candidates.txt").write_text("\n".join(among))
        k = int(rng.integers(3, 12))
        given_ = {"k": k, "mixture": of.model_dump(), "candidates": str(tmp_path / "candidates.txt")}
        recommend_once(root, relation, given_, str(tmp_path / "lists"))
        brute = Brute(config, root, relation, table, dict(zip(names, drawn.tolist(), strict=True)))
        compared = 0
        for user, found in read_lists(tmp_path / "lists", {"cluster", "vector"}).items():
            expected = brute.lists(user, of, k, among)
            if expected is not None:
                compared += 1
                assert [name for name, _ in found] == expected, (relation, of, user)
                own = brute.graph.tables["user"][user] + brute.graph.moved[relation]
                scores = [brute.score(own, name) for name in expected]
                np.testing.assert_allclose([score for _, score in found], scores, rtol=1e-4, atol=1e-5)
        assert compared >= 25
        storage.remove(str(tmp_path / "lists"))


@given(data=st.data())
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_list_is_full_and_has_nothing_known(trained: Trained, tmp_path: Path, data: st.DataObject) -> None:
    pytest.importorskip("faiss")
    config, root = trained
    relation, table = data.draw(st.sampled_from([("fav", "tweet"), ("follow", "user")]))
    mixture = {
        "clusters": data.draw(st.integers(1, 25)),
        "top": data.draw(st.integers(1, 30)),
        "smoothing": data.draw(st.sampled_from([0, 0.2, 1])),
        "neighbors": data.draw(st.sampled_from([1, 7, 100])),
        "share": data.draw(st.sampled_from([1e-6, 0.3, 1])),
    }
    k = data.draw(st.integers(1, 45))
    graph = Graph(config, root)
    known = graph.known(relation)
    recommend_once(root, relation, {"k": k, "mixture": mixture}, str(tmp_path / "lists"))
    found = read_lists(tmp_path / "lists", {"cluster", "vector"})
    assert list(found) == sorted(graph.tables["user"])
    for user, candidates in found.items():
        names = [name for name, _ in candidates]
        free = {name for name in graph.tables[table] if name != user and (user, name) not in known}
        assert len(set(names)) == len(names) == min(k, len(free))
        assert {*names} <= free
    if mixture["share"] == 1e-6:  # clusters come after all that the single vector finds
        recommend_once(root, relation, {"k": k}, str(tmp_path / "exact"))
        exact = read_lists(tmp_path / "exact")
        assert {user: [name for name, _ in of] for user, of in found.items()} == {
            user: [name for name, _ in of] for user, of in exact.items()
        }


def test_parts_and_ranks_do_not_change_lists(trained: Trained) -> None:
    pytest.importorskip("faiss")
    config, root = trained
    mixture = {"clusters": 6, "neighbors": 4}
    few, many = (with_lists(config, fav={"k": 9, "users_per_file": per, "mixture": mixture}) for per in (9, 100))
    folder = Path(root, "recommendations/fav")
    recommend(many, root)
    together = read_lists(folder, {"cluster", "vector"})
    alone = recommend(few, root)
    assert read_lists(folder, {"cluster", "vector"}).keys() == together.keys()
    for user, found in read_lists(folder, {"cluster", "vector"}).items():
        assert [name for name, _ in found] == [name for name, _ in together[user]]
    expected = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    storage.remove(str(folder))
    first, second = run_ranks(2, recommend, few, root)
    assert first == second == alone
    assert {path.name: path.read_bytes() for path in folder.glob("*.parquet")} == expected

    without = recommend(with_lists(config, fav={"k": 9, "users_per_file": 9}), root)
    assert without != alone


def test_a_prior_counts_in_clusters_too(small_config: SmallConfig, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    config, root = small_config(model=MODELS["reciprocal cosine with a prior"]), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    embeddings = Embeddings.load(root)
    recommend_once(root, "fav", {"k": 8, "mixture": {"clusters": 5, "share": 1}}, str(tmp_path / "lists"))
    for user, found in read_lists(tmp_path / "lists", {"cluster", "vector"}).items():
        scores = {of.id: of.score for of in embeddings["user"].neighbors(user, "fav", 30)}
        np.testing.assert_allclose([of for _, of in found], [scores[name] for name, _ in found], rtol=1e-4, atol=1e-5)


def test_no_users_and_users_with_nothing_left(trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    _, root = trained
    (tmp_path / "users.txt").write_text("nobody\n")
    settings_ = {"users": str(tmp_path / "users.txt"), "mixture": {"clusters": 4}}
    assert recommend_once(root, "fav", settings_, str(tmp_path / "nobody")).users == 0
    (tmp_path / "tweets.txt").write_text("t3\n")
    settings_ = {"candidates": str(tmp_path / "tweets.txt"), "mixture": {"clusters": 4}}
    recommend_once(root, "fav", settings_, str(tmp_path / "one"))
    found = read_lists(tmp_path / "one", {"cluster", "vector"})
    knows = {lhs for lhs, rhs in Graph(*trained).known("fav") if rhs == "t3"}
    assert {user: [name for name, _ in of] for user, of in found.items()} == {
        user: [] if user in knows else ["t3"] for user in found
    }


def test_what_mixtures_need_is_named(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, root = trained
    with pytest.raises(
        UserError, match=r"recommend.fav.mixture.clusters: 100 are more than the 30 nodes of table tweet"
    ):
        recommend_once(root, "fav", {"mixture": {}}, str(tmp_path / "lists"))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"recommend: mixtures need the library faiss.*pip install 'twhin\[faiss\]'"):
        recommend_once(root, "fav", {"mixture": {"clusters": 3}}, str(tmp_path / "lists"))
