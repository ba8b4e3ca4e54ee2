"""The configs of docs/recipes.md, on drawn raw files of the shapes that the page describes."""

from __future__ import annotations

import csv
import datetime
import itertools
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command_line import ROOT, twhin
from tests.graph import reading
from twhin_core.config import file as config_file
from twhin_core.graph.manifest import Manifest
from twhin_core.stages.prepare import prepare

MOVIES, EVENTS, TRIPLES, SHOP = re.findall(
    r"^```yaml\n(.*?)^```$", (ROOT / "docs/recipes.md").read_text(), re.MULTILINE | re.DOTALL
)
GENRES = ["Action", "Comedy", "Crime", "Drama", "Film-Noir", "Sci-Fi"]


def write_csv(path: Path, header: str, rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="") as text:
        csv.writer(text).writerows([header.split(","), *rows])


def prepared(recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.chdir(folder)  # where the page's relative paths begin
    return prepare(config_file.parse(recipe), str(folder / "run"))


def edges_of(folder: Path, manifest: Manifest, relation: str) -> dict[str, set[tuple[str, str]]]:
    """The edges of a relation by split, as (lhs, rhs)."""
    return {
        split: {(lhs, rhs) for lhs, of, rhs in reading.edges(folder / "run", manifest, split) if of == relation}
        for split in manifest.splits
    }


class Movies:
    """Data like MovieLens in the folder: people of a genre who mostly rate movies of it highly."""

    def __init__(self, folder: Path, users: int = 120, movies: int = 80, each: int = 15) -> None:
        rng = random.Random(11)
        self.genres = {movie: sorted(rng.sample(GENRES, rng.randrange(1, 4))) for movie in range(1, movies + 1)}
        self.genres[movies] = []
        self.titles = {movie: f'Movie {movie}, "The" ({1990 + movie % 30})' for movie in self.genres}
        taste = {user: rng.choice(GENRES) for user in range(1, users + 1)}
        clock = itertools.count(1_200_000_000, 7)
        self.ratings = []
        for user, movie in rng.sample([(user, movie) for user in taste for movie in self.genres], users * each):
            liked = taste[user] in self.genres[movie]
            self.ratings.append((user, movie, rng.choice([4.0, 4.5, 5.0] if liked else [0.5, 2.0, 3.5]), next(clock)))
        self.tags = [(user, movie, f"tag {rng.randrange(20)}") for user, movie, _, _ in rng.sample(self.ratings, 200)]
        pairs = rng.sample(list(itertools.combinations(taste, 2)), 150)
        self.friends = [*pairs, *((b, a) for a, b in pairs if (a + b) % 5)]  # most are named twice
        rng.shuffle(self.friends)
        write_csv(folder / "ratings.csv", "userId,movieId,rating,timestamp", self.ratings)
        rows = [(movie, self.titles[movie], "|".join(of) or "(no genres listed)") for movie, of in self.genres.items()]
        write_csv(folder / "movies.csv", "movieId,title,genres", rows)
        write_csv(folder / "tags.csv", "userId,movieId,tag", self.tags)
        write_csv(folder / "friends.csv", "user,friend", self.friends)


def test_ratings_with_side_information(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Movies(tmp_path)
    manifest = prepared(MOVIES, tmp_path, monkeypatch)
    liked: dict[str, list[tuple[int, str]]] = {}
    for user, movie, stars, time in raw.ratings:
        if stars >= 4:
            liked.setdefault(str(user), []).append((time, str(movie)))
    latest = {user: [movie for _, movie in sorted(of, reverse=True)] for user, of in liked.items()}
    found = edges_of(tmp_path, manifest, "liked")
    assert found["test"] == {(user, of[0]) for user, of in latest.items() if len(of) > 1}
    assert found["validation"] == {(user, of[1]) for user, of in latest.items() if len(of) > 2}
    assert set.union(*found.values()) == {(user, movie) for user, of in latest.items() for movie in of}
    genres = {(str(movie), genre) for movie, of in raw.genres.items() for genre in of}
    assert edges_of(tmp_path, manifest, "has_genre") == {"train": genres, "validation": set(), "test": set()}
    tags = {(str(movie), tag) for _, movie, tag in raw.tags}
    assert edges_of(tmp_path, manifest, "tagged") == {"train": tags, "validation": set(), "test": set()}
    both = {(str(a), str(b)) for pair in raw.friends for a, b in (pair, pair[::-1])}
    assert edges_of(tmp_path, manifest, "friend") == {"train": both, "validation": set(), "test": set()}
    low = sum(stars < 4 for _, _, stars, _ in raw.ratings)
    repeated = len(raw.tags) - len(tags) + len(raw.friends) - len(both) // 2
    assert manifest.rejected.by_reason == {"duplicate": repeated, "filtered": low + 1}
    labels = {row["id"]: row["label"] for row in reading.rows(tmp_path / "run/graph/labels/movie")}
    assert labels == {movie: raw.titles[int(movie)] for movie in reading.ids(tmp_path / "run", "movie")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ratings_go_to_a_report(tmp_path: Path) -> None:
    raw = Movies(tmp_path)
    (tmp_path / "config.yaml").write_text(re.sub(r"path: (\w+\.csv)", rf"path: {tmp_path}/\1", MOVIES))
    ran = twhin("run", tmp_path / "config.yaml", "--run-root", tmp_path / "run")
    assert ran.returncode == 0, ran.stderr
    page = (tmp_path / "run/evaluation/report.html").read_text()
    assert sum(f"Movie {movie}, " in page for movie in raw.titles) >= 5
    found = json.loads(twhin("neighbors", tmp_path / "run", "user", "1", "--relation", "liked", "--json").stdout)
    assert [row["label"] for row in found["neighbors"]] == [raw.titles[int(row["id"])] for row in found["neighbors"]]


def test_an_event_log_in_partition_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    start = datetime.date(2024, 4, 29)
    events = [
        (start + datetime.timedelta(at % 20), f"u{rng.randrange(30)}", f"i{rng.randrange(25)}",
         rng.choice(["view", "view", "buy", "scroll"]), rng.randrange(10_000))
        for at in range(2000)
    ]  # fmt: skip
    for day in {event[0] for event in events}:
        place = tmp_path / f"events/day={day}"
        place.mkdir(parents=True)
        columns = list(zip(*[event[1:] for event in events if event[0] == day], strict=True))
        names = ("user", "item", "kind", "ms")
        pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), place / "part-0.parquet")
    manifest = prepared(EVENTS, tmp_path, monkeypatch)
    kept = [event for event in events if event[3] in ("view", "buy") and event[4] >= 2000]
    inside = [event for event in kept if event[0] >= datetime.date(2024, 5, 1)]
    counts: dict[tuple[str, str, str], int] = {}
    for _, user, item, kind, _ in inside:
        counts[user, kind, item] = counts.get((user, kind, item), 0) + 1
    assert sum(entry.edges for entry in manifest.splits.values()) == len(counts)
    weights = {
        edge: row["weight"]
        for split in manifest.splits
        for edge, row in zip(
            reading.edges(tmp_path / "run", manifest, split),
            reading.rows(tmp_path / "run/graph/edges" / split),
            strict=True,
        )
    }
    assert weights == counts
    assert manifest.rejected.by_reason == {
        "filtered": len(events) - len(kept),
        "merged": len(inside) - len(counts),
        "outside_window": len(kept) - len(inside),
    }


def test_a_knowledge_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    triples = {(f"/m/{rng.randrange(40)}", f"/r/{rng.randrange(5)}", f"/m/{rng.randrange(40)}") for _ in range(600)}
    ordered = sorted(triples)
    rng.shuffle(ordered)
    parts = {"train": ordered[:400], "valid": ordered[400:450], "test": ordered[450:]}
    for name, of in parts.items():
        (tmp_path / f"{name}.tsv").write_text("".join("\t".join(triple) + "\n" for triple in of))
    (tmp_path / "names.tsv").write_text("".join(f'/m/{at}\tThe "{at}"\n' for at in range(40)))
    manifest = prepared(TRIPLES, tmp_path, monkeypatch)
    assert [entry.name for entry in manifest.relations] == [f"/r/{at}" for at in range(5)]
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        assert set(reading.edges(tmp_path / "run", manifest, split)) == set(parts[name])
    labels = {row["id"]: row["label"] for row in reading.rows(tmp_path / "run/graph/labels/entity")}
    assert labels == {name: f'The "{name[3:]}"' for name in reading.ids(tmp_path / "run", "entity")}


def test_a_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    orders = [
        (f"c{rng.randrange(25)}", [f"p{rng.randrange(30)}" for _ in range(rng.randrange(4))],
         rng.choice([-5.0, 3.5, 20.0, 40_000.0]), at)
        for at in range(400)
    ]  # fmt: skip
    columns = map(list, zip(*orders, strict=True))
    names = ("customer", "products", "amount", "at")
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), tmp_path / "orders.parquet")
    manifest = prepared(SHOP, tmp_path, monkeypatch)
    bought = {(customer, product) for customer, products, amount, _ in orders if amount > 0 for product in products}
    assert set.union(*edges_of(tmp_path, manifest, "bought").values()) == bought
    empty = sum(not products for _, products, amount, _ in orders if amount > 0)
    assert manifest.rejected.by_reason["null_id"] == empty
    assert manifest.rejected.by_reason["filtered"] == sum(max(1, len(of)) for _, of, amount, _ in orders if amount <= 0)
    assert manifest.splits["test"].edges == len({customer for customer, _ in bought})
