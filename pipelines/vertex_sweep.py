"""The DAG of a sweep on Vertex AI: prepare → a HyperparameterTuningJob, each trial of which trains and measures.

Vertex AI chooses a value for every key, and a trial ignores those whose condition does not hold.
"""

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any, Optional

import google_cloud_pipeline_components
from google.cloud.aiplatform_v1.types import StudySpec
from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.container_component_class import ContainerComponent
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.placeholders import ConcatPlaceholder

from twhin.components.prepare.component import prepare
from twhin.pipelines.pipeline import Start
from twhin.pipelines.resources import Resources
from twhin.pipelines.sweep_checks import MOST_FAILURES, check_sweep
from twhin.pipelines.vertex import trial_job
from twhin_core.config import Config
from twhin_core.config.sweep import Parameter
from twhin_core.tuning.space import free, metric_id, short_names, words

LOCATION = "{{$.pipeline_google_cloud_location}}"
"""Vertex AI replaces it by the region of the run."""
OF_STUDY, OF_JOB, OF_TRIAL = (
    ', "measurement_selection_type": "',
    ', "max_trial_count": ',
    ', "base_output_directory": {',
)
"""In the payload of Google's component, items of the study, of the whole job and of the CustomJob of a trial."""


def build(start: Start, config: Config, resources: Resources) -> GraphComponent:
    """The pipeline, with tasks made by `start`; the space of `config` is fixed in it.

    Raises:
        UserError: as `check_sweep`.
    """
    sweep = check_sweep(config, resources, "vertex")
    names = short_names(sweep)
    parameters = [_parameter(names[key], of) for key, of in free(sweep).items()]
    goal = {"metric_id": metric_id(sweep), "goal": sweep.direction.upper()}

    @dsl.pipeline(name="twhin-sweep", description="Raw interactions in, the best settings of a sweep out.")
    def twhin_sweep(config: str, run_root: str, overrides: Optional[list[str]] = None) -> None:
        """Raw interactions in, the best settings of a sweep out.

        Args:
            config: The config, as YAML, or the path or URL of a YAML file. Its space is that of the compiled job.
            run_root: URL of the run. The id of the pipeline run replaces `{run}` in it.
            overrides: Values of the config to change, each `section.key=value`.
        """
        of_run = {"config": config, "overrides": overrides, "run_root": run_root}
        prepared = start(prepare, **of_run, run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
        command = ["twhin", "trial", run_root, "--run", dsl.PIPELINE_JOB_NAME_PLACEHOLDER, "--report", "vertex"]
        trial = trial_job(resources, command)
        given = {key: trial.pop(key) for key in ("worker_pool_specs", "service_account", "network") if key in trial}
        stopping: dict[str, Any] = {"median_automated_stopping_spec": {}} if sweep.stopping == "median" else {}
        labels = {"labels": resources.vertex.labels} if resources.vertex.labels else {}
        job = _component({OF_STUDY: stopping, OF_JOB: labels, OF_TRIAL: trial})(
            **given,
            display_name="twhin-sweep",
            base_output_directory=dsl.PIPELINE_ROOT_PLACEHOLDER,
            study_spec_metrics=[goal],
            study_spec_parameters=parameters,
            study_spec_measurement_selection_type="LAST_MEASUREMENT",
            max_trial_count=sweep.trials,
            parallel_trial_count=min(sweep.parallelism, sweep.trials),
            max_failed_trial_count=min(MOST_FAILURES, sweep.trials),
            encryption_spec_key_name=resources.vertex.encryption_key or "",
            location=LOCATION,
        )
        job.after(prepared)
        job.set_caching_options(False)

    return twhin_sweep


def _parameter(name: str, of: Parameter) -> dict[str, Any]:
    if of.choice is not None:
        spec = StudySpec.ParameterSpec(parameter_id=name, categorical_value_spec={"values": words(of)})
    else:
        low, high = getattr(of, of.kind)
        kind = "integer_value_spec" if of.kind.endswith("integer") else "double_value_spec"
        scale = "UNIT_LOG_SCALE" if of.kind.startswith("log") else "UNIT_LINEAR_SCALE"
        spec = StudySpec.ParameterSpec(
            parameter_id=name, scale_type=scale, **{kind: {"min_value": low, "max_value": high}}
        )
    made: dict[str, Any] = StudySpec.ParameterSpec.to_dict(
        spec, use_integers_for_enums=False, always_print_fields_with_no_presence=False
    )
    return made


def _component(settings: dict[str, dict[str, Any]]) -> BaseComponent:
    """Google's component, which does not have inputs for everything: its payload gets `settings`, by an item beside.

    Its package imports all of Vertex AI's client, with more than is installed; its module alone does not.
    """
    path = Path(google_cloud_pipeline_components.__file__).parent / "v1/hyperparameter_tuning_job/component.py"
    found = importlib.util.spec_from_file_location("hyperparameter_tuning_job", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    made = module.hyperparameter_tuning_job
    spec = copy.deepcopy(made.component_spec)
    (payload,) = [of for of in spec.implementation.container.args if isinstance(of, ConcatPlaceholder)]
    for item, added in settings.items():
        text = "".join(f", {json.dumps(key)}: {json.dumps(value)}" for key, value in added.items())
        payload.items.insert(payload.items.index(item), text)
    return ContainerComponent(spec, made.pipeline_func)
