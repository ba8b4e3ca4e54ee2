"""The one YAML that drives a run, typed. `load` in `config_file.py` reads it.

The sections `runtime`, `training`, `model`, `train_data` and `validation_data` are the schema of the reference
implementation; `prepare`, `test_data`, `evaluation`, `export` and the fields marked "(ours)" are added beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from twhin_core import sizes
from twhin_core.config_export import Export
from twhin_core.config_optimizer import Optimizer
from twhin_core.config_prepare import Prepare
from twhin_core.config_section import Section

# --- runtime -----------------------------------------------------------------------------------------------------


class Runtime(Section):
    """How the arithmetic runs."""

    enable_tensorfloat32: bool = Field(
        False, description="Allow TF32 in fp32 matrix products on GPUs that have it; no effect on a CPU."
    )
    enable_amp: bool = Field(
        False,
        description="Matrix products of the training steps in bf16, by autocast; weights, optimizers and the loss stay "
        "as they are, and so do validation and evaluation.",
    )


# --- training ----------------------------------------------------------------------------------------------------


class EarlyStopping(Section):
    """Training ends once a figure has stopped falling. Its newest checkpoint is then of the last step, not the best."""

    metric: Literal["validation_loss"] = Field("validation_loss", description="The figure that should fall.")
    patience: PositiveInt = Field(description="Validations in a row without a new lowest value that end training.")


class Training(Section):
    """How long to train, what to log and what to keep."""

    save_dir: str | None = Field(
        None, description="The run root of `twhin train` where `--run-root` is not given: a folder or gs:// prefix."
    )
    num_train_steps: PositiveInt | None = Field(
        None, description="Training ends after this many steps, or after `num_epochs`, whichever comes first."
    )
    num_epochs: PositiveInt = Field(1, description="Passes over the training edges.")
    checkpoint_every_n: PositiveInt = Field(
        1000, description="Steps between checkpoints; the last step always writes one. Training goes on meanwhile."
    )
    checkpoint_max_to_keep: PositiveInt | None = Field(
        None,
        description="Older checkpoints are removed beyond this number, once a new one is whole; null keeps all.",
    )
    train_log_every_n: PositiveInt = Field(100, description="Steps between lines of `training/metrics.jsonl`.")
    num_eval_steps: PositiveInt = Field(100, description="Batches of validation edges a validation loss is taken over.")
    eval_log_every_n: PositiveInt = Field(
        1000,
        description="Steps between validation losses; the last step always has one. Without validation edges, none.",
    )
    eval_timeout_in_s: PositiveInt = Field(
        10000, description="Seconds that `twhin evaluate --follow` waits for the next checkpoint before it gives up."
    )
    readers_timeout_in_s: PositiveInt = Field(
        300,
        description="(ours) Seconds that `twhin train --readers` waits for edges while no reader answers; then it ends "
        "with exit code 75.",
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="(ours) Ends training before its last step; left out, never."
    )
    initial_checkpoint_dir: str | None = Field(
        None,
        description="Weights to begin with, at step 0 and with fresh optimizers: a checkpoint's folder, the folder of "
        "several or a run root, of which the newest is taken. Its tables, dim and relations must be these. No effect "
        "once the run has a checkpoint of its own.",
    )
    gradient_accumulation: PositiveInt | None = Field(
        None,
        description="Batches an update: only 1, or null for the same. Tables are updated within the backward pass of "
        "each batch, so several have no common update; raise `train_data.per_replica_batch_size` instead.",
    )
    seed: int = Field(0, ge=0, description="(ours) Seeds initial weights, the order of edges and the negatives.")

    @model_validator(mode="after")
    def _one_batch_an_update(self) -> Training:
        if self.gradient_accumulation not in (None, 1):
            raise ValueError(
                f"gradient_accumulation: {self.gradient_accumulation} batches cannot make one update, because tables "
                "are updated within the backward pass of each; raise train_data.per_replica_batch_size instead"
            )
        return self


# --- model -------------------------------------------------------------------------------------------------------


class Table(Section):
    """One embedding table: a kind of node."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$", description="Unique; letters, digits, `_` and `-`.")
    num_embeddings: PositiveInt | None = Field(
        None, description="Rows. May be left out where `prepare` made the vocabulary."
    )
    embedding_dim: PositiveInt = Field(
        multiple_of=4, description="Columns; the same for every table, and a multiple of 4 for the kernels."
    )
    data_type: Literal["fp32", "fp16"] = Field(
        "fp32", description="Type of the weights. `fp16` halves their memory; the optimizer's state stays fp32."
    )
    sharding: Literal["auto", "data_parallel", "table_wise", "row_wise", "column_wise"] = Field(
        "auto",
        description="(ours) How ranks share the table: a copy each, whole on one rank, or by rows or columns. `auto` "
        "lets a planner choose between table_wise and row_wise, by the ranks' memory. A process alone on a CPU holds "
        "all tables whole.",
    )
    optimizer: Optimizer = Field(description="Runs inside the backward pass, row by row.")
    vocab: str | None = Field(
        None,
        description="Folder of Parquet files (index: int64, id) that name the rows of a table not made by `prepare`; "
        "used by export. Without it such rows are named by their index.",
    )

    @model_validator(mode="after")
    def _exact(self) -> Table:
        kind, optimizer = self.sharding, self.optimizer
        if kind == "column_wise" and optimizer.name == "rowwise_adagrad":
            raise ValueError("sharding: column_wise would give each part a mean of its own in rowwise_adagrad")
        if kind == "column_wise" and self.embedding_dim % 8:
            raise ValueError(f"sharding: column_wise cannot part {self.embedding_dim} columns into multiples of 4")
        if kind == "data_parallel" and optimizer.name == "adam":
            raise ValueError("sharding: data_parallel would move rows that no edge looked up with adam")
        if kind == "data_parallel" and self.data_type == "fp16":
            raise ValueError("sharding: data_parallel would round the gradients of an fp16 table")
        return self


