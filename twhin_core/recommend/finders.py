"""Makes the finder that the settings of a relation ask for."""

from __future__ import annotations

import torch

from twhin_core import sizes
from twhin_core.config.recommend import Recommend
from twhin_core.export.vector_set import TrainedRun
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.products import Arithmetic
from twhin_core.ranking.projections import Projections
from twhin_core.recommend.finder import ExactFinder, Finder


def make_finder(run: TrainedRun, settings: Recommend, of: CandidateSet, device: torch.device) -> Finder:
    """What finds `settings.fetched` of the candidates `of` a relation for each of its users."""
    scorer, arithmetic = run.scorer(), Arithmetic("fp32", device)
    memory = sizes.in_bytes(run.config.evaluation.memory_limit) // 4
    tables = {name: run.checkpoint.rows(name) for name in run.schema.tables}
    projections = Projections(scorer, run.schema, tables, arithmetic, memory, run.prior)
    return ExactFinder(scorer, projections, of, settings.fetched)
