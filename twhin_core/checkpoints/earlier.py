"""An earlier version of the model: its config, its graph and one of its checkpoints."""

from __future__ import annotations

from pathlib import Path

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import at_step, last
from twhin_core.checkpoints.description import model_description
from twhin_core.errors import UserError
from twhin_core.graph.manifest import read_schema
from twhin_core.published import find_root
from twhin_core.run import CONFIG, saved_config
from twhin_core.vectors.degrees import read_degrees
from twhin_core.vectors.ids import Ids, Ints
from twhin_core.vectors.matching import Names, match
from twhin_core.vectors.names import open_ids


class EarlierRun:
    """An earlier run and its newest checkpoint, or that of a step."""

    def __init__(self, root: str, key: str, step: int | None = None) -> None:
        """
        Args:
            root: a run root, or a series for its published version.
            key: the config's key that names `root`, for errors.

        Raises:
            UserError: `root` is no run root, or a series without a published version; or it has no complete checkpoint
                or none of `step`.
        """
        self.root = root = find_root(root, key)
        self._key = key
        if not storage.exists(storage.join(root, CONFIG)):
            raise UserError(f"{key}: {root} is not a run root: it has no {CONFIG}")
        self.config = saved_config(root)
        checkpoint = last(root) if step is None else at_step(root, step)
        if checkpoint is None:
            of = "" if step is None else f" of step {step}, which this run has used before"
            raise UserError(f"{key}: there is no complete checkpoint{of} at {root}")
        self.checkpoint = checkpoint
        self.schema = read_schema(self.config, root)
        checkpoint.check_fits(model_description(self.config, self.schema))

    def ids(self, table: str) -> Ids:
        """The ids of a table of this run. Raises UserError if its vocabulary is broken, as far as opening it shows."""
        return open_ids(self.config, self.root, table, self.schema.tables[table])

    def degrees(self, table: str, path: Path) -> Ints | None:
        """The training degree of each row of a table, or None if this run prepared no graph. As `read_degrees`."""
        return read_degrees(self.config, self.root, table, self.schema.tables[table], path)

    def match(self, table: str, here: Ids, rows: range, path: Path, memory: int, limit: str | None = None) -> None:
        """Writes to `path` the earlier row of each of `rows` of a table with the ids `here`. As `matching.match`.

        `limit`: the config's key that `memory` comes from.
        """
        names = Names(f"{len(rows):,} nodes of table {table}", self._key, self.root, limit)
        match(path, rows, here, self.ids(table), memory, names)
