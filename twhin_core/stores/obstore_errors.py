"""What obstore's errors mean, in one line that has no address, header or key of the request."""

from __future__ import annotations

import re

from obstore.exceptions import BaseError

from twhin_core.errors import StorageRefused
from twhin_core.stores import failures

ERRORS = (BaseError, OSError, ValueError)
"""What obstore raises."""

BUSY = (408, 429)
METADATA_SERVER = "169.254.169.254"
"""Where a machine of a cloud asks for the credentials of its own account."""
# The errors hold the address of the request and the whole answer: of all this, only these parts are shown.
# Of an answer, or of one removal in a batch; an error of the operating system has a `code` too.
STATUS = re.compile(r"(?:status |(?<=\())code: (\d{3})(?: [^:\n]*)?")
CODE, MESSAGE = re.compile(r"<Code>([^<]*)</Code>"), re.compile(r"<Message>([^<\n]*)")
REASON = re.compile(r" - ((?:HTTP error|Received redirect)[^\n]*)")
REFUSALS = ("invalid path", "builder error", "Received redirect")
"""In errors without a status that the same request would meet again."""


class Busy(Exception):
    """A request that may succeed later; its message is what the server said."""


def explained(error: Exception, url: str, credentials: str) -> Exception:
    """What an error of obstore means: FileNotFoundError, Busy, or StorageRefused.

    Args:
        credentials: what to set if they are missing.
    """
    text, words = str(error), said(error)
    found = STATUS.search(text)
    status = int(found[1]) if found else 0
    if isinstance(error, FileNotFoundError) or (status == 404 and METADATA_SERVER not in text):
        return FileNotFoundError(f"{url}: {words}")
    if status in BUSY or status >= 500:
        return Busy(words)
    if status in (401, 403) or METADATA_SERVER in text or re.search("Token|Credential|Auth", words):
        return failures.denied(url, words, f"set {credentials} (docs/stores.md)")
    if status or isinstance(error, ValueError) or any(refusal in text for refusal in REFUSALS):
        return StorageRefused(f"{url}: {words}")
    return Busy(words)


def said(error: Exception) -> str:
    """The server's own words, or the reason why there was no answer."""
    text = str(error)
    if status := STATUS.search(text):
        return next((found[1].strip() for found in (MESSAGE.search(text), CODE.search(text)) if found), status[0])
    reason = REASON.search(text)
    return reason[1] if reason else re.sub(r"Error performing .*|\S+://\S+", "", text.strip().split("\n")[0]).strip()
