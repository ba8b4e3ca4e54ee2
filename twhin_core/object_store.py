"""Google Cloud Storage as every part of the system uses it: gcsfs, with retries, errors and preconditions of our own.

`storage` registers `ObjectStore` for gs://, so that torch's checkpoints and DuckDB go through it too.
"""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from typing import Any
from urllib.parse import quote, unquote, urljoin

import aiohttp
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError, NonRetryableError, is_retriable
from google.api_core.exceptions import RetryError
from google.api_core.retry import AsyncRetry
from google.auth.exceptions import GoogleAuthError, RefreshError

from twhin_core.errors import StorageError, StorageRefused

SECONDS_OF_TRIES = 120.0
"""A request that failed in passing is made again for so long, after random pauses that grow from `PAUSES[0]` to
`PAUSES[1]` seconds."""
PAUSES = 0.5, 20.0

# A server that says nothing for this long has gone; however long a large upload takes as a whole.
SILENCE = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)

CREDENTIALS, EMULATOR = "GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"

REQUEST_ERRORS = (HttpError, NonRetryableError, aiohttp.ClientError, GoogleAuthError, OSError, ValueError)

# It logs a traceback of every request that fails; what becomes of it is for those who asked to say.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


def options() -> dict[str, Any]:
    """The arguments of every `ObjectStore`.

    Raises:
        UserError: the credentials that the environment names cannot be read.
    """
    token = None
    if os.environ.get(EMULATOR):
        token = "anon"  # noqa: S105 -- it asks for no credentials, and looking for some takes seconds
    elif path := os.environ.get(CREDENTIALS):
        if not os.path.exists(path):
            raise StorageRefused(f"{CREDENTIALS}: there is no file {path}")
        token = "google_default"  # noqa: S105 -- where they are named, nothing else is tried in their place
    return {
        "endpoint_url": os.environ.get(EMULATOR),
        "token": token,
        "requests_timeout": SILENCE,
        "use_listings_cache": False,  # it would hide what other processes write
    }


class ObjectStore(GCSFileSystem):  # type: ignore[misc] # gcsfs carries no types
    """gcsfs, which gives up after a deadline instead of a number of tries, and says why in one line.

    Raises, in every method: FileNotFoundError; StorageRefused for missing or refused credentials and rights;
    StorageError for what did not pass in time.
    """

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except GoogleAuthError as error:
            raise StorageRefused(f"{CREDENTIALS}: {_said(error)}") from error

    async def _request(self, method: str, path: str, *args: str, **kwargs: Any) -> Any:
        once = GCSFileSystem._request.__wrapped__  # without gcsfs's own six tries
        again = AsyncRetry(_may_pass, initial=PAUSES[0], maximum=PAUSES[1], multiplier=2, timeout=SECONDS_OF_TRIES)
        try:
            return await again(once)(self, method, path, *args, **kwargs)
        except (FileNotFoundError, FileExistsError) as error:
            raise type(error)(f"{_place(path, args)}: {_said(error)}") from None
        except RetryError as error:
            said = _said(error.cause)
            raise StorageError(f"{_place(path, args)}: no answer in {SECONDS_OF_TRIES:g} s of tries: {said}") from error
        except REQUEST_ERRORS as error:
            raise _explained(error, _place(path, args)) from error

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        # gcsfs's default asks for a checkpoint's index some bytes at a time, and leaves tasks behind.
        return super()._open(path, mode, cache_type="readahead", **kwargs)

    def read_generation(self, path: str) -> tuple[bytes, int]:
        """An object's content and generation, of one request; nothing and 0 where there is no object."""
        bucket, key, _ = self.split_path(path)
        try:
            headers, content = self.call("GET", "b/{}/o/{}", bucket, key, alt="media")
        except FileNotFoundError:
            return b"", 0
        return content, int(headers["X-Goog-Generation"])

    def write_if(self, path: str, content: bytes, generation: int) -> int | None:
        """Writes an object if its generation is still `generation`, 0 for none; the new one, or None if it is not.

        The answer to a write that succeeded may be lost, and the write made again be refused for its own sake. So one
        that is refused is looked at: the same content counts as written by this call.
        """
        bucket, key, _ = self.split_path(path)
        upload = urljoin(self.base, f"/upload/storage/v1/b/{quote(bucket, safe='')}/o")
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
            found, there = self.read_generation(path)
            return there if there and found == content else None
        return int(written["generation"])


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, HttpError) and error.code == 401:
        # gcsfs says so too of a token that could not be renewed for the moment.
        return isinstance(error.__cause__, RefreshError) and bool(error.__cause__.retryable)
    return isinstance(error, TimeoutError) or bool(is_retriable(error))


def _explained(error: Exception, place: str) -> StorageError:
    refused = isinstance(error, HttpError) and error.code == 401
    if refused or isinstance(error, GoogleAuthError | NonRetryableError) or str(error).startswith("Forbidden"):
        return StorageRefused(
            f"{place}: credentials are missing or have no right to it: {_said(error)}; see {CREDENTIALS}, or "
            "`gcloud auth application-default login`"
        )
    return StorageError(f"{place}: {_said(error)}")


def _said(error: BaseException | None) -> str:
    """The last line of what an error says, which is the server's own where it said something."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _place(path: str, args: tuple[str, ...]) -> str:
    """`gs://bucket/key` of a request, as far as its address tells."""
    address = path.format(*(quote(arg, safe="") for arg in args)) if args else path
    found = re.search(r"\bb/([^/?]+)(?:/o/([^?]+))?", address)
    if found is None:
        return "gs://"
    return "gs://" + "/".join(unquote(part) for part in found.groups() if part)
