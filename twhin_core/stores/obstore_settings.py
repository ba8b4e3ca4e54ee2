"""Settings of obstore's clients that S3 and Azure have in common."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from twhin_core.errors import StorageRefused
from twhin_core.stores import failures

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

Environment = tuple[tuple[str, str], ...]

LOCAL = ("_FILE", "_PROFILE")
"""Ends of the names of variables that no request carries."""


def environment(prefix: str) -> Environment:
    """The variables that begin with `prefix` and are not empty. Raises StorageRefused as `check_sendable`."""
    found = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(prefix) and value))
    for name, value in found:
        if not name.endswith(LOCAL):
            check_sendable(name, value)
    return found


def check_sendable(name: str, value: str) -> None:
    """Raises StorageRefused for what no request can carry, such as a key that was read with the end of its line."""
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise StorageRefused(f"{name}: has blanks at its ends, a line break or a character that is not ASCII")


def client_options(endpoint: str | None, setting: str) -> ClientConfig:
    """Deadlines, and TLS unless `endpoint` begins with http://. An error names the `setting` that it is from."""
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=failures.CONNECT_TIMEOUT),
        "read_timeout": timedelta(seconds=failures.SILENCE_TIMEOUT),
        "timeout": timedelta(days=1),  # not of the whole request
    }
    if endpoint is not None:
        if not endpoint.startswith(("http://", "https://")):
            raise StorageRefused(f"{setting}: {endpoint!r} does not begin with http:// or https://")
        options["allow_http"] = endpoint.startswith("http://")
    return options


def retry_config(schedule: failures.Schedule) -> RetryConfig:
    return {
        "max_retries": 1_000_000,
        "retry_timeout": timedelta(seconds=schedule.timeout),
        "backoff": {
            "init_backoff": timedelta(seconds=schedule.initial),
            "max_backoff": timedelta(seconds=schedule.maximum),
            "base": schedule.multiplier,
        },
    }
