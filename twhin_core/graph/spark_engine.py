"""The Spark engine of prepare: for several machines, or for this one with `spark_master: local[N]`.

The driver only handles counts, relation names and manifest entries. Executors read the sources with the DuckDB engine's
reader and write the parts with its writer, so they need Python and this package. Between steps, tables are Parquet
files under `prepare.temp_directory`: they survive the loss of an executor, and Spark plans each step with the sizes of
the previous one's result.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import re
import shutil
import sys
import uuid
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from twhin_core import errors, storage
from twhin_core.config.prepare import Prepare
from twhin_core.config.sources import Source
from twhin_core.errors import TwhinError, UserError, one_line
from twhin_core.graph.duckdb_backend import read_alone
from twhin_core.graph.engine import ROW_BITS, Engine, scratch
from twhin_core.graph.raw_files import RawFile, RawSource
from twhin_core.graph.sources import schema_of
from twhin_core.parquet import (
    ROWS_PER_FILE,
    ROWS_PER_GROUP,
    FileEntry,
    StoredFile,
    open_parquet,
    part_path,
    write_part,
    write_parts,
)
from twhin_core.sizes import in_bytes

PANDAS_WARNING = "PySpark does not yet fully support pandas"  # `ArrowBackend` avoids pandas
warnings.filterwarnings("ignore", PANDAS_WARNING, FutureWarning)

try:
    from py4j.protocol import Py4JError
    from pyspark import TaskContext
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as F

    from twhin_core.graph.spark_backend import ArrowBackend
except ImportError as missing:
    raise UserError(f"prepare.engine: spark needs PySpark (`pip install 'twhin[spark]'`): {missing}") from None

TASKS_PER_CORE = 16
BYTES_PER_SHUFFLE_PARTITION = 16 << 20  # of raw files, which are compressed
SQL_TYPES = {  # where Arrow's names differ
    "int64": "bigint", "int32": "int", "bool": "boolean", "float": "float",
    str(pa.list_(pa.float64())): "array<double>", str(pa.list_(pa.float32())): "array<float>",
    str(pa.list_(pa.string())): "array<string>",
}  # fmt: skip
ENTRY = "entry string"  # a `FileEntry` as JSON


class SparkEngine(Engine):
    """Keeps tables as temporary views of Parquet files under `folder`, any URL that Hadoop supports."""

    def __init__(self, session: SparkSession, folder: str) -> None:
        self.session = session
        self._folder = folder
        self._backend = ArrowBackend()
        self._backend.register_options()
        self._backend.do_connect(session)
        self._kept: dict[str, int] = {}
        self._reads = itertools.count()

    def read(self, sources: list[RawSource]) -> ir.Table:
        pieces = [(file, raw.source, position) for position, raw in enumerate(sources) for file in raw.files]
        self._size_shuffles(sum(file.found.size for file, _, _ in pieces))
        tasks = min(max(1, len(pieces)), TASKS_PER_CORE * self.session.sparkContext.defaultParallelism)
        numbers = self.session.range(0, len(pieces), numPartitions=tasks)
        schema, name = schema_of(sources), f"raw_{next(self._reads)}"
        numbers.mapInArrow(functools.partial(_read, pieces, schema), _sql(schema)).createOrReplaceTempView(name)
        return self._backend.table(name)

    def read_files(self, name: str, files: list[StoredFile], schema: pa.Schema) -> ir.Table:
        numbers = self.session.range(0, len(files), numPartitions=max(1, len(files)))
        whole = schema.append(pa.field("position", pa.int64()))
        numbers.mapInArrow(functools.partial(_read_stored, files, whole), _sql(whole)).createOrReplaceTempView(name)
        return self.keep(f"{name}_kept", self._backend.table(name))  # else each use would decode the files in Python

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        number = self._kept.get(name, 0)
        view = f"{name}_{number}"
        frame = self._backend.to_frame(rows)
        frame.write.parquet(f"{self._folder}/{view}")
        kept = re.sub(r"[\[\]{}*?\\]", r"\\\g<0>", f"{self._folder}/{view}")  # Hadoop takes it for a pattern
        self.session.read.schema(frame.schema).parquet(kept).createOrReplaceTempView(view)
        if number:
            self.session.catalog.dropTempView(f"{name}_{number - 1}")
            self.delete(f"{self._folder}/{name}_{number - 1}")
        self._kept[name] = number + 1
        return self._backend.table(view)

    def view(self, name: str, rows: ir.Table) -> ir.Table:
        self._backend.to_frame(rows).createOrReplaceTempView(name)
        return self._backend.table(name)

    def write(self, rows: ir.Table, order: Sequence[str], schema: pa.Schema, root: str, folder: str) -> list[FileEntry]:
        storage.remove(storage.join(root, folder))
        frame = self._backend.to_frame(rows)
        count = frame.count()
        if count == 0:
            return write_parts([], schema, root, folder)
        cores = self.session.sparkContext.defaultParallelism
        parts = max(math.ceil(count / ROWS_PER_FILE), min(cores, math.ceil(count / ROWS_PER_GROUP)))
        by = [F.col(name).asc_nulls_last() for name in order]
        sorted_ = frame.repartitionByRange(parts, *by).sortWithinPartitions(*by).select(*schema.names)
        entries = sorted_.mapInArrow(functools.partial(_write, schema, root, folder), ENTRY).collect()
        return sorted((FileEntry.model_validate_json(row.entry) for row in entries), key=lambda entry: entry.path)

    def delete(self, url: str) -> None:
        """Removes a folder."""
        files, path = self.locate(url)
        files.delete(path, True)

    def locate(self, url: str) -> tuple[Any, Any]:
        """Hadoop's file system of `url`, and the path there. Raises Py4JError if its jars are missing."""
        jvm: Any = self.session.sparkContext._jvm
        path = jvm.org.apache.hadoop.fs.Path(url)
        return path.getFileSystem(self.session.sparkContext._jsc.hadoopConfiguration()), path

    def _size_shuffles(self, size: int) -> None:
        """Starts with enough shuffle partitions for `size` bytes: Spark coalesces small ones, splits no large ones."""
        name = "spark.sql.shuffle.partitions"
        if self.session.conf.get(name) == "200":  # Spark's default
            self.session.conf.set(name, max(200, size // BYTES_PER_SHUFFLE_PARTITION))


def _sql(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {SQL_TYPES.get(str(field.type), field.type)}" for field in schema)


def _read_stored(
    files: list[StoredFile], schema: pa.Schema, numbers: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Runs in a task: reads its files. The last column of `schema` is the position."""
    for batch in numbers:
        for number in batch["id"].to_pylist():
            position = number << ROW_BITS
            with open_parquet(files[number].url, footer=files[number].footer) as file:
                stored = file.schema_arrow.names
                for rows in file.iter_batches(columns=[name for name in schema.names if name in stored]):
                    columns = {name: rows[name] for name in rows.schema.names}
                    columns["position"] = pa.array(np.arange(position, position := position + rows.num_rows))
                    yield pa.RecordBatch.from_arrays(
                        [columns.get(of.name, pa.nulls(rows.num_rows, of.type)).cast(of.type) for of in schema],
                        schema=schema,
                    )


def _read(
    pieces: list[tuple[RawFile, Source, int]], schema: pa.Schema, numbers: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Runs in a task: reads the rows of its files."""
    for batch in numbers:
        for number in batch["id"].to_pylist():
            for rows in read_alone(*pieces[number]):
                yield rows.cast(schema)


def _write(schema: pa.Schema, root: str, folder: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Runs in a task: writes its rows as one part. A retried task writes the same file."""
    first = next(batches, None)
    if first is None:
        return
    context = TaskContext.get()
    assert context is not None
    rows = (batch.cast(schema) for batch in itertools.chain([first], batches))
    entry = write_part(rows, schema, root, part_path(folder, context.partitionId()))
    yield pa.RecordBatch.from_pylist([{"entry": entry.model_dump_json()}])


@contextlib.contextmanager
def connect(settings: Prepare) -> Iterator[SparkEngine]:
    """An engine in the active Spark session, or else in one of its own, which ends with the block."""
    own = SparkSession.getActiveSession() is None
    with contextlib.ExitStack() as stack:
        if settings.is_cluster:
            folder = f"{settings.temp_directory}/twhin-prepare-{uuid.uuid4().hex[:8]}"
        else:
            folder = stack.enter_context(scratch(settings.temp_directory))
        try:
            session = _start(settings, folder)
            if own:
                stack.callback(session.stop)
            engine = SparkEngine(session, f"{folder}/tables" if settings.is_cluster else f"file://{folder}/tables")
            if settings.is_cluster:
                engine.locate(folder)  # raises now what is missing
                stack.callback(engine.delete, folder)
            yield engine
        except TwhinError:
            raise
        except (PySparkException, Py4JError, OSError, pa.ArrowException) as error:
            raise _explained(error, settings, folder) from error


def _start(settings: Prepare, folder: str) -> SparkSession:
    java = os.path.join(os.environ["JAVA_HOME"], "bin", "java") if "JAVA_HOME" in os.environ else "java"
    if shutil.which(java) is None:
        raise UserError(f"prepare.engine: spark needs Java 17 or later; there is no {java}")
    memory = f"{in_bytes(settings.memory_limit) >> 20}m"
    options = {
        "spark.driver.memory": memory,
        "spark.executor.memory": memory,
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.showConsoleProgress": "false",
        "spark.executorEnv.PYTHONWARNINGS": f"ignore:{PANDAS_WARNING}:FutureWarning",
    }
    if not settings.is_cluster:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")  # listen on loopback only
        options |= {
            "spark.local.dir": folder,
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.log.level": "OFF",  # errors are raised as exceptions
        }
    builder: Any = SparkSession.builder.appName("twhin prepare").master(settings.spark_master or "local[*]")
    session: SparkSession = builder.config(map=options).getOrCreate()
    return session


def _explained(error: Exception, settings: Prepare, folder: str) -> TwhinError:
    """The error for any failure of Spark, in one line."""
    text = str(error)
    if raised := re.search(r"twhin_core\.errors\.(\w+): (.+)", text):  # in a task
        kind: type[TwhinError] = getattr(errors, raised[1])
        return kind(raised[2])
    if full := re.search(r"No space left on device|Disk quota exceeded|File too large", text):
        return UserError(f"prepare.temp_directory: {os.path.dirname(folder)} is full: {full[0]}")
    if jars := re.search(r"No FileSystem for scheme.*|Class org\.apache\.hadoop\.fs\.\S+ not found", text):
        return UserError(
            f"prepare.temp_directory: {settings.temp_directory}: Spark lacks the jars for it: {jars[0]}; see "
            "docs/spark.md"
        )
    memory = r"Java heap space|GC overhead limit|UNABLE_TO_ACQUIRE_MEMORY|memory \d+ must be at least \d+"
    if short := re.search(memory, text):
        return UserError(f"prepare.memory_limit: {settings.memory_limit} is too small for Spark: {short[0]}")
    if "JAVA_GATEWAY_EXITED" in text:
        return UserError(f"prepare.engine: Java did not start with a {settings.memory_limit} heap; Spark needs Java 17")
    causes = re.findall(r"Caused by: (.+)", text)
    return UserError(f"prepare.engine: Spark failed: {causes[-1] if causes else one_line(error)}")
