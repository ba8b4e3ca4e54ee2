"""What a run needs of other runs after it began: the graph that it shares, and what it has not finished with.

A finished run needs no more than the graph. Continuing a graph copies its files, a checkpoint holds all that a warm
start took, and metrics hold all that a comparison found.
"""

from __future__ import annotations

import os

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import FINISHED, last, root_of_checkpoint
from twhin_core.config import Config
from twhin_core.config.earlier import PREVIOUS
from twhin_core.dependents import noted, same_root
from twhin_core.errors import UserError
from twhin_core.evaluation.result import metrics_url
from twhin_core.export.manifest import MANIFEST as EXPORT
from twhin_core.graph.manifest import MANIFEST, read_manifest, shared_graph
from twhin_core.run import CONFIG, saved_config
from twhin_core.training.earlier import ANCHOR, START, read_records


def dependent(root: str) -> str | None:
    """What another run needs the version at `root` for, or None if none does."""
    for by in noted(root):
        try:
            found = _needs(by)
        except UserError as error:  # what it needs cannot be told
            return f"{by} may need it: {error}"
        for place, use in found:
            if same_root(place, root):
                return f"{by} {use}"
    return None


def pins(root: str) -> list[tuple[int | None, str]]:
    """The steps of checkpoints of the run at `root` that other runs need, each with what for; None for all steps.

    A run needs the checkpoint that it was anchored to for as long as it is there, since it can train for longer, and
    the one that it starts from until it has one of its own.
    """
    found: list[tuple[int | None, str]] = []
    for by in noted(root):
        try:
            found += _pins(by, root)
        except UserError as error:
            found.append((None, f"{by} may need it: {error}"))
    return found


def _pins(by: str, root: str) -> list[tuple[int | None, str]]:
    if not storage.exists(storage.join(by, CONFIG)):
        return []
    records, training, begins = read_records(by), saved_config(by).training, last(by) is None
    found: list[tuple[int | None, str]] = [
        (record.get("step"), f"{by} {'is anchored to' if key == ANCHOR else 'starts from'} it")
        for key, record in records.items()
        if _may_be(record["root"], root) and (key == ANCHOR or begins)
    ]
    initial = training.initial_checkpoint_dir
    if initial is not None and begins and _may_be(root_of_checkpoint(initial), root):
        step = initial.rstrip("/").rsplit("/", 1)[-1]
        found.append((int(step) if step.isdigit() else None, f"{by} starts from it"))
    return found


def _may_be(place: str, root: str) -> bool:
    """Whether `place`, a root that another run names, is `root`, as far as can be told from here."""
    is_relative = not storage.is_remote(place) and not os.path.isabs(os.path.expanduser(place))
    return is_relative or same_root(place, root)


def _needs(by: str) -> list[tuple[str, str]]:
    """The roots that the run at `by` needs, each with what for. Of a run that is gone, none."""
    if not storage.exists(storage.join(by, CONFIG)):
        return []
    found, config = [], saved_config(by)
    if (holder := shared_graph(by)) is not None:
        found.append((holder, "uses its graph"))
    elif config.prepare is not None and not storage.exists(storage.join(by, MANIFEST)):
        found += [(place, "has not finished prepare with it") for place in _given(config.prepare.previous)]
    if not storage.exists(storage.join(by, FINISHED)):
        found += [(place, "has not finished training with it") for place in _training(config, by)]
    if not storage.exists(storage.join(by, EXPORT)):
        of_export = [config.export.align, None if config.export.map is None else config.export.map.to]
        places = (place for key in of_export if key is not None for place in _places(config, by, key))
        found += [(place, "has not been exported with it") for place in places]
    if not storage.exists(metrics_url(by, config.evaluation.split)):
        found += [(place, "has not been compared with it") for place in _given(config.evaluation.previous)]
    return found


def _training(config: Config, by: str) -> list[str]:
    """The roots whose vectors unfinished training starts from, or stays near."""
    training, records = config.training, read_records(by)
    places = {}
    if training.anchor is not None:
        places[ANCHOR] = training.anchor.to
    if training.warm_start is not None and last(by) is None:
        places[START] = training.warm_start.source
    found: list[str] = []
    for key, place in places.items():
        found += [records[key]["root"]] if key in records else _places(config, by, place)
    return found


def _places(config: Config, by: str, place: str) -> list[str]:
    """The roots that `place`, the value of a key, stands for."""
    manifest = None if place != PREVIOUS or shared_graph(by) is not None else read_manifest(by)
    previous = None if manifest is None else manifest.previous
    return _given(config.earlier_place(place) if previous is None else previous.root)


def _given(place: str | None) -> list[str]:
    return [] if place is None else [place]
