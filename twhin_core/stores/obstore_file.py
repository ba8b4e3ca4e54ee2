"""An object as a file, for `obstore_filesystem`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import obstore
from fsspec.spec import AbstractBufferedFile

from twhin_core.stores import failures
from twhin_core.stores.obstore_errors import ERRORS, Busy, explained

PART = 16 << 20
"""Bytes of a part of an upload. A store takes 10,000 parts, thus objects of up to 160 GB."""
PARTS_AT_ONCE = 4


class ObjectFile(AbstractBufferedFile):  # type: ignore[misc] # fsspec has no types
    """An object, read in ranges or written in parts. A written one appears when it is closed."""

    _writer: Any = None
    _before: Any = None

    def discard(self) -> None:
        self._writer = None

    def _fetch_range(self, start: int, end: int) -> bytes:
        content: bytes = self.fs.cat_file(self.path, start, end)
        return content

    def _initiate_upload(self) -> None:
        pass

    def _upload_chunk(self, final: bool = False) -> bool:
        """Passes on what is buffered. obstore itself retries each request of an upload in parts."""
        bucket, key = split(self.path)
        if final and self._writer is None:
            content = self.buffer.getvalue()
            self.fs.request(self.path, lambda store: store.put(key, content, use_multipart=False))
            return True
        if self._writer is None:
            self._before = self._now()
            client = self.fs.client_of(bucket)
            self._writer = obstore.open_writer(client, key, buffer_size=PART, max_concurrency=PARTS_AT_ONCE)
        try:
            self._writer.write(self.buffer.getbuffer())
            if final:
                self._writer.close()
        except ERRORS as error:
            if not final or not self._is_whole():
                url = self.fs.url_of(self.path)
                failure = explained(error, url, self.fs.credentials)
                raise failures.timed_out(url, failure) if isinstance(failure, Busy) else failure from None
        return True

    def _now(self) -> Any:
        """What identifies the present version of the object."""
        with suppress(FileNotFoundError):
            return self.fs.info(self.path).get("generation")
        return None

    def _is_whole(self) -> bool:
        """Whether the object was written although the answer to the last request was lost."""
        return self._now() not in (None, self._before) and self.fs.size(self.path) == self.tell()


def split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key
