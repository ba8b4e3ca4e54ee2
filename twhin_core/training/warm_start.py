"""Starts from an earlier version: its rows by table and id, their optimizers' state, and its relations by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from twhin_core.checkpoints.checkpoint import OPTIMIZER, PRIOR
from twhin_core.checkpoints.earlier import EarlierRun
from twhin_core.config import Config
from twhin_core.data.files import EdgeFiles
from twhin_core.distributed.ranks import Ranks
from twhin_core.model.scorer import Scorer
from twhin_core.model.tower import Tower
from twhin_core.progress import log
from twhin_core.schema import Schema
from twhin_core.scratch import scratch
from twhin_core.training.carried_content import carry, tables_carried
from twhin_core.training.earlier import START, Record, keep_record
from twhin_core.training.initialise import normalise_rows
from twhin_core.training.matched_rows import MatchedTable, Whole, copy_rows, count_known, held_rows
from twhin_core.training.new_nodes import fill_from_neighbors
from twhin_core.training.outside import OutsideRows
from twhin_core.vectors.content import content_of
from twhin_core.vectors.ids import Ints
from twhin_core.vectors.names import open_ids

State = dict[str, Whole]
"""The tensors that training resumes from, by name."""


class WarmStart:
    """Fills a model's state from an earlier run that fits it (see `earlier.check_start`)."""

    def __init__(
        self,
        earlier: EarlierRun,
        config: Config,
        root: str,
        schema: Schema,
        state: State,
        ranks: Ranks,
        outside: OutsideRows,
    ) -> None:
        """
        Args:
            state: with initial values, which new rows and relations keep.
            outside: vectors that new rows have, and frozen ones.
        """
        assert config.training.warm_start is not None
        self._settings = config.training.warm_start
        self._earlier, self._config, self._schema, self._state = earlier, config, schema, state
        self._root, self._ranks, self._outside = root, ranks, outside
        self._carried = tables_carried(earlier, config, root, schema)
        self._ids = {table: open_ids(config, root, table, rows) for table, rows in schema.tables.items()}

    def run(self, edges: EdgeFiles) -> None:
        """Fills this rank's part of the state, and records what was matched, new and gone. A collective.

        Needs memory for a block of rows or edges, and 8 bytes for each row that this rank holds; on disk, 8 bytes for
        each row of the tables that it matches, those that it holds or all if new nodes start from their neighbors, and
        for each earlier row.

        Args:
            edges: those that it trains on.

        Raises:
            UserError: a vocabulary is broken, or the earlier checkpoint is damaged.
        """
        for table in self._carried:
            carry(self._earlier, self._root, table, self._state, self._settings.optimizer_state)
        with scratch("train") as folder:
            matched = {table: self._match(table, folder) for table in self._schema.tables}
            for table in self._schema.tables:
                if table in self._earlier.schema.tables:
                    self._copy_table(table, matched[table])
            self._outside.fill(self._state, {table: of.is_known for table, of in matched.items()})
            self._copy_relations()
            filled = Counter[str]()
            if self._settings.new_nodes == "neighbors":
                filled = self._fill(matched, edges)
            counts, trained = self._count(matched), self._count(matched, trained=True)
        self._record(counts, counts - trained, self._sum(filled))

    def _weight(self, table: str) -> Whole:
        return self._state[f"tables.embeddings.{table}.weight"]

    def _match(self, table: str, folder: Path) -> MatchedTable:
        is_needed_whole = self._settings.new_nodes == "neighbors"  # an edge's other node may be anywhere
        rows = range(self._schema.tables[table]) if is_needed_whole else held_rows(self._weight(table))
        return MatchedTable(self._earlier, table, self._ids[table], rows, folder)

    def _copy_table(self, table: str, matched: MatchedTable) -> None:
        checkpoint, weight = self._earlier.checkpoint, self._weight(table)
        copy_rows(matched, (checkpoint.filled_rows if table in self._carried else checkpoint.rows)(table), weight)
        if self._makes_unit(table):
            normalise_rows(weight)
        if self._settings.optimizer_state:
            prefix = f"{OPTIMIZER}tables.embeddings.{table}.weight."
            for name in (name for name in self._state if name.startswith(prefix)):
                copy_rows(matched, checkpoint.stored(name), self._state[name], trained=True)

    def _makes_unit(self, table: str) -> bool:
        """Whether rows have length 1 here but not in the earlier version."""
        was_spherical = table in self._earlier.schema.tables and self._earlier.config.model.table(table).is_spherical
        return self._config.model.table(table).is_spherical and not was_spherical

    def _copy_relations(self) -> None:
        there, here = self._earlier.schema.names, self._schema.names
        number = {name: rel for rel, name in enumerate(there)}
        pairs = [(number[name], rel) for rel, name in enumerate(here) if name in number]
        operators = ["operator", "inverse"] if self._config.model.reciprocal else ["operator"]
        old, new = (
            Scorer(of.model, schema.relations)
            for of, schema in ((self._earlier.config, self._earlier.schema), (self._config, self._schema))
        )
        for name in operators:
            rows: dict[str, list[tuple[int, int]]] = {}
            for earlier, rel in pairs:
                kind, source = getattr(old, name).place(earlier)
                _, target = getattr(new, name).place(rel)
                rows.setdefault(kind, []).append((source, target))
            for kind, places in rows.items():
                self._copy_parameters(f"scorer.{name}.{kind}", torch.tensor(places))
        if PRIOR in self._state and pairs and isinstance(old.prior, torch.nn.Parameter):
            self._copy_parameters(PRIOR, torch.tensor(pairs))
        if self._settings.optimizer_state:
            self._copy_whole("optimizer.steps")

    def _copy_parameters(self, name: str, places: Tensor) -> None:
        """Copies rows of a parameter and its state. `places`: int64 [n, 2], the earlier row and the row."""
        state = (
            [of for of in self._state if of.startswith(f"{OPTIMIZER}{name}.")] if self._settings.optimizer_state else []
        )
        for one in (name, *state):
            target = self._state[one]
            assert isinstance(target, Tensor)
            if target.dim() == 0:  # a number of steps
                self._copy_whole(one)
            else:
                values = self._earlier.checkpoint.stored(one).read_whole()[places[:, 0]]
                target.data[places[:, 1].to(target.device)] = values.to(target)

    def _copy_whole(self, name: str) -> None:
        target = self._state[name]
        assert isinstance(target, Tensor)
        target.copy_(self._earlier.checkpoint.stored(name).read_whole())

    def _fill(self, matched: dict[str, MatchedTable], edges: EdgeFiles) -> Counter[str]:
        """Gives new and untrained nodes the means of what their edges predict.

        Returns how many this rank counts, by table.
        """
        scorer = Scorer(self._config.model, self._schema.relations)
        for name, parameter in scorer.named_parameters():
            trained = self._state[f"scorer.{name}"]
            assert isinstance(trained, Tensor)
            parameter.data.copy_(trained)
        tables = [table for table in self._schema.tables if table in self._earlier.schema.tables]
        known = {table: self._earlier.checkpoint.rows(table) for table in tables}
        targets = {table: self._weight(table) for table in self._schema.tables}
        unit = {table for table in self._schema.tables if self._config.model.table(table).is_spherical}
        added = {table: self._added(table) for table in self._carried}
        settled = {table: self._outside.has_vector(table, held_rows(of)) for table, of in targets.items()}
        is_first = self._ranks.is_first
        return fill_from_neighbors(scorer, self._schema, edges, matched, known, targets, settled, unit, added, is_first)

    def _added(self, table: str) -> Callable[[Ints], Tensor]:
        """What content adds to the rows of a table."""
        content = content_of(self._root, table, self._schema.tables[table])
        tower = Tower(self._schema.content[table], self._config.model.dim)
        for name, parameter in tower.named_parameters():
            trained = self._state[f"towers.{table}.{name}"]
            assert isinstance(trained, Tensor)
            parameter.data.copy_(trained)
        return lambda rows: tower(content.gather(rows)).detach()

    def _count(self, matched: dict[str, MatchedTable], trained: bool = False) -> Counter[str]:
        """The number of matched rows of each table, over all ranks. A collective."""
        is_first = self._ranks.is_first
        return self._sum(
            Counter({name: count_known(of, self._weight(name), is_first, trained) for name, of in matched.items()})
        )

    def _sum(self, mine: Counter[str]) -> Counter[str]:
        total = Counter[str]()
        for counts in self._ranks.of_all(dict(mine)):
            total.update(counts)
        return total

    def _record(self, matched: Counter[str], untrained: Counter[str], filled: Counter[str]) -> None:
        if not self._ranks.is_first:
            return
        here, there = self._schema.tables, self._earlier.schema.tables
        tables: Record = {}
        for table in {**here, **there}:
            before = self._earlier.ids(table).size if table in there else 0
            new = self._ids[table].size - matched[table] if table in here else 0
            tables[table] = {
                "matched": matched[table],
                "untrained": untrained[table],
                "new": new,
                "from_neighbors": filled[table],
                "gone": before - matched[table],
            }
            log.info(
                "train: table %s: %s rows from step %d of %s, of which %s had no training edge, %s new, %s gone; "
                "%s start from neighbors", table, f"{matched[table]:,}", self._earlier.checkpoint.step,
                self._earlier.root, f"{untrained[table]:,}", f"{new:,}", f"{before - matched[table]:,}",
                f"{filled[table]:,}",
            )  # fmt: skip
        names, before_names = set(self._schema.names), {of.name for of in self._earlier.schema.relations}
        relations = {
            "matched": sorted(names & before_names),
            "new": sorted(names - before_names),
            "gone": sorted(before_names - names),
        }
        log.info("train: relations: %s", ", ".join(f"{len(of):,} {kind}" for kind, of in relations.items()))
        keep_record(self._root, START, self._earlier, {"tables": tables, "relations": relations}, self._ranks)
