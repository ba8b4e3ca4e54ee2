"""The weights of relations with `model.target`, so that the others help the target and do not cost it.

Together, the others weigh at most a tenth of what the target's edges do. Below this limit, weights are found on the
way. Now and then, validation edges of the target say which way vectors should move: the weight of a relation whose own
loss falls along that way rises, that of one whose loss rises falls. All start at the limit.
"""

from __future__ import annotations

import numpy as np
import torch

from twhin_core.config import Config
from twhin_core.data.files import EdgeFiles
from twhin_core.data.frequencies import Frequencies
from twhin_core.distributed.ranks import Ranks
from twhin_core.model.alignment import falls_along
from twhin_core.model.batch import Batch
from twhin_core.model.batch_maker import BatchMaker
from twhin_core.model.twhin import Twhin
from twhin_core.schema import Schema
from twhin_core.training.compared_edges import choose, number_of_target

ADJUSTMENTS = 50
"""How often the weights are adjusted during training."""
CHANGE = 0.1
"""What an adjustment adds to a weight or takes from it, relative to the limit."""
OTHERS = 0.1
"""The most that the edges of all other relations together weigh, relative to the target's."""

MOST_LISTED = 10
"""Relations whose weights are logged at the end."""

STREAM = 2
"""Separates the negatives from those of training and validation."""


class RelationWeights:
    """Adjusts the weights of a model. They are part of its state, so that a resumed run continues with them."""

    def __init__(
        self,
        config: Config,
        schema: Schema,
        train: EdgeFiles,
        validation: EdgeFiles,
        frequencies: Frequencies | None,
        last_step: int,
        ranks: Ranks,
    ) -> None:
        """Reads all training edges once. A collective.

        Raises:
            UserError: the graph has no such relation, or the target has no validation or no training edges.
        """
        self._target = number_of_target(config.model, schema)
        self._edges, counts = choose(self._target, schema, train, validation, ranks)
        others = int(counts.sum()) - int(counts[self._target])
        self.limit = min(1.0, OTHERS * int(counts[self._target]) / max(others, 1))
        """The largest weight of another relation."""
        self._maker = BatchMaker(schema, config.model, config.train_data, frequencies)
        self._spherical = {table.name for table in config.model.embeddings.tables if table.is_spherical}
        self._names, self._ranks, self._seed = schema.names, ranks, config.training.seed
        self._every = max(1, last_step // ADJUSTMENTS)

    def is_due(self, step: int) -> bool:
        """Whether to adjust after `step`."""
        return step % self._every == 0

    def start(self, twhin: Twhin) -> None:
        """Sets the weights that training starts with."""
        self._set(twhin, [self.limit] * len(self._names))

    def _set(self, twhin: Twhin, weights: list[float]) -> None:
        assert twhin.relation_weights is not None
        twhin.relation_weights.copy_(torch.tensor(weights))
        twhin.relation_weights[self._target] = 1.0

    def drawn(self, step: int) -> Batch:
        """The edges that are compared, with negatives drawn for `step`."""
        entropy = np.random.SeedSequence([self._seed, STREAM, step])
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
        return self._maker.make(self._edges, len(self._edges), generator).to(self._ranks.device)

    def adjust(self, twhin: Twhin, step: int) -> dict[str, float]:
        """Changes the weights after `step`, and returns them as `found`. A collective."""
        assert twhin.relation_weights is not None
        falls = falls_along(twhin, self.drawn(step), self._target, self._spherical)
        changed = (twhin.relation_weights + CHANGE * self.limit * falls.sign()).clamp(0, self.limit)
        self._set(twhin, self._ranks.of_first(changed.tolist))  # ranks may round differently
        return self.found(twhin)

    def found(self, twhin: Twhin) -> dict[str, float]:
        """The weights of the other relations, by name."""
        assert twhin.relation_weights is not None
        weights = zip(self._names, twhin.relation_weights.tolist(), strict=True)
        return {name: round(weight, 4) for rel, (name, weight) in enumerate(weights) if rel != self._target}

    def listed(self, twhin: Twhin) -> str:
        """The largest of them, and how many more there are."""
        found = sorted(self.found(twhin).items(), key=lambda one: -one[1])
        more = f" and {len(found) - MOST_LISTED:,} more" if len(found) > MOST_LISTED else ""
        return ", ".join(f"{name} {weight:g}" for name, weight in found[:MOST_LISTED]) + more
