"""Writes the lists of a relation, a file for each part of the users."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from twhin_core import __version__, plugins, sizes, storage
from twhin_core.config.recommend import Recommend
from twhin_core.data.splits import open_known
from twhin_core.embeddings.index import open_index
from twhin_core.embeddings.result import open_result
from twhin_core.embeddings.rule import AppliedRule
from twhin_core.export.vector_set import TrainedRun
from twhin_core.export.write import identify
from twhin_core.parquet import part_path, write_part
from twhin_core.paths import find_files
from twhin_core.progress import Progress
from twhin_core.recommend import known
from twhin_core.recommend.candidates import candidates_of, query_of
from twhin_core.recommend.finders import make_finder
from twhin_core.recommend.lists import SCHEMA, Lists
from twhin_core.recommend.manifest import (
    MANIFEST,
    ListsManifest,
    Part,
    read_lists_manifest,
    read_part,
    record_url,
    share_of_exact,
    write_finished_part,
)
from twhin_core.recommend.ruled import RuledFinder
from twhin_core.recommend.users import find_users
from twhin_core.scratch import scratch
from twhin_core.series.id_list import read_ids

if TYPE_CHECKING:
    from pathlib import Path

    from twhin_core.distributed.ranks import Ranks


def write_lists(run: TrainedRun, relation: str, settings: Recommend, folder: str, ranks: Ranks) -> ListsManifest:
    """Writes the lists of a relation to `folder`: `part-*.parquet`, then `manifest.json`. A collective.

    Finished parts of an interrupted call are kept.

    Raises:
        UserError: `exclude` names a relation between other tables, a file of ids or pairs is broken, or nothing is a
            candidate.
    """
    with scratch("recommend") as files:
        return _Writer(run, relation, settings, folder, _digest(run, relation, settings), ranks, files).write()


def find_lists(run: TrainedRun, relation: str, settings: Recommend, folder: str) -> ListsManifest | None:
    """The lists in `folder`, if they are complete and what `write_lists` would write."""
    found = read_lists_manifest(folder)
    if found is None or found.made_from != _digest(run, relation, settings):
        return None
    return found if all(file.is_there(folder) for file in found.files) else None


class _Writer:
    def __init__(
        self,
        run: TrainedRun,
        relation: str,
        settings: Recommend,
        folder: str,
        made_from: str,
        ranks: Ranks,
        files: Path,
    ) -> None:
        config, schema = run.config, run.schema
        self._run, self._relation, self._settings, self._folder = run, relation, settings, folder
        self._made_from, self._ranks, self._files = made_from, ranks, files
        self._memory = sizes.in_bytes(config.evaluation.memory_limit)
        self._rel = schema.names.index(relation)
        self._splits = open_known(config, run.root, schema)
        self._excluded = [relation] if settings.exclude is None else settings.exclude
        known.sides_of_users(schema, self._rel, settings)  # refuses before any work

    def write(self) -> ListsManifest:
        run, settings, schema = self._run, self._settings, self._run.schema
        lhs, rhs = (schema.table_of(self._rel, side) for side in ("lhs", "rhs"))
        asked = None if settings.users is None else read_ids(settings.users)
        rule = (
            None
            if settings.rule is None
            else AppliedRule(settings.rule.name, self._relation, f"recommend.{self._relation}.rule")
        )
        users = find_users(
            run.ids(lhs), schema.tables[lhs], asked, settings.users_per_file, self._files, self._memory // 4
        )
        of, unknown = candidates_of(run, self._rel, settings, self._files)
        if self._ranks.is_first:
            self._prepare_folder(users.parts)
        self._ranks.wait()
        mine = [part for part in range(users.parts) if part % self._ranks.world_size == self._ranks.rank]
        todo = [part for part in mine if read_part(self._folder, part, self._made_from) is None]
        if todo:
            left_out = known.left_out(run, self._rel, settings, self._splits, users, self._files)
            pairs = known.collect(left_out, users, todo, self._files)
            finder = make_finder(run, settings, of, self._ranks.device, run.prior_of_lists(self._relation))
            if rule is not None:
                finder = RuledFinder(finder, rule, run.ids(lhs), run.ids(rhs), settings.k)
            self._write_parts(todo, Lists(finder, users, run.ids(rhs), pairs))
        self._ranks.wait()
        parts = [read_part(self._folder, part, self._made_from) for part in range(users.parts)]
        finished = [part for part in parts if part is not None]
        assert len(finished) == users.parts
        manifest = ListsManifest(
            version=__version__,
            relation=self._relation,
            made_from=self._made_from,
            checkpoint=run.step,
            comparator=run.config.model.comparator,
            k=settings.k,
            users=len(users.row),
            unknown_users=users.unknown,
            candidates=of.size,
            unknown_candidates=unknown,
            excluded=self._excluded,
            share_of_exact=share_of_exact(finished),
            files=[part.file for part in finished],
        )
        if self._ranks.is_first:
            storage.publish_json(storage.join(self._folder, MANIFEST), manifest.model_dump())
        return manifest

    def _prepare_folder(self, parts: int) -> None:
        """Removes what is neither a finished part of these lists nor its record."""
        storage.remove(storage.join(self._folder, MANIFEST))  # first: without it, nothing counts as complete
        kept = []
        for part in range(parts):
            finished = read_part(self._folder, part, self._made_from)
            if finished is not None:
                kept += [storage.join(self._folder, finished.file.path), record_url(self._folder, part)]
        storage.remove_all_but(self._folder, kept)

    def _write_parts(self, parts: list[int], lists: Lists) -> None:
        total = sum(lists.users.part(part).stop - lists.users.part(part).start for part in parts)
        name, quiet = f"recommend {self._relation}", not self._ranks.is_first
        with Progress(name, total * lists.finder.candidates.size, "scores", quiet=quiet) as progress:
            for part in parts:
                made, compared = lists.make(part, progress)
                file = write_part([made], SCHEMA, self._folder, part_path("", part).lstrip("/"))
                write_finished_part(self._folder, part, Part(made_from=self._made_from, file=file, compared=compared))


def _digest(run: TrainedRun, relation: str, settings: Recommend) -> str:
    """Of the vectors, the settings, and the files, the rule and the index that these name."""
    index = None
    if settings.index:
        query = query_of(run.schema, run.schema.names.index(relation))
        index = open_index(open_result(run.root), query).file.sha256
    parts = [identify(run), run.step, relation, *identified(settings, run.config.prior_of_lists(relation)), index]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def identified(settings: Recommend, prior: float | None) -> list[Any]:
    """The settings, with what identifies the files and the rule that they name. `prior`: its weight, if not trained.

    Raises:
        UserError: a file does not exist.
    """
    candidates = None if settings.candidates is None else settings.candidates.path
    files = {
        pattern: [(file.url, file.size, file.version) for file in find_files(pattern)]
        for pattern in (settings.users, candidates, settings.exclude_edges)
        if pattern is not None
    }
    rule = None if settings.rule is None else plugins.release(plugins.RULES, settings.rule.name)
    return [settings.model_dump() | {"prior": prior}, files, rule]
