"""Checks that the machines of a target share a run root."""

from __future__ import annotations

from collections.abc import Collection

from twhin.components.run_root import is_below
from twhin.pipelines.resources import Target
from twhin_core.errors import UserError


def check_shared(
    run_root: str,
    target: Target,
    mounts: Collection[str] = (),
    has_nodes: bool = False,
    key: str = "--run-root",
) -> None:
    """Raises UserError if they do not.

    Args:
        run_root: a folder. (Every machine can see a bucket.)
        mounts: the paths at which every pod mounts a volume.
        has_nodes: whether training uses several machines.
        key: the option or key that names the folder.
    """
    if target == "vertex":
        raise UserError(f"{key} {run_root}: Vertex AI needs a gs:// prefix")
    if not mounts:
        why = "the nodes do not share it" if has_nodes else "the next pod cannot see it"
        raise UserError(
            f"{key} {run_root}: {why}; use a gs:// prefix or another object store, or compile with a `volume` in the "
            "resources"
        )
    if not is_below(run_root, mounts):
        raise UserError(f"{key} {run_root}: is not on the volume, which is mounted at {', '.join(sorted(mounts))}")
