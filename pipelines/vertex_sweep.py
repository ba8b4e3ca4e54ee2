"""The DAG of a sweep on Vertex AI: prepare → a HyperparameterTuningJob, each trial of which trains and measures.

Vertex AI chooses a value for every key, and a trial ignores those whose condition does not hold.
"""

import copy
import importlib.util
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
from twhin.pipelines.katib import MOST_FAILURES, check_machines, warn_of_budget
from twhin.pipelines.pipeline import Start
from twhin.pipelines.resources import Resources
from twhin.pipelines.vertex import SERVICE_ACCOUNT, trial_pool
from twhin_core.config import Config
from twhin_core.config.sweep import Parameter
from twhin_core.errors import UserError
from twhin_core.tuning.space import check, free, metric_id, short_names, sweep_of, words

LOCATION = "{{$.pipeline_google_cloud_location}}"
"""Vertex AI replaces it by the region of the run."""
AFTER_STUDY = ', "max_trial_count": '
"""What follows the study's settings in the payload of Google's component."""
STOPPING = ', "median_automated_stopping_spec": {}'


def build(start: Start, config: Config, resources: Resources) -> GraphComponent:
    """The pipeline, with tasks made by `start`; the space of `config` is fixed in it.

    Raises:
        UserError: as `check`, or Vertex AI does not support a setting of the sweep.
    """
    check(config)
    check_machines(resources, "vertex")
    for key in ("spot", "timeout"):
        if getattr(resources.train, key):
            raise UserError(f"train.{key}: Google's component for sweeps cannot set it; leave it out for --sweep")
    sweep = sweep_of(config)
    if sweep.stopping == "asha":
        raise UserError("sweep.stopping: Vertex AI stops trials by median only, not by asha; set median or null")
    warn_of_budget(sweep, "Vertex AI")
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
        job = _component(sweep.stopping == "median")(
            display_name="twhin-sweep",
            base_output_directory=dsl.PIPELINE_ROOT_PLACEHOLDER,
            worker_pool_specs=trial_pool(resources, command),
            study_spec_metrics=[goal],
            study_spec_parameters=parameters,
            study_spec_measurement_selection_type="LAST_MEASUREMENT",
            max_trial_count=sweep.trials,
            parallel_trial_count=min(sweep.parallelism, sweep.trials),
            max_failed_trial_count=min(MOST_FAILURES, sweep.trials),
            service_account=resources.train.service_account or SERVICE_ACCOUNT,
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


def _component(stops: bool) -> BaseComponent:
    """Google's component, which has no input for stopping trials early: its payload gets the setting.

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
    if stops:
        args = spec.implementation.container.args
        (payload,) = [of for of in args if isinstance(of, ConcatPlaceholder)]
        end = payload.items.index(AFTER_STUDY) - 1
        assert payload.items[end] == "}"
        payload.items.insert(end, STOPPING)
    return ContainerComponent(spec, made.pipeline_func)
