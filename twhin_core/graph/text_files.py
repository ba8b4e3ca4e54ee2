"""CSV and TSV files: their dialect, their first rows, and what is wrong with them."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast

from twhin_core import storage
from twhin_core.errors import UserError, one_line

DELIMITERS = {"csv": ",", "tsv": "\t"}
QUOTES = {"csv": '"', "tsv": ""}  # TSV fields cannot contain tabs, so there is no quoting, and `"` is a plain character

MAX_FIELD_SIZE = 2**24  # generous: ids that are too long are rejected later, with a reason
BROKEN = (OSError, EOFError, zlib.error)  # what Python's gzip raises


def is_zipped(url: str) -> bool:
    return url.endswith(".gz")


def first_rows(url: str, form: str, count: int) -> list[list[str]]:
    """The first rows of a file in the format `form`. Raises UserError if it is broken that early."""
    with _open(url) as file:
        rows = _reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), form)
        try:
            return list(itertools.islice(rows, count))
        except UnicodeDecodeError:
            raise UserError(f"{url}: {find_fault(url, form)}") from None
        except (*BROKEN, csv.Error) as error:
            raise UserError(f"{url}: line {rows.line_num + 1}: not a {form.upper()}: {one_line(error)}") from None


def find_fault(url: str, form: str) -> str | None:
    """`line 3: …` for the first line that is not UTF-8 or ends unlike the lines before it, or None."""
    read = _Lines()
    usual = ""
    with _open(url) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        try:
            for _ in _reader(read.through(text), form):  # it knows which line ends are within quotes
                if usual and read.end and read.end != usual:
                    return f"line {read.number}: ends in {read.end!a}, lines before it in {usual!a}; convert the file"
                usual = usual or read.end
        except UnicodeEncodeError:
            return f"line {read.number}: not a {form.upper()} in UTF-8; save the file in this encoding"
        except (*BROKEN, csv.Error):
            return None
    return None


class _Lines:
    """Passes lines on. `number` is that of the last one, `end` its line end."""

    number, end = 0, ""

    def through(self, text: io.TextIOWrapper) -> Iterator[str]:
        for line in text:
            self.number += 1
            self.end = line[len(line.rstrip("\r\n")) :]
            line.encode()  # raises for what was not UTF-8
            yield line


def verify_zipped(url: str) -> None:
    """Reads a gzipped file whole, because DuckDB ignores its checksum and whatever follows it.

    Raises:
        UserError: it is not what was once packed.
    """
    with _open(url) as file:
        try:
            while file.read(2**20):
                pass
        except BROKEN as error:
            raise UserError(f"{url}: the gzipped data is damaged: {one_line(error)}") from None


@contextlib.contextmanager
def _open(url: str) -> Iterator[IO[bytes]]:
    with storage.open_read(url) as raw, gzip.open(raw) if is_zipped(url) else raw as file:
        yield cast(IO[bytes], file)


def _reader(lines: Any, form: str) -> Any:
    csv.field_size_limit(MAX_FIELD_SIZE)
    quoting = csv.QUOTE_MINIMAL if QUOTES[form] else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=DELIMITERS[form], quoting=quoting)  # type: ignore[arg-type] # an int to mypy