class Embeddings(Section):
    """The embedding tables."""

    tables: list[Table] = Field(min_length=1, description="One entry a kind of node.")

    @model_validator(mode="after")
    def _consistent(self) -> Embeddings:
        names = [table.name for table in self.tables]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tables: names must be unique; repeated: {', '.join(repeated)}")
        if len({table.embedding_dim for table in self.tables}) > 1:
            dims = ", ".join(f"{table.name} {table.embedding_dim}" for table in self.tables)
            raise ValueError(f"tables: embedding_dim must be equal in all tables; got {dims}")
        return self


class Relation(Section):
    """One kind of edge."""

    name: str = Field(
        min_length=1,
        description="Unique. `*` stands for every value of the source's relation column that has no entry of its own.",
    )
    lhs: str = Field(description="Table of the edge's source.")
    rhs: str = Field(description="Table of the edge's target.")
    operator: Literal["identity", "translation", "diagonal", "complex_diagonal", "linear", "affine"] = Field(
        "translation",
        description="Acts on the lhs x: x, x + θ, θ ∘ x, θ ∘ x as complex numbers (real halves first), A·x, A·x + b.",
    )
    weight: float = Field(1.0, gt=0, description="(ours) Multiplies the weight of each of its edges in the loss.")


class Regularization(Section):
    """What large weights cost in training: λ·Σ|x|^power of both ends and of the relation of every positive edge."""

    tables: float = Field(0.0, ge=0, description="λ of the vectors of an edge's two ends.")
    relations: float = Field(0.0, ge=0, description="λ of the parameters of an edge's relation.")
    power: Literal[2, 3] = Field(
        3,
        description="2: the sum of squares; 3: of the cubes of absolute values, N3 (Lacroix et al., 2018). Under "
        "complex_diagonal a coordinate is a complex number.",
    )

    @model_validator(mode="after")
    def _some(self) -> Regularization:
        if not self.tables and not self.relations:
            raise ValueError("needs tables, relations or both above 0; leave it out for none")
        return self


