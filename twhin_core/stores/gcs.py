"""Google Cloud Storage: gcsfs with our own retries, errors and preconditions.

Its public methods are described in `interface`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from typing import Any
from urllib.parse import quote, unquote, urljoin

# Else gcsfs also imports an experimental file system and the client behind it, which nothing here uses.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import aiohttp
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError, NonRetryableError, is_retriable
from google.api_core.exceptions import RetryError
from google.api_core.retry import AsyncRetry
from google.auth.exceptions import GoogleAuthError, RefreshError

from twhin_core.errors import StorageError, StorageRefused
from twhin_core.stores import failures
from twhin_core.stores.interface import Generation

REQUEST_TIMEOUT = aiohttp.ClientTimeout(
    total=None, sock_connect=failures.CONNECT_TIMEOUT, sock_read=failures.SILENCE_TIMEOUT
)

CREDENTIALS, EMULATOR = "GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"
REMEDY = f"set {CREDENTIALS}, or run `gcloud auth application-default login`"

REQUEST_ERRORS = (HttpError, NonRetryableError, aiohttp.ClientError, GoogleAuthError, OSError, ValueError)

# gcsfs logs a traceback of every failed request, including those that are retried or handled by the caller.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


class GCS(GCSFileSystem):  # type: ignore[misc] # gcsfs has no types
    """gcsfs with a deadline for retries instead of a number of them, and one-line errors."""

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except GoogleAuthError as error:
            raise StorageRefused(f"{CREDENTIALS}: {_last_line(error)}") from error

    @staticmethod
    def options() -> dict[str, Any]:
        token = None
        if os.environ.get(EMULATOR):
            token = "anon"  # noqa: S105 -- an emulator needs no credentials, and searching for some takes seconds
        elif path := os.environ.get(CREDENTIALS):
            if not os.path.exists(path):
                raise StorageRefused(f"{CREDENTIALS}: there is no file {path}")
            token = "google_default"  # noqa: S105 -- do not fall back to other credentials
        return {
            "endpoint_url": os.environ.get(EMULATOR),
            "token": token,
            "requests_timeout": REQUEST_TIMEOUT,
            "use_listings_cache": False,  # it would hide what other processes write
        }

    async def _request(self, method: str, path: str, *args: str, **kwargs: Any) -> Any:
        once = GCSFileSystem._request.__wrapped__  # without gcsfs's own retries
        retry = AsyncRetry(_is_transient, **failures.schedule()._asdict())
        try:
            return await retry(once)(self, method, path, *args, **kwargs)
        except (FileNotFoundError, FileExistsError) as error:
            raise type(error)(f"{_object_url(path, args)}: {_last_line(error)}") from None
        except RetryError as error:
            raise failures.timed_out(_object_url(path, args), _last_line(error.cause)) from error
        except REQUEST_ERRORS as error:
            raise _storage_error(error, _object_url(path, args)) from error

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        # gcsfs's default cache reads a checkpoint's index in tiny requests and leaves tasks behind.
        return super()._open(path, mode, cache_type="readahead", **kwargs)

    async def _glob(self, path: str, **_: Any) -> list[str]:
        # gcsfs and DuckDB take any path for a pattern, and would read or remove what another name matches.
        return [path]

    def has_bucket(self, bucket: str) -> bool:
        try:
            self.ls(bucket, max_results=1)
        except FileNotFoundError:
            return False
        return True

    def read_generation(self, path: str) -> tuple[bytes, int]:
        bucket, key, _ = self.split_path(path)
        try:
            headers, content = self.call("GET", "b/{}/o/{}", bucket, key, alt="media")
        except FileNotFoundError:
            return b"", 0
        return content, int(headers["X-Goog-Generation"])

    def write_if(self, path: str, content: bytes, generation: Generation) -> int | None:
        bucket, key, _ = self.split_path(path)
        upload = urljoin(self.base, f"/upload/storage/v1/b/{quote(bucket, safe='')}/o")
        # A multipart upload, because fake-gcs-server ignores the preconditions of simple ones.
        boundary = uuid.uuid4().hex.encode()
        parts = [(b"application/json", json.dumps({"name": key}).encode()), (b"application/octet-stream", content)]
        body = b"".join(b"--%b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (boundary, *part) for part in parts)
        try:
            written = self.call(
                "POST",
                upload,
                headers={"Content-Type": f"multipart/related; boundary={boundary.decode()}"},
                data=body + b"--%b--" % boundary,
                json_out=True,
                uploadType="multipart",
                ifGenerationMatch=str(generation),
            )
        except FileExistsError:
            found, current = self.read_generation(path)
            return current if current and found == content else None
        return int(written["generation"])


def _is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, HttpError) and error.code == 401:
        # gcsfs also raises this if refreshing a token failed temporarily.
        return isinstance(error.__cause__, RefreshError) and bool(error.__cause__.retryable)
    return isinstance(error, TimeoutError) or bool(is_retriable(error))


def _storage_error(error: Exception, url: str) -> StorageError:
    denied = isinstance(error, HttpError) and error.code == 401
    if denied or isinstance(error, GoogleAuthError | NonRetryableError) or str(error).startswith("Forbidden"):
        return failures.denied(url, _last_line(error), REMEDY)
    return StorageError(f"{url}: {_last_line(error)}")


def _last_line(error: BaseException | None) -> str:
    """The last line of an error's message, which is the server's own message if there is one."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _object_url(path: str, args: tuple[str, ...]) -> str:
    """The `gs://bucket/key` that a request is about, as far as its path tells."""
    address = path.format(*(quote(arg, safe="") for arg in args)) if args else path
    found = re.search(r"\bb/([^/?]+)(?:/o/([^?]+))?", address)
    if found is None:
        return "gs://"
    return "gs://" + "/".join(unquote(part) for part in found.groups() if part)
