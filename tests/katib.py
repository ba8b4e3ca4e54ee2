"""What Katib accepts as an Experiment, from its public documentation: unknown fields and wrong types are refused.

Katib's own CRD admits any field, and its webhook checks the rest; so does this.
"""

from __future__ import annotations

import re
from typing import Any

import jsonschema

TEXT, COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def _many(of: Any) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


SETTINGS = _many(_closed(["name", "value"], name=TEXT, value=TEXT))
NUMBER = {"type": "string", "pattern": r"^-?\d+(\.\d+)?([eE][+-]?\d+)?$"}
DISTRIBUTION = {"enum": ["uniform", "logUniform", "normal", "logNormal"]}
SPACES = {
    "double": _closed(["min", "max"], min=NUMBER, max=NUMBER, step=NUMBER, distribution=DISTRIBUTION),
    "int": _closed(
        ["min", "max"],
        **{key: {"type": "string", "pattern": r"^-?\d+$"} for key in ("min", "max", "step")},
        distribution=DISTRIBUTION,
    ),
    "categorical": _closed(["list"], list=_many(TEXT)),
    "discrete": _closed(["list"], list=_many(NUMBER)),
}
PARAMETER = {
    "oneOf": [
        _closed(["name", "parameterType", "feasibleSpace"], name=TEXT, parameterType={"const": kind}, feasibleSpace=of)
        for kind, of in SPACES.items()
    ]
}
OBJECTIVE = _closed(
    ["type", "objectiveMetricName"],
    type={"enum": ["minimize", "maximize"]},
    goal={"type": "number"},
    objectiveMetricName=TEXT,
    additionalMetricNames=_many(TEXT),
    metricStrategies=_many(_closed(["name", "value"], name=TEXT, value={"enum": ["min", "max", "latest"]})),
)
STOPPING_SETTING = _closed(
    ["name", "value"],
    name={"enum": ["min_trials_required", "start_step"]},
    value={"type": "string", "pattern": r"^[1-9]\d*$"},
)
TEMPLATE = _closed(
    ["primaryContainerName", "trialParameters", "trialSpec"],
    retain={"type": "boolean"},
    primaryContainerName=TEXT,
    primaryPodLabels={"type": "object", "additionalProperties": TEXT},
    successCondition=TEXT,
    failureCondition=TEXT,
    trialParameters=_many(_closed(["name", "reference"], name=TEXT, description=TEXT, reference=TEXT)),
    trialSpec={"type": "object"},
)
EXPERIMENT = _closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "kubeflow.org/v1beta1"},
    kind={"const": "Experiment"},
    metadata=_closed(
        ["name"],
        name={"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 40},
        namespace=TEXT,
        labels={"type": "object", "additionalProperties": TEXT},
    ),
    spec=_closed(
        ["objective", "algorithm", "parameters", "trialTemplate"],
        objective=OBJECTIVE,
        algorithm=_closed(
            ["algorithmName"],
            algorithmName={
                "enum": ["random", "grid", "tpe", "multivariate-tpe", "bayesianoptimization", "cmaes", "sobol",
                         "hyperband", "pbt"]
            },
            algorithmSettings=SETTINGS,
        ),
        earlyStopping=_closed(
            ["algorithmName"], algorithmName={"const": "medianstop"}, algorithmSettings=_many(STOPPING_SETTING)
        ),
        parallelTrialCount=COUNT,
        maxTrialCount=COUNT,
        maxFailedTrialCount={"type": "integer", "minimum": 0},
        resumePolicy={"enum": ["Never", "LongRunning", "FromVolume"]},
        metricsCollectorSpec=_closed(
            ["collector"],
            collector=_closed(["kind"], kind={"enum": ["StdOut", "File", "TensorFlowEvent", "None"]}),
            source=_closed(
                [],
                filter=_closed(["metricsFormat"], metricsFormat=_many(TEXT)),
                fileSystemPath=_closed(["path", "kind"], path=TEXT, kind={"enum": ["File", "Directory"]}),
            ),
        ),
        parameters=_many(PARAMETER),
        trialTemplate=TEMPLATE,
    ),
)  # fmt: skip
PLACEHOLDER = re.compile(r"\$\{trialParameters\.([^}]+)\}")
OF_A_TRIAL = re.compile(r"^\$\{trialSpec\.(Name|Namespace|Kind|APIVersion|(Annotations|Labels)\[.+\])\}$")
METRIC = re.compile(r"^([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)$", re.ASCII)
"""How the collector of stdout reads a line unless a filter says otherwise."""


def check_experiment(made: Any) -> None:
    """As the CRD, its types and the webhook would."""
    jsonschema.Draft202012Validator(EXPERIMENT).validate(made)
    spec = made["spec"]
    assert spec["maxFailedTrialCount"] <= spec["maxTrialCount"]
    assert spec["parallelTrialCount"] <= spec["maxTrialCount"]
    for parameter in spec["parameters"]:
        space = parameter["feasibleSpace"]
        if "min" in space:
            assert float(space["min"]) < float(space["max"])
    names = [parameter["name"] for parameter in spec["parameters"]]
    assert len(set(names)) == len(names)
    template = spec["trialTemplate"]
    references = [of["reference"] for of in template["trialParameters"]]
    assert sorted(of for of in references if not OF_A_TRIAL.match(of)) == sorted(names)
    used = PLACEHOLDER.findall(str(template["trialSpec"]))
    assert sorted(used) == sorted(of["name"] for of in template["trialParameters"])
    assert "metadata" not in template["trialSpec"] or "name" not in template["trialSpec"]["metadata"]


def as_created(made: Any, name: str, values: dict[str, str]) -> Any:
    """The trial's object as the controller would create it, with its placeholders filled in."""
    template = made["spec"]["trialTemplate"]
    found = {
        of["name"]: name if OF_A_TRIAL.match(of["reference"]) else values[of["reference"]]
        for of in template["trialParameters"]
    }

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(of) for key, of in value.items()}
        if isinstance(value, list):
            return [filled(of) for of in value]
        return PLACEHOLDER.sub(lambda match: found[match[1]], value) if isinstance(value, str) else value

    made = filled(template["trialSpec"])
    return {**made, "metadata": {**made.get("metadata", {}), "name": name}}
