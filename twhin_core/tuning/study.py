"""The state of a sweep: an Optuna study in a file, which survives this process at any moment."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.config.sweep import Parameter, Sweep
from twhin_core.errors import UserError
from twhin_core.run import CHANGEABLE, SWEEP, differences
from twhin_core.tuning.space import Values, combine, labels, own_values, sweep_of

if TYPE_CHECKING:
    import optuna

STUDY, NAME = "study.db", "sweep"
SECONDS, CURVE, REASON = "seconds", "curve", "reason"
"""Of a trial: the time that it took, (share of training, metric) at each look, and why it ended early."""

ADJUSTABLE = ("sweep.trials", "sweep.budget", "sweep.parallelism", "sweep.stopping")
"""Keys that may change between two calls on one root."""

RANDOM_TRIALS = 5
"""Before the sampler looks at results."""
TRIALS_TO_COMPARE = 3
"""Complete trials before the median stops any."""


def check_installed() -> None:
    """Raises UserError unless Optuna is installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            f"tune: needs the library {error.name}, which is not installed: pip install 'twhin[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class Study:
    """The trials of a sweep under a root."""

    def __init__(self, config: Config, root: str) -> None:
        """Opens the study at `root`, or starts one, whose first trial has the settings of the config itself.

        Raises:
            UserError: the study was made with another config.
        """
        import optuna

        self.sweep = sweep_of(config)
        _claim(config, root)
        self._storage = _opened(root)
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=NAME,
            direction=self.sweep.direction,
            pruner=_pruner(self.sweep),
            load_if_exists=True,
        )
        if not self._study.trials:
            self._study.enqueue_trial(own_values(config))

    def ask(self) -> optuna.Trial:
        """The next trial. Its values depend on the seed, its number and earlier results, whichever process asks."""
        import optuna

        seed = self.sweep.seed + len(self.trials())
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
        return self._study.ask()

    def left(self) -> list[optuna.Trial]:
        """The trials that a process left when it ended."""
        import optuna

        running = self._study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        study = self._storage.get_study_id_from_name(NAME)
        ids = [self._storage.get_trial_id_from_study_id_trial_number(study, trial.number) for trial in running]
        return [optuna.Trial(self._study, trial) for trial in ids]

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Those that were started."""
        import optuna

        return [of for of in self._study.get_trials(deepcopy=False) if of.state != optuna.trial.TrialState.WAITING]

    def in_state(self, state: str) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self.trials() if trial.state.name == state]

    def note(self, trial: optuna.Trial, curve: list[tuple[float, float]], seconds: float) -> None:
        """Keeps what was measured of a trial so far, and how long it has taken."""
        if len(curve) > len(trial.user_attrs.get(CURVE, [])):
            trial.report(curve[-1][1], len(curve))
            trial.set_user_attr(CURVE, list(curve))  # which it keeps, and the caller goes on with
        trial.set_user_attr(SECONDS, round(seconds, 3))

    def tell(self, trial: optuna.Trial, value: float | None, reason: str = "", failed: bool = False) -> None:
        """Ends a trial: complete with a value, else stopped early or failed."""
        import optuna

        states = optuna.trial.TrialState
        if reason:
            trial.set_user_attr(REASON, reason)
        if value is not None:
            self._study.tell(trial, value)
        else:
            self._study.tell(trial, state=states.FAIL if failed else states.PRUNED)

    @property
    def best(self) -> optuna.trial.FrozenTrial | None:
        """The best complete trial, if there is one."""
        sign = -1 if self.sweep.direction == "maximize" else 1
        return min(self.in_state("COMPLETE"), key=lambda trial: sign * (trial.value or 0.0), default=None)

    def is_over_budget(self) -> bool:
        """Whether the trials have taken as long as the sweep may."""
        budget, complete = self.sweep.budget, self.in_state("COMPLETE")
        limit = self.sweep.budget_in_s
        if isinstance(budget, float) and complete:
            limit = budget * seconds_of(complete[0])
        return limit is not None and sum(map(seconds_of, self.trials())) >= limit

    def importances(self) -> dict[str, float]:
        """The share of each key that all complete trials have in how good they are; none from too few trials."""
        import optuna

        complete = self.in_state("COMPLETE")
        if len(complete) < TRIALS_TO_COMPARE:
            return {}
        shared = sorted(set.intersection(*(set(trial.params) for trial in complete)))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5)
        return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator, params=shared))


def read_states(root: str) -> dict[int, str]:
    """The states of the trials of the sweep at `root`, by Optuna's names; numbers from 0. Writes nothing."""
    import optuna

    if not storage.exists(storage.join(root, STUDY)):
        return {}
    there = _opened(root)
    if NAME not in optuna.get_all_study_names(there):
        return {}
    trials = optuna.load_study(study_name=NAME, storage=there).get_trials(deepcopy=False)
    return {trial.number: trial.state.name for trial in trials}


def _opened(root: str) -> optuna.storages.RDBStorage:
    import optuna

    return optuna.storages.RDBStorage(f"sqlite:///{storage.filesystem(storage.join(root, STUDY))[1]}")


def seconds_of(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.user_attrs.get(SECONDS, 0.0))


def _claim(config: Config, root: str) -> None:
    """Ties the root to the config. Raises UserError if it has another."""
    url = storage.join(root, SWEEP)
    if storage.exists(url):
        before = config_file.load(url)
        free_keys = tuple(f"{part}." for part in (*CHANGEABLE, *ADJUSTABLE) if part != "sweep")
        for key, old, new in differences(before.model_dump(mode="json"), config.model_dump(mode="json")):
            if not f"{key}.".startswith(free_keys):
                raise UserError(
                    f"{root}: this sweep was made with another config: {key} was {old!r} and is {new!r}; use another "
                    "--run-root"
                )
    storage.write_text(url, config_file.to_yaml(config))


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    import optuna

    if sweep.stopping == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=TRIALS_TO_COMPARE, n_warmup_steps=-(-sweep.looks // 2))
    if sweep.stopping == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return optuna.pruners.NopPruner()


def values_of(trial: optuna.Trial, sweep: Sweep) -> Values:
    """The trial's values, which the study has drawn before or draws now."""
    return combine(sweep, lambda key, parameter: _draw(trial, key, parameter))


def values_again(trial: optuna.trial.FrozenTrial, sweep: Sweep) -> Values:
    """The values of a trial that has been started."""
    return combine(sweep, lambda key, _: trial.params[key])


def _draw(trial: optuna.Trial, key: str, parameter: Parameter) -> Any:
    if parameter.choice is not None:
        return trial.suggest_categorical(key, labels(parameter))
    low, high = parameter.bounds
    log = parameter.kind.startswith("log")
    if parameter.kind.endswith("integer"):
        return trial.suggest_int(key, int(low), int(high), log=log)
    return trial.suggest_float(key, low, high, log=log)
