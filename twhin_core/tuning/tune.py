"""Runs a sweep on this machine: starts trials, measures and stops them, and writes what it found."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from twhin_core import activity, lease, storage
from twhin_core.config import Config
from twhin_core.config.yaml_reader import to_yaml
from twhin_core.data.splits import has_split
from twhin_core.errors import UserError
from twhin_core.progress import log, log_of
from twhin_core.stages.prepare import prepare
from twhin_core.tuning.page import draw
from twhin_core.tuning.space import check, with_values
from twhin_core.tuning.study import CURVE, SECONDS, Study, check_installed, values_again, values_of
from twhin_core.tuning.trial import PREPARED, Trial, trial_root

if TYPE_CHECKING:
    import optuna

BEST, REPORT = "best.yaml", "report.html"
PAUSE = 0.2
"""Seconds between two looks for new checkpoints."""
MOST_FAILURES = 3
"""Failed trials without a complete one, after which a sweep ends: something else is wrong than their values."""


class Found(NamedTuple):
    """What a sweep has found."""

    study: Study
    best: str
    """The URL of the best trial's config."""
    report: str


def tune(config: Config, root: str) -> Found:
    """Runs the sweep of `config` under `root` to its end, going on where an earlier call stopped.

    Trials train under `trials/<number>`, on one graph. Each is a process of its own; this one measures them all.

    Raises:
        UserError: as `check`, `Study` and `prepare`; the root is remote; there are no validation edges; no trial was
            complete; or the first trials failed, with the reason of one.
    """
    check(config)
    check_installed()
    if storage.is_remote(root):
        raise UserError(
            f"--run-root {root}: a sweep keeps its state in a local file; name a folder, or compile the sweep for a "
            "cluster"
        )
    log_of(run=root, stage="tune")
    with lease.hold(root, "tune", grace=0), activity.noted(root, "tune"):
        study = Study(config, root)
        prepared = _prepare(config, root)
        _run(config, root, study, prepared)
        return _write(config, root, study)


def _prepare(config: Config, root: str) -> str | None:
    """The run root with the graph; None without a prepare section."""
    if config.prepare is None:
        return None
    prepared = storage.join(root, PREPARED)
    prepare(config.model_copy(update={"sweep": None}), prepared)
    log_of(run=root, stage="tune")
    if not has_split(config, prepared, "validation"):
        raise UserError("sweep: the graph has no validation edges to compare trials by; hold some out (prepare.split)")
    return prepared


class Running(NamedTuple):
    """A trial that is being trained, and what the study knows of it."""

    asked: optuna.Trial
    trial: Trial
    before: float
    """The seconds that it took in earlier processes."""


def _run(config: Config, root: str, study: Study, prepared: str | None) -> None:
    left, running = study.left(), list[Running]()
    remove_checkpoints(root, study)
    try:
        while True:
            while len(running) < study.sweep.parallelism and (left or _may_start(study)):
                started = _start(config, root, study, left.pop(0) if left else study.ask(), prepared)
                running += [] if started is None else [started]
            if not running:
                return
            for one in list(running):
                if not _step(one, study):
                    running.remove(one)
                    remove_checkpoints(root, study)
            time.sleep(PAUSE)
    finally:
        for one in running:
            one.trial.stop()


def _may_start(study: Study) -> bool:
    return len(study.trials()) < study.sweep.trials and not study.is_over_budget()


def _start(config: Config, root: str, study: Study, asked: optuna.Trial, prepared: str | None) -> Running | None:
    """Starts a trial, or records that it failed because its values do not fit together."""
    values, curve = values_of(asked, study.sweep), asked.user_attrs.get(CURVE, [])
    try:
        own = trial_root(root, asked.number)
        trial = Trial(config, values, own, prepared, [tuple(of) for of in curve], study.sweep.parallelism)
    except UserError as error:
        _fail(study, asked, str(error))
        return None
    finally:
        log_of(run=root, stage="tune")  # no longer that of the trial's prepare stage
    log.info("tune: trial %d of %d: %s", asked.number + 1, study.sweep.trials, _in_words(asked.params))
    return Running(asked, trial, asked.user_attrs.get(SECONDS, 0.0))


def _step(running: Running, study: Study) -> bool:
    """Looks at a trial. Returns whether it goes on."""
    asked, trial, before = running
    was_over, has_news = trial.is_over(), trial.look()
    if has_news or was_over:
        study.note(asked, trial.curve, before + trial.seconds)
    if has_news:
        log.info("tune: trial %d: %.0f %% trained: %.4f", asked.number + 1, 100 * trial.share, trial.value)
        reason = _reason_to_stop(study, asked) if trial.share < 1 else ""  # however fast its training has been
        if reason:
            trial.give_up()
            _end(study, asked, None, reason)
        return not reason
    if was_over and trial.error is not None:
        _fail(study, asked, trial.error)
    elif was_over:
        trial.finish()
        _end(study, asked, trial.value, "complete")
    return not was_over


def _reason_to_stop(study: Study, asked: optuna.Trial) -> str:
    """Why a trial ends before its training; empty if it does not."""
    if asked.should_prune():
        return "stopped: others were better by then"
    return "stopped: the budget is spent" if study.is_over_budget() else ""


def _end(study: Study, asked: optuna.Trial, value: float | None, how: str) -> None:
    study.tell(asked, value, how if value is None else "")
    log.info("tune: trial %d: %s", asked.number + 1, how)


def _fail(study: Study, asked: optuna.Trial, reason: str) -> None:
    """Records that a trial failed.

    Raises:
        UserError: so did all trials so far, and they are not few.
    """
    study.tell(asked, None, reason, failed=True)
    log.warning("tune: trial %d failed: %s", asked.number + 1, reason)
    failed = study.in_state("FAIL")
    if len(failed) >= MOST_FAILURES and study.best is None:
        raise UserError(f"tune: the first {len(failed)} trials failed; trial {asked.number + 1}: {reason}")


def remove_checkpoints(root: str, study: Study) -> None:
    """Removes those of all trials that have ended, except of the best."""
    best = study.best
    for trial in study.trials():
        if trial.state.is_finished() and (best is None or trial.number != best.number):
            storage.remove(storage.join(trial_root(root, trial.number), "checkpoints"))


def _write(config: Config, root: str, study: Study) -> Found:
    best = study.best
    if best is None:
        raise UserError(f"{root}: no trial was complete; raise sweep.trials or sweep.budget and run it again")
    url, report = storage.join(root, BEST), storage.join(root, REPORT)
    made = with_values(config, values_again(best, study.sweep))
    text = to_yaml(made.model_dump(mode="json", exclude_unset=True))
    storage.write_text(url, f"# Trial {best.number + 1} of a sweep: {study.sweep.metric} {best.value:.4f}\n{text}")
    draw(report, study, root, text)
    return Found(study, url, report)


def _in_words(values: dict[str, object]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
