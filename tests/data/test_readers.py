"""Edges from reader processes equal those read in process, even if readers fail."""

from __future__ import annotations

import datetime
import ipaddress
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.reading import free_port, make_config, running, start_reader, wait_for_reader
from tests.data.test_epochs import BATCHES, LAYOUTS, SCHEMA, WORLDS, open_windows, write
from twhin_core.config import Config
from twhin_core.data import epochs, remote
from twhin_core.data.epochs import EpochReader, Request, Shares, Step
from twhin_core.data.files import EdgeFiles
from twhin_core.data.readers import (
    Secrets,
    Served,
    Ticket,
    is_loopback,
    parse_readers,
    read_secrets,
    served_edges,
)
from twhin_core.data.remote import Remote
from twhin_core.data.serve import EdgeServer
from twhin_core.data.splits import open_split
from twhin_core.data.windows import Windows
from twhin_core.errors import ReadersLost, UserError
from twhin_core.graph.manifest import read_schema

OPEN = Secrets(None, None, None, None)


@contextmanager
def serving(windows: Windows, served: Served, secrets: Secrets = OPEN, count: int = 1) -> Iterator[list[str]]:
    """Servers in this process, by their addresses."""
    servers = [EdgeServer("127.0.0.1:0", windows, served, secrets) for _ in range(count)]
    try:
        yield [f"127.0.0.1:{server.port}" for server in servers]
    finally:
        for server in servers:
            server.shutdown()


def bytes_of(steps: list[Step]) -> list[Any]:
    return [
        (step.epoch, step.first, step.step_edges, *(column.tobytes() for column in vars(step.edges).values()))
        for step in steps
    ]


