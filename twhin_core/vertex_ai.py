"""Clients of Vertex AI's APIs: how they are made, and their errors as ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import google.auth
import requests
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth.exceptions import GoogleAuthError

from twhin_core.errors import LONGEST_ANSWER, Unreachable, UserError, in_one_line

ENDPOINT = "https://{region}-aiplatform.googleapis.com"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
TRANSIENT = (
    exceptions.ServerError, exceptions.TooManyRequests, exceptions.RetryError, requests.ConnectionError,
    requests.Timeout,
)  # fmt: skip
ROLE = "roles/aiplatform.user"
"""What all that is asked for needs."""


def client_arguments(region: str, where: str) -> dict[str, Any]:
    """What every client of `aiplatform_v1` is made with. The credentials are those that Google's libraries find.

    Raises:
        UserError: as `asking`.
    """
    with asking(where):
        credentials, _ = google.auth.default(scopes=SCOPES)
    options = ClientOptions(api_endpoint=ENDPOINT.format(region=region))
    return {"credentials": credentials, "transport": "rest", "client_options": options}


@contextlib.contextmanager
def asking(where: str, needed: str = ROLE) -> Iterator[None]:
    """Turns errors of a client into ours, in one line that begins with `where`.

    Args:
        needed: the roles that a request is refused without.

    Raises:
        UserError: there are no credentials, or the request is refused.
        Unreachable: there is no answer, or none now.
    """
    try:
        yield
    except TRANSIENT as error:
        raise Unreachable(f"{where}: no response: {in_one_line(error, LONGEST_ANSWER)}") from None
    except exceptions.Unauthorized as error:
        raise UserError(f"{where}: not logged in: {_message(error)}") from None
    except exceptions.Forbidden as error:
        raise UserError(f"{where}: no permission; it needs {needed}: {_message(error)}") from None
    except exceptions.GoogleAPICallError as error:
        raise UserError(f"{where}: {_message(error)}") from None
    except GoogleAuthError as error:
        raise UserError(f"{where}: no credentials: {in_one_line(error, LONGEST_ANSWER)}") from None


def _message(error: exceptions.GoogleAPICallError) -> str:
    """The API's message, without the URL that the client puts before it."""
    return in_one_line(re.sub(r"^(GET|POST) \S+: ", "", error.message), LONGEST_ANSWER)
