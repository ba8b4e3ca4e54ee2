"""The config file: valid and invalid values, and round trips through YAML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.command_line import ROOT
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError

LOCAL = str(ROOT / "configs/local.yaml")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Config:
    monkeypatch.setenv("TWHIN_DATA", "/data")
    return config_file.load(str(ROOT / "configs" / request.param))


ALL_CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("config", ALL_CONFIGS, indirect=True)
def test_a_resolved_config_survives_a_round_trip(config: Config) -> None:
    assert config_file.parse(config_file.to_yaml(config)) == config
    line = config_file.to_line(config)
    assert "\n" not in line
    assert config_file.parse(line) == config


def test_the_reference_config_loads_unchanged() -> None:
    config = config_file.load(LOCAL)
    user, tweet = config.model.embeddings.tables
    assert (user.name, user.num_embeddings, user.embedding_dim) == ("user", 424_241, 4)
    assert (tweet.name, tweet.num_embeddings, tweet.embedding_dim) == ("tweet", 72_543, 4)
    assert user.optimizer.sgd is not None
    assert user.optimizer.sgd.lr == 0.01
    assert [relation.name for relation in config.model.relations] == ["fav", "reply", "retweet", "magic_recs"]
    assert config.validation_data is not None
    assert (config.train_data.limit, config.train_data.offset) == (9990, 0)
    assert (config.validation_data.limit, config.validation_data.offset) == (10, 9990)
    assert config.training.save_dir == "/tmp/model"


def test_set_overrides_one_value_and_keeps_the_rest() -> None:
    before = config_file.load(LOCAL).model_dump()
    overrides = [
        "training.num_epochs=7",
        "model.embeddings.tables.1.num_embeddings=10",
        "evaluation.gates.a={min: 1.0}",
    ]
    after = config_file.load(LOCAL, overrides).model_dump()
    before["training"]["num_epochs"] = 7
    before["model"]["embeddings"]["tables"][1]["num_embeddings"] = 10
    before["evaluation"]["gates"] = {
        "a": {"min": 1.0, "max": None, "max_drop": None, "at_least_baseline": None, "factor": None}
    }
    assert after == before


def test_an_exponent_without_a_dot_is_a_number() -> None:
    config = config_file.load(LOCAL, ["model.translation_optimizer={sgd: {lr: 1e-3}}"])
    assert config.model.translation_optimizer.choice.lr == 0.001


def test_a_variable_is_replaced_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/somewhere")
    assert config_file.load(LOCAL, ["training.save_dir=${PLACE}/model"]).training.save_dir == "/somewhere/model"


RATE = "model.translation_optimizer.learning_rate"
PIECEWISE = "{learning_rate_boundaries: [5], learning_rate_values: [0.5, 0.1]}"

REFUSED = {
    "a shuffle buffer for validation": (
        "validation_data.shuffle_buffer=5",
        "validation_data.shuffle_buffer: has no effect, validation edges are not shuffled",
    ),
    "an unknown remainder": ("train_data.remainder=keep", "train_data.remainder: "),
    "no buffer": ("train_data.shuffle_buffer=0", "train_data.shuffle_buffer: "),
    "unknown key": ("training.flavour=3", "training.flavour: unknown key"),
    "misspelt key": ("training.num_epoch=3", "training.num_epoch: unknown key; did you mean num_epochs?"),
    "unknown section": ("trainnig={}", "trainnig: unknown key; did you mean training?"),
    "string for a number": ("training.num_epochs=many", "training.num_epochs: input should be a valid integer"),
    "number for a string": ("model.relations.0.lhs=3", "model.relations.0.lhs: input should be a valid string"),
    "below the bound": ("training.num_epochs=0", "training.num_epochs: input should be greater than 0"),
    "not finite": ("model.temperature=.nan", "model.temperature: input should be a finite number"),
    "two optimizers": (
        "model.embeddings.tables.0.optimizer.adagrad={lr: 0.1}",
        "model.embeddings.tables.0.optimizer: needs exactly one of",
    ),
    "no optimizer": ("model.translation_optimizer={}", "model.translation_optimizer: needs exactly one of"),
    "two rates": ("model.translation_optimizer.sgd.lr=0.1", "model.translation_optimizer: sgd.lr is 0.1 but"),
    "unequal dims": ("model.embeddings.tables.0.embedding_dim=8", "embedding_dim must be equal in all tables"),
    "a table twice": ("model.embeddings.tables.0.name=tweet", "tables: names must be unique; repeated: tweet"),
    "a relation's table": ("model.relations.0.rhs=tweets", "model.relations.0.rhs: no table named 'tweets'"),
    "a relation twice": ("model.relations.1.name=fav", "model.relations.1.name: 'fav' is listed twice"),
    "accumulated gradients": ("training.gradient_accumulation=2", "training.gradient_accumulation: 2 is not supported"),
    "two schedules": (f"{RATE}.piecewise_constant={PIECEWISE}", f"{RATE}: needs exactly one of"),
    "half a schedule": (f"{RATE}={{linear_ramp_to_cosine: {{}}}}", "linear_ramp_to_cosine.learning_rate: is required"),
    "a schedule of another rate": (
        f"{RATE}={{linear_ramp_to_constant: {{learning_rate: 0.1, num_ramp_steps: 9}}}}",
        "sgd.lr is 0.05 but learning_rate.linear_ramp_to_constant.learning_rate is 0.1",
    ),
    "a piecewise schedule of another rate": (
        f"{RATE}={{piecewise_constant: {PIECEWISE}}}",
        "sgd.lr is 0.05 but learning_rate.piecewise_constant.learning_rate_values.0 is 0.5",
    ),
    "too few rates": (
        f"{RATE}={{piecewise_constant: {{learning_rate_boundaries: [5, 9], learning_rate_values: [0.05, 0.1]}}}}",
        "piecewise_constant.learning_rate_values: needs 3, one more than the boundaries; got 2",
    ),
    "boundaries that do not ascend": (
        f"{RATE}={{piecewise_constant: {{learning_rate_boundaries: [5, 5], learning_rate_values: [1, 2, 3]}}}}",
        "piecewise_constant.learning_rate_boundaries: must ascend; got [5, 5]",
    ),
    "a cosine within its ramp": (
        f"{RATE}={{linear_ramp_to_cosine: {{learning_rate: 0.05, final_learning_rate: 0.01, num_ramp_steps: 9, "
        "final_num_steps: 9}}",
        "linear_ramp_to_cosine.final_num_steps: must be beyond num_ramp_steps, which is 9",
    ),
    "column-wise with row-wise state": (
        "model.embeddings.tables.0={name: user, embedding_dim: 4, sharding: column_wise, "
        "optimizer: {rowwise_adagrad: {lr: 0.1}}}",
        "tables.0.sharding: column_wise is inexact with rowwise_adagrad",
    ),
    "too few columns to split": (
        "model.embeddings.tables.0.sharding=column_wise",
        "tables.0.sharding: column_wise cannot split 4 columns",
    ),
    "data-parallel with adam": (
        "model.embeddings.tables.0={name: user, embedding_dim: 4, sharding: data_parallel, optimizer: {adam: {lr: 1}}}",
        "tables.0.sharding: data_parallel with adam would also update rows that no edge looked up",
    ),
    "data-parallel in fp16": (
        "model.embeddings.tables.0={name: user, embedding_dim: 4, sharding: data_parallel, data_type: fp16, "
        "optimizer: {sgd: {lr: 1}}}",
        "tables.0.sharding: data_parallel would round the gradients of an fp16 table",
    ),
    "no negatives": (
        "train_data.in_batch_negatives=0",
        "train_data: in_batch_negatives and global_negatives are both 0",
    ),
    "a chunk beyond the batch": (
        "train_data.chunk_size=501",
        "train_data.chunk_size: 501 exceeds per_replica_batch_size, which is 500",
    ),
    "a power without negatives": (
        "train_data.global_negatives_power=0.75",
        "train_data.global_negatives_power: has no effect without global_negatives",
    ),
    "a correction of uniform negatives": (
        "validation_data={per_replica_batch_size: 5, global_negatives: 5, logq_correction: true}",
        "validation_data.logq_correction: has no effect on uniform negatives",
    ),
    "self-negatives across tables": (
        "train_data.self_negatives=true",
        "train_data.self_negatives: has no effect, no relation has both ends in one table",
    ),
    "full_softmax without softmax": (
        "train_data.full_softmax=true",
        "train_data.full_softmax: has no effect on the bce loss; set model.loss: softmax or remove it",
    ),
    "relation prediction with distances": (
        "model={relation_prediction: 1.0, comparator: l2, embeddings: {tables: [{name: user, embedding_dim: 4, "
        "optimizer: {sgd: {lr: 1}}}]}, relations: [{name: fav, lhs: user, rhs: user}], "
        "translation_optimizer: {sgd: {lr: 1}}}",
        "model.relation_prediction: needs comparator: dot, not l2",
    ),
    "relation prediction with matrices": (
        "model={relation_prediction: 1.0, embeddings: {tables: [{name: user, embedding_dim: 4, "
        "optimizer: {sgd: {lr: 1}}}]}, relations: [{name: fav, lhs: user, rhs: user, operator: linear}], "
        "translation_optimizer: {sgd: {lr: 1}}}",
        "model.relation_prediction: needs the operator translation, diagonal or complex_diagonal for all relations",
    ),
    "an empty penalty": (
        "model.regularization={power: 2}",
        "model.regularization: needs tables, relations or both",
    ),
    "an unknown power": (
        "model.regularization={tables: 0.1, power: 1}",
        "model.regularization.power: input should be 2 or 3",
    ),
    "no data": ("train_data.data_root=null", "train_data.data_root: is required"),
    "an export of an unknown table": ("export.tables=[book]", "export.tables: no table named 'book'"),
    "set without a value": ("training.num_epochs", "--set training.num_epochs: expected section.key=value"),
    "set of a missing entry": ("model.relations.9.name=x", "--set model.relations.9.name=x: there is no key"),
    "set below a number": ("training.num_epochs.x=1", "--set training.num_epochs.x=1: there is no key"),
    "set to invalid YAML": ("training.num_epochs=[", "--set training.num_epochs=[: not valid YAML"),
    "an unset variable": ("training.save_dir=${NO_SUCH_PLACE}", "the environment variable NO_SUCH_PLACE is not set"),
}


@pytest.mark.parametrize(("override", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_gives_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        config_file.load(LOCAL, [override])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("section", ["train_data", "validation_data"])
def test_the_ranking_loss_takes_no_logq_correction(section: str) -> None:
    overrides = ["model.loss=ranking", f"{section}.logq_correction=true"]
    with pytest.raises(UserError, match=rf"{section}\.logq_correction: is undefined for the ranking loss"):
        config_file.load(LOCAL, overrides)


def test_identities_have_no_parameters_to_regularize() -> None:
    identities = [f"model.relations.{rel}.operator=identity" for rel in range(4)]
    config_file.load(LOCAL, [*identities, "model.regularization={tables: 0.1}"])
    with pytest.raises(UserError, match=r"model.regularization.relations: has no effect, the identity has no param"):
        config_file.load(LOCAL, [*identities, "model.regularization={relations: 0.1}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.init_std=0.1", "model.init_std: has no effect, spherical_adagrad gives rows length 1"),
        ("model.regularization={tables: 0.1}", "model.regularization.tables: rows keep length 1"),
        ("model.embeddings.tables.0.data_type=fp16", "tables.0.data_type: fp16 would round rows away from length 1"),
        ("model.embeddings.tables.0.sharding=column_wise", "tables.0.sharding: column_wise would split rows"),
        (
            "model.translation_optimizer={spherical_adagrad: {lr: 0.1}}",
            "model.translation_optimizer: spherical_adagrad is for tables",
        ),
    ],
)
def test_unit_rows_refuse_what_cannot_keep_them_so(override: str, message: str) -> None:
    unit = [
        f"model.embeddings.tables.{table}.optimizer.{key}"
        for table in range(2)
        for key in ("sgd=null", "learning_rate=null", "spherical_adagrad={lr: 1.0}")
    ]
    config_file.load(LOCAL, unit)
    with pytest.raises(UserError, match=re.escape(message)):
        config_file.load(LOCAL, [*unit, override])


def test_default_chunks_are_no_larger_than_the_batch() -> None:
    """The reference's config has batches of 500 and no chunk size."""
    small, large = (
        config_file.load(LOCAL, [f"train_data.per_replica_batch_size={size}"]).train_data for size in (500, 5000)
    )
    assert (small.positives_per_chunk, large.positives_per_chunk) == (500, 1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: [", "not valid YAML"),
        ("just words", "expected a mapping of sections, got str"),
        ("training: {num_epochs: 1, num_epochs: 2}", "repeated key 'num_epochs'"),
        ("training: {}", "model: is required"),
    ],
)
def test_an_error_names_the_broken_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        config_file.load(str(path))
    assert str(refused.value).startswith(str(path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_local_yaml_only_uses_the_reference_schema() -> None:
    tree = yaml.safe_load(Path(LOCAL).read_text())
    assert set(tree) == {"runtime", "training", "model", "train_data", "validation_data"}
    assert set(tree["model"]) == {"translation_optimizer", "embeddings", "relations"}


def test_variables_become_overrides_for_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "configs/fb15k_237.yaml").read_text()
    assert "${TWHIN_DATA}" in text
    monkeypatch.setenv("TWHIN_DATA", "gs://bucket/data")
    source = config_file.read(str(ROOT / "configs/fb15k_237.yaml"), ["training.num_epochs=3"])
    here = config_file.load(str(ROOT / "configs/fb15k_237.yaml"), ["training.num_epochs=3"])
    monkeypatch.delenv("TWHIN_DATA")
    assert source.text == text
    assert source.overrides[0] == "training.num_epochs=3"
    assert config_file.parse(source.text, overrides=source.overrides) == here


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("prepare: {}\n# Größe\n".encode("latin-1"), "line 2: not text in UTF-8"),
        ("prepare: {}\n".encode("utf-16"), "line 1: not text in UTF-8"),
        ("prepare: {}\n".encode("utf-16-le"), "not valid YAML"),
        ("prepare: {}\n".encode("utf-32"), "line 1: not text in UTF-8"),
        (b"a: 1\n\n\xc3", "line 3: not text in UTF-8"),
        (b"\x89PNG\r\n", "line 1: not text in UTF-8"),
        (b"", "expected a mapping"),
        (b"\0", "not valid YAML"),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_a_file_that_is_no_text(tmp_path: Path, data: bytes | None, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.mkdir() if data is None else path.write_bytes(data)
    for read in (config_file.load, config_file.read):
        with pytest.raises(UserError) as raised:
            read(str(path))
        assert str(raised.value).startswith(f"{path}: ")
        assert said in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_mark_of_utf_8_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (ROOT / "configs/quickstart.yaml").read_bytes())
    assert config_file.load(str(path)) == config_file.load(str(ROOT / "configs/quickstart.yaml"))
