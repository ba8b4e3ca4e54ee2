"""Every number in a schema has bounds on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from tests.command_line import ROOT
from twhin.pipelines.resources import Resources
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError


def numbers(
    schema: dict[str, Any], definitions: dict[str, Any], place: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The places of numbers in a JSON schema, each with its own schema."""
    if "$ref" in schema:
        yield from numbers(definitions[schema["$ref"].rpartition("/")[2]], definitions, place)
    for key in ("anyOf", "allOf", "prefixItems"):
        for part in schema.get(key, []):
            yield from numbers(part, definitions, place)
    if schema.get("type") in ("integer", "number"):
        yield place, schema
    for name, part in schema.get("properties", {}).items():
        yield from numbers(part, definitions, f"{place}.{name}".lstrip("."))
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from numbers(schema[key], definitions, f"{place}.*")


@pytest.mark.parametrize("section", [Config, Resources])
def test_every_number_has_bounds(section: type[BaseModel]) -> None:
    schema = section.model_json_schema()
    found = dict(numbers(schema, schema["$defs"]))
    assert len(found) > (50 if section is Config else 3)
    unbounded = [
        place
        for place, number in found.items()
        if "enum" not in number
        and not (number.keys() & {"minimum", "exclusiveMinimum"} and number.keys() & {"maximum", "exclusiveMaximum"})
    ]
    assert not unbounded


LOCAL = str(ROOT / "configs/local.yaml")
TABLE = "model.embeddings.tables.0"


@pytest.mark.parametrize("number", ["1" + "0" * 18, "-1" + "0" * 18, "0x" + "f" * 40, "1e18", ".inf"])
@pytest.mark.parametrize(
    "key",
    [
        "training.num_epochs", "training.seed", "training.eval_timeout_in_s", "train_data.in_batch_negatives",
        "train_data.limit", "train_data.per_replica_batch_size", "evaluation.bootstrap", "evaluation.hits_at.0",
        "evaluation.candidates", "evaluation.candidates_power", f"{TABLE}.num_embeddings", f"{TABLE}.embedding_dim",
        "model.temperature", "model.relations.0.weight", "export.projector.rows",
    ],
)  # fmt: skip
def test_a_number_beyond_its_bounds_is_refused(key: str, number: str) -> None:
    if key == "training.seed" and number == "1" + "0" * 18:
        number = "1" + "0" * 19  # a seed may have 63 bits
    overrides = ["model.loss=softmax", "evaluation.hits_at=[1]", "export={formats: [tensorboard-projector]}"]
    with pytest.raises(UserError) as refused:
        config_file.load(LOCAL, [*overrides, f"{key}={number}"])
    assert key in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "export={formats: [faiss], faiss: {kind: hnsw, hnsw: {links: 1}}}",
            "export.faiss.hnsw.links: input should be",
        ),
        ("evaluation.memory_limit=0GB", "evaluation.memory_limit: must be between 1KB and 1024TiB"),
        ("evaluation.memory_limit=99999999TB", "evaluation.memory_limit: must be between 1KB and 1024TiB"),
        ('training.save_dir=""', "training.save_dir: string should have at least 1 character"),
        (f"training.save_dir={'x' * 5000}", "training.save_dir: string should have at most 4096 characters"),
        (
            "model.translation_optimizer={adam: {lr: 0.1, betas: [0.9, 1.0]}}",
            "adam.betas.1: input should be less than 1",
        ),
        ('model.relations.0={name: "a\\nb", lhs: user, rhs: "c\\nd"}', "no table named 'c\\nd'"),
        ('training={"a\\nb": 1}', "training.a b: unknown key"),
    ],
)
def test_other_values_out_of_range(override: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        config_file.load(LOCAL, [override])
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_network_is_generated_within_memory() -> None:
    with pytest.raises(UserError, match="edges_per_user: 1,000 for 1,000,000 users are more than 100,000,000 inter"):
        config_file.load(
            str(ROOT / "configs/quickstart.yaml"), ["prepare.generate={users: 1000000, edges_per_user: 1000}"]
        )
