"""Content of a graph that continues another one, against plain Python."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig, write_raw
from tests.graph import test_next_day
from tests.graph.reading import ids, rows
from tests.graph.test_features import Row, check_written, draw, expect, settings
from tests.graph.test_features import write as write_content
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.graph.manifest import Manifest
from twhin_core.stages.prepare import prepare


class Days:
    """Versions of a graph, each of which continues the one before, with files of their own."""

    def __init__(self, small_config: SmallConfig, folder: Path, **options: Any) -> None:
        self._small_config, self._folder, self._options = small_config, folder, options
        self.roots: list[Path] = []
        (folder / "raw").mkdir()
        (folder / "content").mkdir()

    def write(self, content: list[Row] | None, *edges: tuple[str, str, str], file: str | None = None) -> None:
        """The files of the next day; `file`: that of the content, which may be there."""
        number = len(self.roots)
        raw = self._folder / f"raw/day-{number}.parquet"
        if number:
            if edges:
                test_next_day.write(raw, *edges, ("u1", "fav", f"of-day-{number}"))
        else:
            write_raw(raw)
        if content is not None:
            write_content(self._folder / "content" / (file or f"day-{number}.parquet"), content)

    def config(self, **changes: Any) -> Config:
        before = {"previous": str(self.roots[-1])} if self.roots else {}
        features = {"features": [settings(self._folder / "content", **changes)]}
        sources = {"sources": [{"path": str(self._folder / "raw"), "relation_column": "relation"}]}
        return self._small_config(prepare={**sources, **features, **before, **self._options})

    def prepare(self, **changes: Any) -> Manifest:
        config, root = self.config(**changes), self._folder / str(len(self.roots))
        manifest = prepare(config, str(root))
        self.roots.append(root)
        return manifest

    def check(self, manifest: Manifest, kept: dict[str, Row]) -> None:
        content = next(of.content for of in manifest.tables if of.name == "tweet")
        assert content is not None
        assert content.nodes == len(kept)
        check_written(self.roots[-1], content, kept)
        names = [ids(root, "tweet") for root in self.roots]
        assert set(kept) <= set(names[-1])
        for before, after in itertools.pairwise(names):
            assert after[: len(before)] == before


@pytest.mark.parametrize("options", [{}, {"repeats": "sum"}], ids=str)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_last_row_of_a_node_counts(
    small_config: SmallConfig, tmp_path: Path, options: dict[str, Any], seed: int
) -> None:
    check_days(Days(small_config, tmp_path, **options), seed, (90, 60, 40))


def check_days(days: Days, seed: int, counts: tuple[int, ...]) -> None:
    """`counts`: how many rows of content are drawn for each day."""
    kept = dict[str, Row]()
    for day, count in enumerate(counts):
        given = draw(100 * seed + day, count)
        if day:  # nodes without any edge; their vectors are longer every day, so that all are scaled by another factor
            one: Row = {"embedding": [90.0**day, 2.0, 9.0], "author": "x", "language": 1}
            given += [{**one, "key": f"day{day}-{at}"} for at in range(3)]
        days.write(given, ("u2", "fav", "new1"), ("u3", "fav", "t3"))
        manifest = days.prepare()
        found, rejected = expect(given)
        kept |= found
        days.check(manifest, kept)
        content = manifest.tables[1].content
        assert content is not None
        assert content.rejected == rejected


def test_a_file_that_was_written_again_is_read_again(small_config: SmallConfig, tmp_path: Path) -> None:
    days, kept = Days(small_config, tmp_path), dict[str, Row]()
    for day in range(3):
        given = draw(day, 60)
        days.write(given, file=("a.parquet", "b.parquet", "a.parquet")[day])  # and no new edges
        manifest = days.prepare()
        kept |= expect(given)[0]
        days.check(manifest, kept)


def test_without_a_new_file_all_stays(small_config: SmallConfig, tmp_path: Path) -> None:
    days, given = Days(small_config, tmp_path), draw(1, 80)
    for day in range(3):
        days.write(None if day else given, ("u2", "fav", "new1"))
        days.check(days.prepare(), expect(given)[0])


def test_a_rare_value_gets_a_number_once_enough_nodes_have_it(small_config: SmallConfig, tmp_path: Path) -> None:
    days, kept = Days(small_config, tmp_path), dict[str, Row]()
    for day in range(3):
        given = [
            {"key": f"of-{day}-{at}", "embedding": [1.0, 2.0, 3.0], "author": "slow", "language": day}
            for at in range(2)
        ]
        days.write(given)
        manifest = days.prepare()
        kept |= expect(given)[0]
        days.check(manifest, kept)
        found = [of["value"] for of in rows(days.roots[-1] / "graph/categories/tweet")]
        assert ("slow" in found) == (day == 2)


def test_content_of_other_columns_starts_anew(small_config: SmallConfig, tmp_path: Path) -> None:
    days, given = Days(small_config, tmp_path), [draw(day, 60) for day in range(2)]
    days.write(given[0])
    days.prepare(categories=["author"])
    days.write(given[1])
    manifest = days.prepare()
    kept, rejected = expect(given[0] + given[1])
    days.check(manifest, kept)
    content = manifest.tables[1].content
    assert content is not None
    assert content.rejected == rejected


def test_vectors_of_another_length_are_refused(small_config: SmallConfig, tmp_path: Path) -> None:
    days = Days(small_config, tmp_path)
    days.write(draw(1, 60))
    days.prepare()
    days.write([{"key": "t1", "embedding": [1.0, 2.0], "author": "a", "language": 1}])
    message = r"prepare\.features\.0\.column: vectors in 'embedding' of .* have 2 numbers, in .*0 3; "
    with pytest.raises(UserError, match=message):
        days.prepare()