@settings(max_examples=25)
@given(LAYOUTS, BATCHES, WORLDS, st.integers(20, 150), st.integers(1, 3), st.data())
def test_edges_from_readers_equal_those_read_in_process(
    layout: list[list[int]], batch: int, world: int, buffer: int, readers: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        urls = write(folder, layout)
        windows = open_windows(urls, buffer)
        state = {"epoch": 0, "edges": data.draw(st.integers(0, len(windows.files)))}
        served: Served = {"edges": len(windows.files)}
        with serving(open_windows(urls, buffer), served, count=readers) as addresses:
            for rank in range(world):
                with Remote(addresses, served, OPEN, 30) as source:
                    ours = EpochReader(windows, batch, rank, world)
                    theirs = EpochReader(windows, batch, rank, world, reader=source)
                    ours.load_state_dict(state)
                    theirs.load_state_dict(state)
                    assert bytes_of(list(theirs.steps(2))) == bytes_of(list(ours.steps(2)))


def windows_of(config: Config) -> tuple[Windows, Served]:
    files = open_split(config, "unused", read_schema(config, "unused"), "train")
    return Windows(files, config.training.seed, config.train_data.shuffle_buffer), served_edges(config, files)


@pytest.mark.slow
def test_no_edge_is_lost_or_repeated_if_readers_are_killed_repeatedly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two processes get ten SIGKILLs at random steps, and are restarted at their addresses."""
    caplog.set_level("INFO", "twhin")
    config = make_config(tmp_path, edges=2_400_000, rows_per_group=100_000, shuffle_buffer=600_000)
    windows, served = windows_of(config)
    rng = random.Random(5)
    kills = sorted(rng.sample(range(1, 550), 10))
    undisturbed = list(EpochReader(windows, 4000).steps(1))
    started = time.monotonic()
    with running(config, 2) as readers, Remote(list(readers), served, OPEN, 60) as source:
        steps = []
        for number, step in enumerate(EpochReader(windows, 4000, reader=source).steps(1)):
            steps.append(step)
            if number in kills:
                address = rng.choice(list(readers))
                readers[address].kill()
                readers[address].join(30)
                assert readers[address].exitcode == -9
                readers[address] = start_reader(config, address)
            assert time.monotonic() - started < 200
    assert np.array_equal(np.sort(np.concatenate([step.edges.lhs for step in steps])), np.arange(2_400_000))
    assert sum("lost the reader" in record.message for record in caplog.records) >= 5, "kills met streams"
    assert bytes_of(steps) == bytes_of(undisturbed)


def test_a_missing_reader_is_replaced_and_a_late_one_is_waited_for(tmp_path: Path) -> None:
    config = make_config(tmp_path, edges=5_000, rows_per_group=1000, shuffle_buffer=1000)
    windows, served = windows_of(config)
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    steps: list[Step] = []
    with Remote(addresses, served, OPEN, 60) as source:
        thread = threading.Thread(target=lambda: steps.extend(EpochReader(windows, 700, reader=source).steps(1)))
        thread.start()
        time.sleep(0.5)
        assert not steps
        process = start_reader(config, addresses[1])
        thread.join(60)
        process.kill()
    assert bytes_of(steps) == bytes_of(list(EpochReader(windows, 700).steps(1)))


def test_reading_fails_after_the_timeout_without_any_reader(tmp_path: Path) -> None:
    config = make_config(tmp_path, edges=100, rows_per_group=100)
    windows, served = windows_of(config)
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with Remote(addresses, served, OPEN, 1) as source, pytest.raises(ReadersLost) as lost:
        list(EpochReader(windows, 10, reader=source).steps(1))
    assert f"none of the readers {addresses[0]}, {addresses[1]} has answered for 1 s" in str(lost.value)
    assert "\n" not in str(lost.value)
    assert lost.value.exit_code == 75


def test_a_reader_that_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CALL_TIMEOUT", 1)
    config = make_config(tmp_path, edges=3_000, rows_per_group=1000, shuffle_buffer=1000)
    windows, served = windows_of(config)
    goes_on = threading.Event()

    class Hanging(EdgeServer):
        def _stream(self, request: Request) -> Iterator[Any]:
            goes_on.wait(60)
            yield from super()._stream(request)

    hanging = Hanging("127.0.0.1:0", windows, served, OPEN)
    try:
        with serving(windows, served) as good, Remote([f"127.0.0.1:{hanging.port}", *good], served, OPEN, 60) as source:
            steps = list(EpochReader(windows, 700, reader=source).steps(1))
    finally:
        goes_on.set()
        hanging.shutdown()
    assert bytes_of(steps) == bytes_of(list(EpochReader(windows, 700).steps(1)))


def test_a_slow_consumer_gets_all_edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that times out because of a slow consumer is repeated from its position."""
    monkeypatch.setattr(remote, "CALL_TIMEOUT", 0.2)
    monkeypatch.setattr(epochs, "EDGES_PER_CHUNK", 20_000)
    config = make_config(tmp_path, edges=800_000, rows_per_group=100_000)
    windows, served = windows_of(config)
    steps = []
    with serving(windows, served) as addresses, Remote(addresses, served, OPEN, 60) as source:
        for step in EpochReader(windows, 100_000, reader=source).steps(1):
            steps.append(step)
            time.sleep(0.1)
    assert bytes_of(steps) == bytes_of(list(EpochReader(windows, 100_000).steps(1)))


def test_a_reader_only_gathers_what_is_consumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "EDGES_PER_CHUNK", 50_000)
    config = make_config(tmp_path, edges=4_000_000, rows_per_group=500_000)
    windows, served = windows_of(config)
    made: list[int] = []

    class Counting(EdgeServer):
        def _stream(self, request: Request) -> Iterator[Any]:
            for part in super()._stream(request):
                made.append(len(part[0]))
                yield part

    server = Counting("127.0.0.1:0", windows, served, OPEN)
    try:
        with Remote([f"127.0.0.1:{server.port}"], served, OPEN, 60) as source:
            steps = EpochReader(windows, 1000, reader=source).steps(1)
            next(steps)
            before = -1
            while len(made) != before:  # until nothing more is made
                before = len(made)
                time.sleep(0.5)
            assert len(made) < 40, "of 80 batches"
            assert sum(1 for _ in steps) == 3999
            steps.close()
    finally:
        server.shutdown()
    assert sum(made) == 4_000_000


