"""Which checkpoints of a finished run are still needed, and the removal of the others."""

from __future__ import annotations

from typing import get_args

from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import FINISHED, Checkpoint
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.evaluation.result import place
from twhin_core.export.manifest import read_export_manifest
from twhin_core.progress import log
from twhin_core.ranking.queries import Split
from twhin_core.series.needs import pins
from twhin_core.series.reading import is_read
from twhin_core.stages.status import at_work


def keep_after_success(config: Config, root: str, stage: str) -> None:
    """Removes what `training.keep_checkpoints_after_success` says, once training has finished, if nothing needs it.

    The caller holds the lease of `stage`. While another stage works, everything stays: it may be reading.
    """
    count = config.training.keep_checkpoints_after_success
    if count is None or not storage.exists(storage.join(root, FINISHED)):
        return
    if others := at_work(root, stage, "run"):
        log.info("%s: old checkpoints stay, as %s", stage, others)
        return
    for old, use in sort_out(root, count):
        if use is None:
            checkpoint.remove(old)
        log.info("%s: the checkpoint of step %d %s", stage, old.step, f"stays: {use}" if use else "was removed")


def sort_out(root: str, count: int) -> list[tuple[Checkpoint, str | None]]:
    """The complete checkpoints, oldest first, each with what keeps it, or None if nothing does.

    `count`: how many of the newest stay in any case.
    """
    found = checkpoint.complete(root)
    newest = found[-count:]
    try:
        uses = _uses(root, [of.step for of in found])
    except UserError as error:  # what a damaged file says may be needed
        uses = dict.fromkeys((of.step for of in found), f"it may be needed: {error}")
    kept = "it is the newest" if count == 1 else f"it is one of the newest {count}"
    return [(of, kept if of in newest else uses.get(of.step)) for of in found]


def _uses(root: str, steps: list[int]) -> dict[int, str]:
    """What each step is needed for, where there is something."""
    if not storage.exists(storage.join(root, FINISHED)):
        return dict.fromkeys(steps, "training has not finished")
    if is_read(root):
        return dict.fromkeys(steps, "the run is being read")
    uses = dict.fromkeys(_waiting(root, steps), "evaluate --follow has not measured it")
    for step, use in pins(root):
        uses |= dict.fromkeys(steps if step is None else [step], use)
    if (exported := read_export_manifest(root)) is not None:
        uses[exported.checkpoint] = "it was exported"
    return uses


def _waiting(root: str, steps: list[int]) -> list[int]:
    """The steps that `evaluate --follow` has left out, where it was used."""
    waiting: list[int] = []
    for split in get_args(Split):
        if any(name.isdigit() for name in storage.list_folders(place(root, split))):
            waiting += [step for step in steps if not storage.exists(place(root, split, str(step), "metrics.json"))]
    return waiting
