"""Errors that one line explains, most of which a user can fix, and the words they have in common."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TwhinError(Exception):
    """An end that one line explains: the command line shows it without a traceback."""

    exit_code = 1


class UserError(TwhinError):
    """A mistake of the user's."""

    exit_code = 2


class NotThere(UserError, KeyError):
    """There is nothing of that name."""

    __str__ = Exception.__str__  # KeyError's puts its message into quotes


class StorageError(TwhinError, OSError):
    """A file or object could not be read or written."""


class StorageRefused(UserError, StorageError):
    """… for want of a bucket, of room, of credentials or of the right to it."""


class GateFailed(TwhinError):
    """A metric missed its gate: the run is sound, its result is not good enough."""

    exit_code = 3


class CheckpointFailed(TwhinError):
    """The checkpoint that training ends with could not be written; the newest one before it is whole."""


class TimedOut(TwhinError):
    """What was waited for did not come in the time allowed."""

    exit_code = 4


class ReadersLost(TwhinError):
    """No reader process has answered for the time allowed; a retry goes on from the newest checkpoint."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class Preempted(TwhinError):
    """The machine is asked for back: a checkpoint of the last step is kept, and a retry goes on from there."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def close_matches(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """The known names that are most like a misspelt one, best first."""
    return difflib.get_close_matches(name, list(known), count, cutoff)


def suggest(name: str, known: Iterable[str]) -> str:
    """What was probably meant, or else the first known names."""
    names = list(known)
    if near := close_matches(name, names) or close_matches(name.lower(), names):
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there are {', '.join(names[:10])}{more}"
