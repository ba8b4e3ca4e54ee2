"""How long a request that fails is retried, and what is said of it in the end."""

from __future__ import annotations

from typing import NamedTuple

from twhin_core.errors import StorageError, StorageRefused

RETRY_TIMEOUT = 120.0
"""Seconds for which a request with a transient error is retried."""
RETRY_DELAYS = 0.5, 20.0
"""The initial and maximum delay between retries in seconds; delays grow exponentially, with jitter."""
GROWTH = 2.0
"""Of the delays, from one retry to the next."""
CONNECT_TIMEOUT, SILENCE_TIMEOUT = 20, 60
"""Seconds for a connection to be made, and without a byte from the server. A large upload may take longer."""


class Schedule(NamedTuple):
    """When a request is retried, in seconds; the fields are arguments of google.api_core's retries."""

    initial: float
    maximum: float
    multiplier: float
    timeout: float


def schedule() -> Schedule:
    return Schedule(*RETRY_DELAYS, GROWTH, RETRY_TIMEOUT)


def timed_out(url: str, said: object) -> StorageError:
    return StorageError(f"{url}: failed after retrying for {RETRY_TIMEOUT:g} s: {said}")


def denied(url: str, said: str, remedy: str) -> StorageRefused:
    return StorageRefused(f"{url}: credentials are missing or lack permission: {said}; {remedy}")
