"""The private names listed in docs/dependencies.md exist. After an upgrade, look here first."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.command_line import ROOT
from twhin.components.stage import FROM_SHELL

NAMES = [
    ("torch.distributed._shard.sharded_tensor", "ShardedTensor"),
    ("torch.distributed._shard.sharded_tensor", "Shard"),
    ("torch.distributed._shard.sharded_tensor", "ShardedTensor._init_from_local_shards_and_global_metadata"),
    ("torch.distributed.remote_device", "_remote_device"),
    ("torch.distributed.checkpoint._fsspec_filesystem", "FsspecReader"),
    ("torch.distributed.checkpoint._fsspec_filesystem", "FsspecWriter"),
    ("fbgemm_gpu.split_table_batched_embeddings_ops_training", "SplitTableBatchedEmbeddingBagsCodegen.forward"),
    ("fbgemm_gpu.split_table_batched_embeddings_ops_training", "DenseTableBatchedEmbeddingBagsCodegen.forward"),
    ("torchrec.distributed.embedding", "ShardedEmbeddingCollection.forward"),
    ("gcsfs.core", "GCSFileSystem._request.__wrapped__"),
    ("ibis.backends.pyspark", "Backend._run_pre_execute_hooks"),
    ("ibis.backends.pyspark", "Backend._register_in_memory_table"),
]

SET_WHEN_MADE = [
    ("torchrec/distributed/embedding.py", r"self\._lookups\b"),
    ("ibis/backends/pyspark/__init__.py", r"self\._session\b"),
    ("pyspark/core/context.py", r"self\._jsc\b"),
    ("pyspark/core/context.py", r"_jvm\b"),
    ("kfp/dsl/component_factory.py", re.escape(FROM_SHELL)),
    ("kfp/dsl/executor_main.py", r"\[KFP Executor"),
]
"""Names that only instances have: files of the libraries, and patterns that they must contain."""


@pytest.mark.parametrize(("module", "name"), NAMES, ids=str)
def test_a_private_name_can_be_imported(module: str, name: str) -> None:
    found = importlib.import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"{module}.{name} is gone: docs/dependencies.md says what replaces it"
        found = getattr(found, part)


@pytest.mark.parametrize(("file", "pattern"), SET_WHEN_MADE, ids=str)
def test_a_private_attribute_is_still_in_the_library(file: str, pattern: str) -> None:
    package = importlib.import_module(file.split("/", maxsplit=1)[0])
    assert package.__path__
    text = "".join((ROOT / path).parent.joinpath(file).read_text() for path in list(package.__path__)[:1])
    assert re.search(pattern, text), f"{pattern} is gone from {file}: docs/dependencies.md says what replaces it"


def test_the_page_lists_every_private_module_that_is_imported() -> None:
    page = (ROOT / "docs/dependencies.md").read_text()
    paths = [path for folder in ("twhin_core", "components", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    sources = "\n".join(path.read_text() for path in paths)
    private = r"^\s*from ((?:torch|torchrec|fbgemm_gpu|gcsfs|ibis|kfp)[\w.]*\._[\w.]+) import"
    modules = set(re.findall(private, sources, re.MULTILINE))
    assert modules
    assert {module for module in modules if module not in page} == set()
