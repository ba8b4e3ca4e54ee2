"""Errors that are shown as one line, and helpers for their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TwhinError(Exception):
    """An expected failure. The command line shows its message without a traceback and exits with `exit_code`."""

    exit_code = 1


class UserError(TwhinError):
    """A mistake by the user."""

    exit_code = 2


class Diverged(UserError):
    """Training made numbers that are not finite."""

    def __init__(self, what: str, advice: str = "lower the learning rates") -> None:
        super().__init__(f"{what}; {advice}")
        self.what = what


class NotFound(UserError, KeyError):
    """Nothing has this name."""

    __str__ = Exception.__str__  # KeyError puts its message in quotes


class StorageError(TwhinError, OSError):
    """A file or object could not be read or written."""


class StorageRefused(UserError, StorageError):
    """A file or object could not be read or written for lack of a bucket, disk space, credentials or permission."""


class Damaged(UserError):
    """A file of a run does not hold what was written to it, or is missing."""


def damaged(url: str, reason: str) -> Damaged:
    return Damaged(
        f"{url}: {reason}; restore it from a copy, or remove what its stage wrote and run that stage again "
        "(`twhin verify` lists what is whole)"
    )


class GateFailed(TwhinError):
    """A metric missed its gate: the run worked, but its result is not good enough."""

    exit_code = 3


class CheckpointFailed(TwhinError):
    """The last checkpoint of training could not be written; the newest one before it is complete."""


class Unreachable(TwhinError):
    """A service does not answer, or not as it should. The same request may succeed later."""


class TimedOut(TwhinError):
    """A wait took longer than allowed."""

    exit_code = 4


class ReadersLost(TwhinError):
    """No reader process has answered within the allowed time; a retry resumes from the newest checkpoint."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class LeaseLost(TwhinError):
    """The object store did not answer for so long that another run may work on the root; a retry resumes."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class Preempted(TwhinError):
    """The platform stopped the run after it wrote a checkpoint; a retry resumes from there."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


LONGEST_ANSWER = 400
"""Characters that are shown of what a server says."""


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def in_one_line(text: object, most: int | None = None) -> str:
    """All lines of a message as one, cut to `most` characters."""
    line = " ".join(str(text).split())
    return line if most is None or len(line) <= most else f"{line[:most]} …"


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint with the names that `name` may be a misspelling of, or else the first known ones."""
    names = list(known)
    if near := difflib.get_close_matches(name, names) or difflib.get_close_matches(name.lower(), names):
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there are {', '.join(names[:10])}{more}"