class Model(Section):
    """Tables, relations, and how an edge is scored."""

    embeddings: Embeddings = Field(description="The tables.")
    relations: list[Relation] = Field(min_length=1, description="In the order of the ids in the edges' `rel` column.")
    translation_optimizer: Optimizer = Field(description="Optimizer of the relations' parameters.")
    comparator: Literal["dot", "cos", "l2", "squared_l2"] = Field(
        "dot",
        description="(ours) How two vectors are compared; the distances are negated, so that near ones score high.",
    )
    loss: Literal["bce", "softmax", "ranking"] = Field(
        "bce",
        description="(ours) `bce`: binary cross-entropy, all negatives of a positive together weighing as much as it; "
        "`softmax`: cross-entropy of the positive among its negatives; `ranking`: each negative must score lower than "
        "the positive by `margin`.",
    )
    margin: float = Field(0.1, gt=0, description="(ours) Of the ranking loss.")
    temperature: float = Field(1.0, gt=0, description="(ours) Scores are divided by it before the softmax.")
    reciprocal: bool = Field(
        False,
        description="(ours) Each relation gets an inverse of its own for queries of heads, (?, r, t). Needed where "
        "heads are ranked with the dot product, which cannot depend on the relation otherwise.",
    )
    init_std: float = Field(
        0.01, gt=0, description="(ours) Standard deviation of the tables' initial weights; relations start at zero."
    )

    regularization: Regularization | None = Field(
        None, description="(ours) Keeps weights small, so that few edges are not learned by heart; left out, nothing."
    )

    relation_prediction: float = Field(
        0.0,
        ge=0,
        description="(ours) Weight of a second objective: to tell an edge's relation from its two ends (Chen et al., "
        "2021). For graphs of many relations, with the dot product and one operator for all of them: translation, "
        "diagonal or complex_diagonal.",
    )

    @model_validator(mode="after")
    def _predicts_relations(self) -> Model:
        if not self.relation_prediction:
            return self
        operators = {relation.operator for relation in self.relations}
        if self.comparator != "dot":
            raise ValueError(f"relation_prediction: needs comparator: dot, not {self.comparator}")
        if len(operators) > 1 or not operators <= {"translation", "diagonal", "complex_diagonal"}:
            raise ValueError(
                "relation_prediction: needs the operator translation, diagonal or complex_diagonal for all relations; "
                f"there are {', '.join(sorted(operators))}"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        tables = {table.name for table in self.embeddings.tables}
        seen: set[str] = set()
        for position, relation in enumerate(self.relations):
            if relation.name in seen:
                raise ValueError(f"relations.{position}.name: {relation.name!r} is listed twice")
            seen.add(relation.name)
            for side in ("lhs", "rhs"):
                if (table := getattr(relation, side)) not in tables:
                    raise ValueError(
                        f"relations.{position}.{side}: no table named {table!r}; there are {', '.join(sorted(tables))}"
                    )
        for key, default, loss in (("temperature", 1.0, "softmax"), ("margin", 0.1, "ranking")):
            if self.loss != loss and getattr(self, key) != default:
                raise ValueError(f"{key}: has no effect on the {self.loss} loss; set loss: {loss} or leave it out")
        if self.translation_optimizer.name == "rowwise_adagrad":
            raise ValueError("translation_optimizer: rowwise_adagrad is for tables; use adagrad")
        if (
            self.regularization is not None
            and self.regularization.relations
            and all(relation.operator == "identity" for relation in self.relations)
        ):
            raise ValueError("regularization.relations: has no effect, the identity has no parameters; leave it out")
        return self

    @property
    def dim(self) -> int:
        return self.embeddings.tables[0].embedding_dim

    def table(self, name: str) -> Table:
        return next(table for table in self.embeddings.tables if table.name == name)


# --- data --------------------------------------------------------------------------------------------------------


class EdgeData(Section):
    """A set of edges."""

    data_root: str | None = Field(
        None,
        description="Glob of Parquet files with columns lhs, rel, rhs (vocabulary indices) and optionally weight; "
        "local or gs://. Left out: the split of that name which `prepare` wrote under the run root.",
    )
    limit: PositiveInt | None = Field(None, description="Use at most this many edges, in data set order.")
    offset: int = Field(0, ge=0, description="Skip this many edges first, in data set order.")


class TrainData(EdgeData):
    """Edges to learn from, and the negatives sampled beside each."""

    per_replica_batch_size: PositiveInt = Field(description="Positive edges a step and rank.")
    in_batch_negatives: int = Field(
        0, ge=0, description="Negatives a positive and side, drawn from the batch's edges of the same relation."
    )
    global_negatives: int = Field(
        0,
        ge=0,
        description="Negatives a positive and side, drawn from the relation's table, which must have as many rows: "
        "uniformly, unless `global_negatives_power` says otherwise.",
    )
    global_negatives_power: float = Field(
        0.0,
        ge=0,
        description="(ours) Global negatives are drawn in proportion to (number of training edges at the node)^this: "
        "0 uniformly, also nodes without an edge; 0.75 as word2vec draws words; 1 as often as edges have the node.",
    )
    logq_correction: bool = Field(
        False,
        description="(ours) Takes from each score the logarithm of how much likelier than uniformly the node is to be "
        "drawn, so that frequent nodes, which are drawn more often, are not learned to score low. For the losses "
        "softmax and bce.",
    )
    self_negatives: bool = Field(
        False,
        description="(ours) The node that is asked about is one more negative of its query, where both ends of the "
        "relation are in one table. With sampled negatives few queries meet their own node, whose vector is the most "
        "similar of all, and it is then ranked before the right ones. Not for edges from a node to itself.",
    )
    full_softmax: bool = Field(
        False,
        description="(ours) The negatives stand for all rows of their table, and weigh as much as these would, so that "
        "the softmax over the table is estimated. Without, a likely answer soon wins against the few that are drawn, "
        "and has no more to learn. For the loss softmax.",
    )
    chunk_size: PositiveInt | None = Field(
        None,
        description="(ours) Positives that share their negatives, so that scores are one matrix product; at most the "
        "batch. Default: 1000, or the batch where that is smaller.",
    )
    shuffle_buffer: int = Field(
        4_194_304,
        gt=0,
        lt=2**31,
        description="(ours) Edges that are shuffled in memory at once, some 28 bytes each; row groups are shuffled "
        "before. A split with no more edges is shuffled as a whole.",
    )
    remainder: Literal["short", "drop"] = Field(
        "short",
        description="(ours) What becomes of the edges left at the end of an epoch that do not fill a step of all "
        "ranks: a `short` last step, or `drop`, which leaves them out of this epoch. Ranks take as many steps either "
        "way.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainData:
        if self.in_batch_negatives + self.global_negatives == 0:
            raise ValueError("in_batch_negatives and global_negatives are both 0: nothing to tell the edges from")
        if self.chunk_size is not None and self.chunk_size > self.per_replica_batch_size:
            raise ValueError(
                f"chunk_size: {self.chunk_size} is more than the {self.per_replica_batch_size} edges of "
                "per_replica_batch_size; lower it or leave it out"
            )
        if self.global_negatives_power and not self.global_negatives:
            raise ValueError("global_negatives_power: has no effect without global_negatives; leave it out")
        if self.logq_correction and not (self.in_batch_negatives or self.global_negatives_power):
            raise ValueError(
                "logq_correction: has no effect on uniform negatives; leave it out, or set in_batch_negatives or "
                "global_negatives_power"
            )
        return self

    @property
    def positives_a_chunk(self) -> int:
        """The most positives that share their negatives."""
        return self.chunk_size or min(1000, self.per_replica_batch_size)

    @property
    def needs_frequencies(self) -> bool:
        """Whether the negatives depend on how often nodes occur in training edges."""
        return self.logq_correction or self.global_negatives_power > 0


# --- evaluation --------------------------------------------------------------------------------------------------


class Gate(Section):
    """Bounds of one metric."""

    min: float | None = Field(None, description="Smallest value that passes.")
    max: float | None = Field(None, description="Largest value that passes.")
    max_drop: float | None = Field(
        None, ge=0, description="By how much it may be below that of `evaluation.previous`; 0: not at all."
    )

    @model_validator(mode="after")
    def _some_bound(self) -> Gate:
        if self.min is None and self.max is None and self.max_drop is None:
            raise ValueError("needs min, max or max_drop")
        return self


class Evaluation(Section):
    """Filtered ranking of held-out edges, exact or among sampled candidates."""

    split: Literal["test", "validation"] = Field("test", description="Which held-out edges are ranked.")
    hits_at: list[PositiveInt] = Field([1, 3, 10], min_length=1, description="The k of hits@k.")
    recall_at: list[PositiveInt] = Field([10, 20, 50], min_length=1, description="The k of recall@k and ndcg@k.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Vectors are rounded to bf16 before they are multiplied, or not; products are summed in fp32.",
    )
    memory_limit: str = Field(
        "4GB",
        pattern=sizes.PATTERN,
        description="What evaluation may hold beside the libraries: half of it for held-out edges, a quarter for "
        "candidates, a quarter for queries that are ranked at once. A table that fits into its quarter is read once, "
        "a larger one is streamed for each chunk of queries.",
    )
    candidates: PositiveInt | None = Field(
        None,
        description="Ranks each answer among so many nodes drawn from its table, instead of all of them: for tables "
        "that are too large to be ranked exactly. The names of the metrics then begin with `sampled_`.",
    )
    candidates_power: float = Field(
        0.0,
        ge=0,
        description="Candidates are drawn in proportion to (number of training edges at the node)^this; 0 uniformly.",
    )
    degree_buckets: list[PositiveInt] = Field(
        [1, 10, 100, 1000],
        min_length=1,
        description="Metrics are also given by the number of training edges of the query's node and of the answer, in "
        "buckets that begin at these.",
    )
    bootstrap: int = Field(300, ge=20, description="Resamples of the 95 % intervals.")
    previous: str | None = Field(
        None,
        description="Run root of an earlier version, whose newest checkpoint ranks the same edges for comparison.",
    )
    seed: int = Field(0, ge=0, description="Seeds the random baseline, sampled candidates and the bootstrap.")
    gates: dict[str, Gate] = Field(
        default_factory=dict,
        description="Bounds that must hold before export, by metric: `test.all.mrr: {min: 0.1}`, "
        "`test.follows.hits@10`, `test.degrees.query.0.mrr`.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Evaluation:
        if self.candidates_power and self.candidates is None:
            raise ValueError("candidates_power: has no effect without candidates; leave it out")
        if sorted(set(self.degree_buckets)) != self.degree_buckets:
            raise ValueError(f"degree_buckets: {self.degree_buckets} must ascend")
        for path, gate in self.gates.items():
            if gate.max_drop is not None and self.previous is None:
                raise ValueError(f"gates.{path}.max_drop: needs evaluation.previous, the run to compare with")
        return self


class Config(Section):
    """A run."""

    runtime: Runtime = Field(default_factory=Runtime, description="How the arithmetic runs.")
    prepare: Prepare | None = Field(None, description="(ours) From raw interactions to vocabulary and edges.")
    model: Model = Field(description="What is learned.")
    training: Training = Field(default_factory=Training, description="How long, and what is kept.")
    train_data: TrainData = Field(description="Edges to learn from.")
    validation_data: TrainData | None = Field(
        None,
        description="Edges of the validation loss; left out, the split that `prepare` made, with train_data's batch.",
    )
    test_data: EdgeData | None = Field(
        None, description="(ours) Edges to evaluate on; left out, the split of `prepare`."
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="(ours) How the result is measured.")
    export: Export = Field(default_factory=Export, description="(ours) How the result is written.")

    @model_validator(mode="after")
    def _prepared_or_given(self) -> Config:
        if self.prepare is not None:
            for position, table in enumerate(self.model.embeddings.tables):
                if table.vocab is not None:
                    raise ValueError(
                        f"model.embeddings.tables.{position}.vocab: has no effect where prepare makes the vocabulary; "
                        "leave it out"
                    )
            return self
        if self.train_data.data_root is None:
            raise ValueError("train_data.data_root: is needed where there is no prepare section")
        for position, table in enumerate(self.model.embeddings.tables):
            if table.num_embeddings is None:
                key = f"model.embeddings.tables.{position}.num_embeddings"
                raise ValueError(f"{key}: is needed where there is no prepare section")
        if any(relation.name == "*" for relation in self.model.relations):
            raise ValueError("model.relations: `*` needs a prepare section to find the relations")
        return self

    @model_validator(mode="after")
    def _in_order(self) -> Config:
        data = self.validation_data
        if data is not None and data.shuffle_buffer != TrainData.model_fields["shuffle_buffer"].default:
            raise ValueError("validation_data.shuffle_buffer: has no effect, these edges stay in order; leave it out")
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        tables = [table.name for table in self.model.embeddings.tables]
        relations = [relation.name for relation in self.model.relations]
        _check_names("export.tables", self.export.tables or [], "table", tables)
        if self.prepare is not None:
            _check_names("prepare.min_degree", self.prepare.min_degree, "table", tables)
            if "*" not in relations:
                _check_names("prepare.sampling", self.prepare.sampling, "relation", relations)
        return self

    @model_validator(mode="after")
    def _asks_own_table(self) -> Config:
        for section, data in (("train_data", self.train_data), ("validation_data", self.validation_data)):
            within = any(relation.lhs == relation.rhs for relation in self.model.relations)
            if data is not None and data.self_negatives and not within:
                raise ValueError(
                    f"{section}.self_negatives: has no effect, no relation has both ends in one table; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _exportable(self) -> Config:
        export, tables = self.export, [table.name for table in self.model.embeddings.tables]
        export.check_dim(self.model.dim)
        if export.faiss is not None:
            _check_names("export.faiss.tables", export.faiss.tables, "table", export.tables or tables)
        export.check_folders(export.tables or tables)
        if export.query_side is None:
            return self
        relations = [relation.name for relation in self.model.relations]
        if "*" not in relations:
            _check_names("export.query_side", [export.query_side], "relation", relations)
        comparator = self.model.comparator
        if comparator not in ("dot", "cos"):
            raise ValueError(
                f"export.query_side: the scores of the comparator {comparator} are distances, not dot products of a "
                "query with a node; leave it out, and apply the operator of relations.parquet to the lhs instead"
            )
        if export.normalize != (comparator == "cos"):
            raise ValueError(
                f"export.query_side: dot products are the scores of the comparator {comparator} only with "
                f"export.normalize: {str(comparator == 'cos').lower()}"
            )
        return self

    @model_validator(mode="after")
    def _corrects_odds(self) -> Config:
        for section, data in (("train_data", self.train_data), ("validation_data", self.validation_data)):
            if data is not None and data.full_softmax and self.model.loss != "softmax":
                raise ValueError(
                    f"{section}.full_softmax: has no effect on the {self.model.loss} loss; set model.loss: softmax or "
                    "leave it out"
                )
            if data is not None and data.logq_correction and self.model.loss == "ranking":
                raise ValueError(
                    f"{section}.logq_correction: has no meaning for the ranking loss, whose scores are not logarithms "
                    "of odds; leave it out or set model.loss to softmax or bce"
                )
        return self


def _check_names(key: str, given: Iterable[str], kind: str, known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{key}: no {kind} named {name!r}; there are {', '.join(sorted(known))}")
