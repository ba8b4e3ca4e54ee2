"""Tells the trackers of the section `tracking` what a stage does and has done."""

from __future__ import annotations

import contextlib
import functools
import json
import posixpath
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

from twhin_core import __version__, lease, storage
from twhin_core.checksum import unseal_lines
from twhin_core.config import Config
from twhin_core.errors import Damaged, Preempted, StorageError
from twhin_core.evaluation.gates import decision_url, named_figures
from twhin_core.evaluation.result import metrics_url, read_metrics
from twhin_core.export.manifest import MANIFEST as EXPORT
from twhin_core.graph.manifest import MANIFEST as GRAPH
from twhin_core.progress import log, waiting
from twhin_core.recommend.manifest import MANIFEST as LISTS
from twhin_core.recommend.manifest import path_of
from twhin_core.run import CONFIG, TRIALS, VERSIONS, revision
from twhin_core.stages.report import report_url
from twhin_core.tracking.open import open_trackers
from twhin_core.tracking.prometheus import Exposition
from twhin_core.tracking.session import NOTHING, About, Results, Session
from twhin_core.tracking.stream import Stream
from twhin_core.tracking.tracker import FAILED, FINISHED, STOPPED, Point

LOOK = 0.5
"""Seconds between two looks whether training has ended."""
LONGEST_END = 30.0
"""Seconds that the end of a stage waits for all trackers together."""

P = ParamSpec("P")
R = TypeVar("R")


def tracked(function: Callable[Concatenate[Config, str, P], R]) -> Callable[Concatenate[Config, str, P], R]:
    """Decorates a stage that runs in one process: it then runs within `tracking`."""

    @functools.wraps(function)
    def run(config: Config, root: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with tracking(config, root):
            return function(config, root, *args, **kwargs)

    return run


@contextlib.contextmanager
def tracking(config: Config, root: str) -> Iterator[Stream]:
    """Brings the trackers up to date before and after the block, and passes figures of training on during it.

    The caller holds the lease of the stage. A tracker that cannot be reached costs a warning, and at the end, where all
    of them have `LONGEST_END` seconds, no more time than that.

    Raises:
        UserError: a tracker refuses the config, or its library is missing. The block has not begun.
    """
    settings = config.tracking.prometheus
    others = [] if settings is None else [Exposition(settings, _title(root))]
    sessions = _sessions(config, root)
    points = _points(root) if sessions else []
    for session in sessions:
        session.start(points)
    stream, how = Stream([*sessions, *others]), FAILED
    try:
        yield stream
        how = FINISHED
    except Preempted:
        how = STOPPED
        raise
    finally:
        results = _results_or_none(config, root) if sessions else NOTHING
        _end(stream, sessions, others, results, how)


def track_after_training(config: Config, root: str) -> None:
    """Brings the trackers up to date, once training, which has finished, has told them of its own end.

    One process at a time: two would send the same, and Weights & Biases takes one.
    """
    if not open_trackers(config.tracking, root):
        return
    deadline = time.monotonic() + 2 * LONGEST_END
    with waiting("for training to end"):
        while (holder := lease.look(root, "train")) is not None and holder.is_alive is not False:
            if time.monotonic() > deadline:
                log.warning("tracking: not up to date: training has not ended; later stages send what is missing")
                return
            time.sleep(LOOK)
    with tracking(config, root):
        pass


def _end(stream: Stream, sessions: Sequence[Session], others: Sequence[Exposition], results: Results, how: str) -> None:
    """Sends what is left."""

    def send() -> None:
        stream.wait()
        for other in others:
            other.send()
        for session in sessions:
            session.finish(results, how)

    stream.close()
    if sessions or others:
        _in_time(send, sessions)


def _in_time(send: Callable[[], None], sessions: Sequence[Session]) -> None:
    """Sends from a thread, since a client may be slower than it was asked to be."""
    thread = threading.Thread(target=send, name="tracking", daemon=True)
    thread.start()
    thread.join(LONGEST_END)
    if thread.is_alive():
        for session in sessions:
            session.give_up(LONGEST_END)


def track_trial(config: Config, root: str, step: int, figures: Mapping[str, float], how: str) -> None:
    """Sends what a sweep has measured of a trial whose training has ended, and how that was.

    Raises:
        UserError: as `tracking`.
    """
    sessions = _sessions(config, root)
    results = Results(step, figures, {})

    def send() -> None:
        for session in sessions:
            session.finish(results, how)

    for session in sessions:
        session.start([])
    if sessions:
        _in_time(send, sessions)


def _sessions(config: Config, root: str) -> list[Session]:
    trackers = open_trackers(config.tracking, root)
    if not trackers:
        return []
    about = About(_title(root), {"twhin.run_root": root, **_code()}, _parameters(config))
    return [Session(tracker, root, about) for tracker in trackers]


def _title(root: str) -> str:
    """Of the versions of a series, the series too: `clicks/versions/3`; so of the trials of a sweep."""
    parts = root.rstrip("/").split("/")
    return posixpath.join(*parts[-3:] if parts[-2:-1] in ([VERSIONS], [TRIALS]) else parts[-1:])


def _code() -> dict[str, str]:
    return {"twhin.version": __version__, "twhin.revision": revision()}


def _parameters(config: Config) -> dict[str, str]:
    """The resolved config, a dotted key per value."""
    leaves = _leaves(config.model_dump(mode="json"), ())
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in leaves}


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Sections, and lists of sections by position; a list of plain values is one value."""
    items = value
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = dict(enumerate(value))
    if not isinstance(items, dict) or not items:
        yield ".".join(path), value
        return
    for key, item in items.items():
        yield from _leaves(item, (*path, str(key)))


def _points(root: str) -> list[Point]:
    """The lines of `training/metrics.jsonl`."""
    url = storage.join(root, "training/metrics.jsonl")
    if not storage.exists(url):
        return []
    now = time.time()
    lines = unseal_lines(storage.read_bytes(url), url)
    return [Point(line.pop("step"), now, line) for line in lines]


def _results_or_none(config: Config, root: str) -> Results:
    """A file that does not read is the matter of the stage that needs it."""
    try:
        return _results(config, root)
    except (Damaged, StorageError) as error:
        log.warning("tracking: results are not sent: %s", error)
        return NOTHING


def _results(config: Config, root: str) -> Results:
    split = config.evaluation.split
    metrics = read_metrics(root, split)
    files = {
        "config.yaml": storage.join(root, CONFIG),
        "graph-manifest.json": storage.join(root, GRAPH),
        "metrics.json": metrics_url(root, split),
        "gates.json": decision_url(root, split),
        "report.html": report_url(root, split),
        "export-manifest.json": storage.join(root, EXPORT),
    }
    for relation in config.recommend:
        files[f"lists-{quote(relation, safe='')}.json"] = storage.join(root, path_of(relation), LISTS)
    there = {name: url for name, url in files.items() if storage.exists(url)}
    if metrics is None:
        return Results(0, {}, there)
    return Results(metrics["checkpoint"], named_figures(metrics), there)
