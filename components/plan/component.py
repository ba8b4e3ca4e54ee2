"""The first step of a refresh as a KFP component; README.md is its contract."""

from typing import NamedTuple, Optional

from twhin.components.stage import stage


@stage
def plan(config: str, series: str, overrides: Optional[list[str]] = None) -> NamedTuple(
    "Planned", [("config", str), ("run_root", str), ("version", str), ("after", str)]
):
    """Finds or begins the version that the raw files of now belong to.

    Args:
        config: The config, as YAML, or the path or URL of a YAML file.
        series: Folder or URL of the series.
        overrides: Values of the config to change, each `section.key=value`.

    Returns:
        The path or URL of the version's config, its run root, its id, and the version that is published until then.
    """
    from twhin.components.step import read_text, step
    from twhin_core.series import plan as planning

    with step():
        planned = planning.plan(read_text(config), series, tuple(overrides or ()))
    return planned.config, planned.root, planned.version, planned.after
