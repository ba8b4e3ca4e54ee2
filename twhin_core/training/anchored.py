"""Fills the anchors of a model (see `model/anchor.py`) from an earlier version."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from twhin_core.checkpoints.earlier import EarlierRun
from twhin_core.config import Config
from twhin_core.data.files import EdgeFiles
from twhin_core.distributed.parts import Part, local_parts
from twhin_core.distributed.ranks import Ranks
from twhin_core.progress import log
from twhin_core.schema import SIDES, Schema
from twhin_core.scratch import scratch
from twhin_core.sizes import count_of, readable
from twhin_core.training.earlier import ANCHOR, keep_record
from twhin_core.training.matched_rows import Known, MatchedTable, Whole, count_known, held_rows, known_rows
from twhin_core.vectors.ids import Ints
from twhin_core.vectors.names import open_ids


def fill_anchors(
    earlier: EarlierRun,
    config: Config,
    root: str,
    schema: Schema,
    targets: Mapping[str, Whole],
    edges: EdgeFiles,
    ranks: Ranks,
) -> bool:
    """Fills this rank's part of the anchors, and records how many nodes are held. A collective.

    Held are nodes that had training edges in the earlier graph, or all that it knows if it was not prepared. c_v is
    their training degree there if `by_degree`, else 1.

    Needs 8 bytes for each row that this rank holds, and a block of rows; on disk, 8 bytes for each of these rows and
    for each row of the earlier table.

    Args:
        targets: the anchors by table, [rows, dim + 4], in any state.
        edges: those that this run trains on.

    Returns:
        Whether some node that is held has no training edges.

    Raises:
        UserError: a vocabulary is broken, or the earlier checkpoint is damaged.
    """
    assert config.training.anchor is not None
    held = {table: held_rows(target) for table, target in targets.items()}
    appearances = _count_ends(edges, schema, held)
    found, unseen = dict.fromkeys(schema.tables, 0), False
    with scratch("train") as folder:
        for table, target in targets.items():
            for part in local_parts(target):
                part.values.zero_()
            if not held[table] or table not in earlier.schema.tables:
                continue
            here = open_ids(config, root, table, schema.tables[table])
            matched = MatchedTable(earlier, table, here, held[table], folder)
            degrees = matched.degrees if config.training.anchor.by_degree else None
            filler = _Filler(earlier, config, table, degrees, len(edges))
            for part in local_parts(target):
                ends = appearances[table][part.first_row - held[table].start :]
                for known in known_rows(matched, part, trained=True):
                    filler.fill(part, known, ends[known.place.numpy()])
            found[table] = count_known(matched, target, ranks.is_first, trained=True)
            unseen |= filler.has_unseen
    return _record(earlier, root, targets, found, unseen, ranks)


class _Filler:
    """Fills anchors of a table, each with its node's earlier vector and its factors."""

    def __init__(self, earlier: EarlierRun, config: Config, table: str, degrees: Ints | None, edges: int) -> None:
        """
        Args:
            degrees: of all earlier rows; None for λ alone.
            edges: E.
        """
        assert config.training.anchor is not None
        self._strength, self._is_unit = config.training.anchor.weight, config.model.table(table).is_spherical
        self._stored, self._degrees, self._edges = earlier.checkpoint.rows(table), degrees, edges
        self.has_unseen = False
        """Whether any node so far has no training edges."""

    def fill(self, part: Part, known: Known, ends: Ints) -> None:
        """`ends`: n_v of each known row."""
        vectors = self._stored.gather(known.earlier)
        strength = np.full(len(ends), self._strength)
        if self._degrees is not None:
            strength *= self._degrees[known.earlier]
        of_end = np.where(ends > 0, strength / np.maximum(ends, 1), 0.0)
        of_draw = np.where(ends > 0, 0.0, strength / self._edges)
        factors = torch.from_numpy(np.stack([of_end, of_draw], 1)).float()
        filled = torch.cat([F.normalize(vectors) if self._is_unit else vectors, factors], 1)
        part.values[known.place.to(part.values.device), : filled.shape[1]] = filled.to(part.values)
        self.has_unseen |= bool((ends == 0).any())


def _record(
    earlier: EarlierRun, root: str, targets: Mapping[str, Whole], found: dict[str, int], unseen: bool, ranks: Ranks
) -> bool:
    """Records and logs how many nodes all ranks hold. Returns whether any rank has unseen ones."""
    of_ranks = ranks.of_all((found, unseen))
    counts = {table: sum(of_rank[table] for of_rank, _ in of_ranks) for table in found}
    keep_record(root, ANCHOR, earlier, {"tables": counts}, ranks)
    if ranks.is_first:
        size = sum(part.values.nbytes for target in targets.values() for part in local_parts(target))
        log.info(
            "train: holds %s near step %d of %s, %s on the first rank",
            ", ".join(f"{count_of(count, 'node')} of {table}" for table, count in counts.items()),
            earlier.checkpoint.step,
            earlier.root,
            readable(size),
        )
    return any(of_rank for _, of_rank in of_ranks)


def _count_ends(edges: EdgeFiles, schema: Schema, held: Mapping[str, range]) -> dict[str, Ints]:
    """How many ends of edges each held row is at, by table."""
    counts = {table: np.zeros(len(rows), np.int64) for table, rows in held.items()}
    for chunk in edges.chunks():
        for side in SIDES:
            numbers, nodes = schema.table_numbers[side][chunk.rel], getattr(chunk, side)
            for number in np.unique(numbers).tolist():
                table = list(schema.tables)[number]
                rows = nodes[numbers == number] - held[table].start
                np.add.at(counts[table], rows[(rows >= 0) & (rows < len(held[table]))], 1)
    return counts
