"""A sweep as an Experiment of Katib: each trial is a Job that trains and measures one combination.

Katib has no conditions: it chooses a value for every key, and a trial ignores those that do not count.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from twhin.pipelines import kubeflow, pod_checks
from twhin.pipelines.resources import Resources
from twhin.pipelines.sweep_checks import MOST_FAILURES, check_sweep
from twhin.pipelines.trainjob import trial_job
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.config.sweep import Parameter, Sweep
from twhin_core.config.yaml_reader import to_yaml
from twhin_core.errors import UserError
from twhin_core.tuning.space import free, metric_id, short_names, words

Spec = dict[str, Any]

CONTAINER, TRIAL = "trial", "trial"
"""The name of the container, and of the parameter with the name of the trial."""
TYPES = {"uniform": "double", "log": "double", "integer": "int", "log_integer": "int", "choice": "categorical"}


def experiment(config: Config, resources: Resources, run_root: str, name: str) -> Spec:
    """The Experiment, whose trials use the graph that has been prepared at `run_root`.

    Raises:
        UserError: as `check_sweep`; the trials do not share `run_root`; or they do not support a key of `resources`.
    """
    sweep = check_sweep(config, resources, "katib")
    kubeflow.refuse_vertex(resources, "katib")
    pod_checks.check_trial(resources)
    kubeflow.check_root(resources, run_root)
    names = short_names(sweep)
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "twhin"},
        "spec": {
            **_search(sweep),
            "maxTrialCount": sweep.trials,
            "parallelTrialCount": min(sweep.parallelism, sweep.trials),
            "maxFailedTrialCount": min(MOST_FAILURES, sweep.trials),
            "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
            "parameters": [_parameter(names[key], of) for key, of in free(sweep).items()],
            "trialTemplate": {
                "primaryContainerName": CONTAINER,
                "trialParameters": [
                    {"name": TRIAL, "description": "The name of the trial", "reference": "${trialSpec.Name}"},
                    *({"name": of, "description": key, "reference": of} for key, of in names.items()),
                ],
                "trialSpec": _job(resources, run_root, list(names.values())),
            },
        },
    }


def write(made: Spec, output: str) -> None:
    """Writes an Experiment for `kubectl create -f`. Raises UserError if `output` does not end in .yaml."""
    if not output.endswith((".yaml", ".yml")):
        raise UserError(f"--output {output}: expected a name that ends in .yaml")
    storage.write_text(output, to_yaml(made))


def find_differences(made: Spec, output: str) -> str:
    """The unified diff from `output` to what `write` would write; empty if they are equal.

    Raises:
        UserError: `output` does not exist.
    """
    if not storage.exists(output):
        raise UserError(f"{output}: no such file; leave out --check to write it")
    before, after = storage.read_text(output).splitlines(), to_yaml(made).splitlines()
    return "\n".join(difflib.unified_diff(before, after, output, "compiled now", lineterm="", n=2))


def _search(sweep: Sweep) -> Spec:
    """What is optimized, and how."""
    metric = metric_id(sweep)
    found: Spec = {
        "objective": {
            "type": sweep.direction,
            "objectiveMetricName": metric,
            "metricStrategies": [{"name": metric, "value": "latest"}],
        },
        "algorithm": {
            "algorithmName": "tpe",
            "algorithmSettings": [{"name": "random_state", "value": str(sweep.seed % 2**31)}],
        },
    }
    if sweep.stopping == "median":
        settings = {"min_trials_required": 3, "start_step": -(-sweep.looks // 2)}
        found["earlyStopping"] = {
            "algorithmName": "medianstop",
            "algorithmSettings": [{"name": name, "value": str(value)} for name, value in settings.items()],
        }
    return found


def _parameter(name: str, of: Parameter) -> Spec:
    if of.choice is not None:
        space: Spec = {"list": words(of)}
    else:
        low, high = getattr(of, of.kind)
        space = {
            "min": str(low),
            "max": str(high),
            "distribution": "logUniform" if of.kind.startswith("log") else "uniform",
        }
    return {"name": name, "parameterType": TYPES[of.kind], "feasibleSpace": space}


def _job(resources: Resources, run_root: str, names: list[str]) -> Spec:
    command = ["twhin", "trial", run_root, "--name", f"${{trialParameters.{TRIAL}}}", "--report", "katib"]
    command += [f"--{name}=${{trialParameters.{name}}}" for name in names]
    return trial_job(resources, CONTAINER, command)
