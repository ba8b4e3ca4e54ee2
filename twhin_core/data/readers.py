"""The protocol between reader processes and their clients: requests, addresses and secrets.

Each call states which edges the client expects, so that a reader of another graph or order refuses it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from twhin_core import __version__
from twhin_core.config import Config
from twhin_core.data.edges import Edges
from twhin_core.data.epochs import Request, Shares
from twhin_core.data.files import EdgeFiles
from twhin_core.errors import UserError

TOKEN, TOKEN_FILE = "TWHIN_READER_TOKEN", "TWHIN_READER_TOKEN_FILE"
TLS_CERT, TLS_KEY, TLS_CA = "TWHIN_READER_TLS_CERT", "TWHIN_READER_TLS_KEY", "TWHIN_READER_TLS_CA"

CHECK = "check"
"""The action that fails if the reader serves other edges."""

REFUSED = b"refused"
"""Marks an error that other readers would raise too, so the client does not try them."""

Served = dict[str, int | str | None]


def served_edges(config: Config, files: EdgeFiles) -> Served:
    """Everything that determines the edge at a position of an epoch, by names that users know."""
    data = config.train_data
    return {
        "version": __version__,
        "training.seed": config.training.seed,
        "train_data.shuffle_buffer": data.shuffle_buffer,
        "train_data.offset": data.offset,
        "train_data.limit": data.limit,
        "the number of edges": len(files),
        "the digest of the files": files.digest,
    }


class Check(BaseModel):
    """The edges that the client expects the reader to serve."""

    model_config = ConfigDict(extra="forbid", strict=True)

    served: Served


class Ticket(Check):
    """A serialized `Request`."""

    epoch: NonNegativeInt
    window: NonNegativeInt
    begin: NonNegativeInt
    end: NonNegativeInt
    start: NonNegativeInt
    stop: NonNegativeInt
    step_size: PositiveInt
    rank: NonNegativeInt
    world_size: PositiveInt

    @staticmethod
    def of(served: Served, request: Request) -> bytes:
        fields = {**vars(request), **vars(request.shares), "served": served}
        del fields["shares"]
        return Ticket(**fields).model_dump_json().encode()

    @property
    def request(self) -> Request:
        shares = Shares(self.start, self.stop, self.step_size, self.rank, self.world_size)
        return Request(self.epoch, self.window, self.begin, self.end, shares)


def edge_schema(weighted: bool) -> pa.Schema:
    """The columns that are sent."""
    columns = [("lhs", pa.int64()), ("rel", pa.int32()), ("rhs", pa.int64())]
    return pa.schema([*columns, ("weight", pa.float32())] if weighted else columns)


def to_batch(edges: Edges, schema: pa.Schema) -> pa.RecordBatch:
    columns = [edges.lhs, edges.rel.astype("int32"), edges.rhs, edges.weight]
    return pa.record_batch([pa.array(column) for column in columns[: len(schema)]], schema=schema)


@dataclass(frozen=True)
class Secrets:
    """The token and certificates of a connection. Not shown in its repr."""

    token: str | None
    cert: bytes | None
    key: bytes | None
    ca: bytes | None

    def __repr__(self) -> str:
        return "Secrets(...)"


def read_secrets(environment: Mapping[str, str] = os.environ) -> Secrets:
    """Reads the secrets from the environment: the token itself, or paths of files.

    Raises:
        UserError: a file cannot be read or is empty, the token is not valid in a header, or a setting lacks its pair.
    """
    token = environment.get(TOKEN)
    if token is not None and TOKEN_FILE in environment:
        raise UserError(f"{TOKEN} and {TOKEN_FILE} are both set; set one of them")
    if TOKEN_FILE in environment:
        token = read_token(environment[TOKEN_FILE], TOKEN_FILE)
    elif token is not None:
        _check_token(token, TOKEN)
    cert, key, ca = (
        _read_file(environment[name], name) if name in environment else None for name in (TLS_CERT, TLS_KEY, TLS_CA)
    )
    if (cert is None) != (key is None):
        raise UserError(f"{TLS_CERT} and {TLS_KEY} belong together; set both or neither")
    return Secrets(token, cert, key, ca)


def read_token(path: str, name: str) -> str:
    """The token in a file, without white space around it. Raises UserError, which names the setting `name`."""
    token = _read_file(path, name).decode(errors="replace").strip()
    _check_token(token, name)
    return token


def _check_token(token: str, name: str) -> None:
    if not (token and token.isascii() and token.isprintable() and " " not in token):
        raise UserError(f"{name}: must be printable ASCII without spaces")


def _read_file(path: str, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{name}: {path} cannot be read: {error.strerror}") from None
    if not content.strip():
        raise UserError(f"{name}: {path} is empty")
    return content


def parse_address(text: str, what: str) -> tuple[str, int]:
    """Parses `HOST:PORT`, with an IPv6 host in brackets. Raises UserError, which names `what`."""
    host, _, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not host or not is_port or "/" in host or " " in text:
        raise UserError(f"{what}: {text!r} is not HOST:PORT")
    return host, int(port)


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_readers(text: str | None) -> list[str]:
    """The addresses in `HOST:PORT,HOST:PORT`. Raises UserError."""
    readers = [reader.strip() for reader in text.split(",")] if text else []
    for reader in readers:
        parse_address(reader, "--readers")
    if repeated := sorted({reader for reader in readers if readers.count(reader) > 1}):
        raise UserError(f"--readers: {repeated[0]} is listed twice")
    return readers
