"""What a tracker has of a run: `tracking/<tracker>.json` under the run root."""

from __future__ import annotations

from pydantic import BaseModel, Field

from twhin_core import storage
from twhin_core.records import find_whole

TRACKERS = ("mlflow", "wandb")


class Sent(BaseModel):
    """What was sent to the tracked run `run` at `place`, so that each stage sends only the rest."""

    place: str
    run: str
    step: int = 0
    """The curves are complete up to this step."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """As sent first."""
    changed: dict[str, str] = Field(default_factory=dict)
    """Parameters whose values changed since, as sent last."""
    figures: str = ""
    """The checksum of the metrics that the final figures were taken from."""
    files: dict[str, str] = Field(default_factory=dict)
    """Their checksums by name."""


def read_sent(root: str, tracker: str) -> Sent | None:
    """None if nothing was sent, or if the record is damaged: then the run is tracked anew."""
    found = find_whole(_url(root, tracker), f"tracking.{tracker}: the run is tracked anew")
    return None if found is None else Sent.model_validate(found)


def read_all(root: str) -> dict[str, Sent]:
    """What each tracker has of the run, by tracker."""
    found = {name: read_sent(root, name) for name in TRACKERS}
    return {name: sent for name, sent in found.items() if sent is not None}


def write_sent(root: str, tracker: str, sent: Sent) -> None:
    storage.write_json(_url(root, tracker), sent.model_dump())


def _url(root: str, tracker: str) -> str:
    return storage.join(root, "tracking", f"{tracker}.json")
