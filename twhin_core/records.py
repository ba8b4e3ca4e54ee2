"""Records of work, in JSON, that can be done without: a damaged one counts as none."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from twhin_core import storage
from twhin_core.errors import Damaged
from twhin_core.progress import log


class Record(BaseModel):
    """The record of files that are complete."""

    made_from: str
    """Digest of everything that the files depend on."""


R = TypeVar("R", bound=Record)


def find_whole(url: str, loss: str | None = None) -> Any:
    """The value in a JSON file, or None if there is none that is whole.

    Args:
        loss: what it means that the file is damaged, for the log; None says nothing.
    """
    try:
        return storage.find_json(url)
    except Damaged as error:
        if loss is not None:
            log.warning("%s: %s", loss, error)
        return None


def read_record(kind: type[R], url: str, made_from: str) -> R | None:
    """The record, or None if there is none that is whole, or it is of files that were made from something else."""
    try:
        record = kind.model_validate(find_whole(url))
    except ValidationError:  # no whole record, or one of another version
        return None
    return record if record.made_from == made_from else None
