"""What the client of Vertex AI raises, as one line of ours."""

from __future__ import annotations

import pytest
import requests
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError, RefreshError

from twhin_core.errors import TwhinError, Unreachable, UserError
from twhin_core.vertex_ai import asking

CALL = "POST https://europe-west4-aiplatform.googleapis.com/v1/x: "


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (exceptions.Unauthorized(f"{CALL}who?"), UserError, "here: not logged in: who?"),
        (exceptions.Forbidden(f"{CALL}no\n you"), UserError, "here: no permission; it needs this role: no you"),
        (exceptions.PermissionDenied("no"), UserError, "here: no permission; it needs this role: no"),
        (exceptions.BadRequest("GET https://a: b:\n  c"), UserError, "here: b: c"),
        (exceptions.NotFound(CALL + "x" * 500), UserError, f"here: {'x' * 400} …"),
        (exceptions.Conflict("two: three"), UserError, "here: two: three"),
        (exceptions.TooManyRequests("later"), Unreachable, "here: no response: 429 later"),
        (exceptions.ServiceUnavailable("later\nthan"), Unreachable, "here: no response: 503 later than"),
        (exceptions.InternalServerError("oh"), Unreachable, "here: no response: 500 oh"),
        (exceptions.RetryError("gave up", None), Unreachable, "here: no response: gave up, last exception: None"),
        (requests.ConnectionError("refused"), Unreachable, "here: no response: refused"),
        (requests.Timeout("slow"), Unreachable, "here: no response: slow"),
        (DefaultCredentialsError("none found"), UserError, "here: no credentials: none found"),
        (RefreshError("expired\nin May"), UserError, "here: no credentials: expired in May"),
    ],
)
def test_an_error_of_the_client_is_one_line(error: Exception, kind: type[TwhinError], line: str) -> None:
    with pytest.raises(kind) as caught, asking("here", "this role"):
        raise error
    assert str(caught.value) == line


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), asking("here"):
        _ = 1 / 0
