"""What evaluation would refuse by the config alone, for pipelines that end in it: checked before they start."""

from __future__ import annotations

from twhin_core.config import Config, EdgeData
from twhin_core.config.prepare import Split
from twhin_core.errors import UserError
from twhin_core.evaluation.gates import check_names


def check_pipeline(config: Config) -> None:
    """Checks that a run of all stages has edges to evaluate on, and gates that can be decided.

    Raises:
        UserError: the evaluated split is never filled, or as `check_names`.
    """
    check_names(config)
    name = config.evaluation.split
    data: EdgeData | None = getattr(config, f"{name}_data")
    if data is not None and data.data_root is not None:
        return
    if config.prepare is None:
        raise UserError(f"{name}_data.data_root: is required to evaluate on {name} edges without a prepare section")
    given = {source.split for source in config.prepare.sources} - {None}
    split = config.prepare.split or Split()
    if name not in given if given else not getattr(split, name):
        raise UserError(
            f"evaluation.split: the {name} split has no edges; hold some out in prepare.split, or set "
            f"{name}_data.data_root"
        )