def certificate() -> tuple[bytes, bytes]:
    """One for 127.0.0.1 signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "reader")])
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(pem), private


def test_tls_only_serves_clients_that_trust_the_certificate(small: Windows) -> None:
    (cert, key), (other, _) = certificate(), certificate()
    with serving(small, SERVED, Secrets("secret", cert, key, None)) as addresses:
        with Remote(addresses, SERVED, Secrets("secret", None, None, cert), 30) as source:
            assert sum(len(step.edges) for step in EpochReader(small, 4, reader=source).steps(1)) == 10
        for ca in (other, None):
            source = Remote(addresses, SERVED, Secrets("secret", None, None, ca), 1)
            with pytest.raises(ReadersLost):
                list(EpochReader(small, 10, reader=source).steps(1))


def read_with(tmp_path: Path, **variables: str) -> Secrets:
    files = {"token": "s3cret\n", "empty": "\n", "pem": "a certificate"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    return read_secrets({name: value.replace("@", f"{tmp_path}/") for name, value in variables.items()})


def test_secrets_come_from_the_environment_or_from_files_and_are_not_shown(tmp_path: Path) -> None:
    assert read_with(tmp_path) == OPEN
    assert read_with(tmp_path, TWHIN_READER_TOKEN="abc").token == "abc"
    both = read_with(
        tmp_path, TWHIN_READER_TOKEN_FILE="@token", TWHIN_READER_TLS_CERT="@pem", TWHIN_READER_TLS_KEY="@pem"
    )
    assert (both.token, both.cert, both.key, both.ca) == ("s3cret", b"a certificate", b"a certificate", None)
    assert "s3cret" not in repr(both)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TWHIN_READER_TOKEN": ""}, "TWHIN_READER_TOKEN: must be printable ASCII"),
        ({"TWHIN_READER_TOKEN": "a b"}, "TWHIN_READER_TOKEN: must be printable ASCII"),
        ({"TWHIN_READER_TOKEN": "a", "TWHIN_READER_TOKEN_FILE": "@token"}, "are both set"),
        ({"TWHIN_READER_TOKEN_FILE": "@gone"}, "TWHIN_READER_TOKEN_FILE: .*gone cannot be read: No such file"),
        ({"TWHIN_READER_TOKEN_FILE": "@empty"}, "TWHIN_READER_TOKEN_FILE: .*empty is empty"),
        ({"TWHIN_READER_TLS_CERT": "@pem"}, "TWHIN_READER_TLS_CERT and TWHIN_READER_TLS_KEY belong together"),
        ({"TWHIN_READER_TLS_CA": "@gone"}, "TWHIN_READER_TLS_CA: .*gone cannot be read"),
    ],
)
def test_an_invalid_secret(variables: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_with(tmp_path, **variables)


@pytest.mark.parametrize("text", ["host", "host:", ":1", "host:port", "host:70000", "grpc://host:1", "a:1,", "a:1,a:1"])
def test_an_invalid_address(text: str) -> None:
    with pytest.raises(UserError, match="--readers: "):
        parse_readers(text)


def test_addresses_and_tasks() -> None:
    assert parse_readers("a:1, [::1]:2") == ["a:1", "[::1]:2"]
    assert parse_readers(None) == parse_readers("") == []
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "10.0.0.1", "host")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


SERVED: Served = {"version": "1", "training.seed": 0, "train_data.limit": None}


@pytest.fixture
def small(tmp_path: Path) -> Windows:
    return open_windows(write(tmp_path, [[10]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training.seed": 1}, "training.seed is 0 there, 1 here"),
        ({"train_data.limit": 5}, "train_data.limit is None there, 5 here"),
        ({"version": "2"}, "version is 1 there, 2 here"),
    ],
)
def test_a_reader_of_other_edges_is_refused_at_the_start_and_at_every_request(
    change: Served, message: str, small: Windows
) -> None:
    with serving(small, SERVED) as addresses:
        source = Remote(addresses, {**SERVED, **change}, OPEN, 30)
        for ask in (source.__enter__, lambda: list(EpochReader(small, 10, reader=source).steps(1))):
            with pytest.raises(UserError) as refused:
                ask()
            assert str(refused.value) == f"the reader {addresses[0]} refuses: {message}"


@pytest.mark.parametrize("token", [None, "wrong", "secret2", ""])
def test_a_client_without_the_token_is_refused(token: str | None, small: Windows) -> None:
    with serving(small, SERVED, Secrets("secret", None, None, None)) as addresses:
        with Remote(addresses, SERVED, Secrets("secret", None, None, None), 30) as source:
            assert sum(len(step.edges) for step in EpochReader(small, 4, reader=source).steps(1)) == 10
        source = Remote(addresses, SERVED, Secrets(token, None, None, None), 30)
        for ask in (source.__enter__, lambda: list(EpochReader(small, 10, reader=source).steps(1))):
            with pytest.raises(UserError, match="refuses this process: the token is missing or wrong") as refused:
                ask()
            assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"window": 1},
        {"begin": 3, "end": 3},
        {"end": 11},
        {"rank": 1},
        {"begin": -1},
        {"step_size": 0},
        {"world_size": 0},
    ],
)
def test_a_request_outside_the_epoch_is_refused(change: dict[str, int], small: Windows) -> None:
    fields = Ticket.of(SERVED, Request(0, 0, 0, 10, Shares(0, 10, 10, 0, 1)))
    ticket = Ticket.model_validate_json(fields).model_copy(update=change).model_dump_json().encode()
    with serving(small, SERVED) as addresses, flight.FlightClient(f"grpc://{addresses[0]}") as client:
        assert client.do_get(flight.Ticket(fields)).read_all().num_rows == 10
        for body in (ticket, b"{}", b"\xff", b"[" * 10_000):
            with pytest.raises(flight.FlightServerError, match=r"there are no such edges|does not understand"):
                client.do_get(flight.Ticket(body)).read_all()
        with pytest.raises(flight.FlightServerError, match="there is no action drop"):
            list(client.do_action(flight.Action("drop", b"")))


def test_an_invalid_edge_is_reported_with_its_file_and_row(tmp_path: Path) -> None:
    table = pa.table({"lhs": [0, 10**7], "rel": [0, 0], "rhs": [0, 0]})
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=False)
    windows = Windows(EdgeFiles([str(tmp_path / "a.parquet")], SCHEMA), 0, 100)
    with serving(windows, SERVED) as addresses, Remote(addresses, SERVED, OPEN, 30) as source:
        with pytest.raises(UserError, match=r"refuses: .*a\.parquet: row 1: lhs 10000000 is outside table node"):
            list(EpochReader(windows, 10, reader=source).steps(1))
        with pytest.raises(UserError, match=r"a\.parquet: row 1"):
            list(EpochReader(windows, 10).steps(1))


def test_sigterm_stops_a_reader_with_open_streams(tmp_path: Path) -> None:
    config = make_config(tmp_path, edges=2_000_000, rows_per_group=500_000)
    windows, served = windows_of(config)
    with running(config, 1) as readers, Remote(list(readers), served, OPEN, 60) as source:
        steps = EpochReader(windows, 1000, reader=source).steps(1)
        next(steps)
        (process,) = readers.values()
        process.terminate()
        process.join(30)
        assert process.exitcode == 0


def test_a_restarted_reader_is_found_at_once(tmp_path: Path) -> None:
    config = make_config(tmp_path, edges=100, rows_per_group=100)
    windows, served = windows_of(config)
    with running(config, 1) as readers, Remote(list(readers), served, OPEN, 60) as source:
        for _ in range(2):
            ((address, process),) = readers.items()
            assert len(list(EpochReader(windows, 10, reader=source).steps(1))) == 10
            process.kill()
            process.join(30)
            readers[address] = start_reader(config, address)
            wait_for_reader(address)
