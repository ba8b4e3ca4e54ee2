"""The model behind the generated network: the rate at which each user interacts with each node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twhin_core.config.generate import Generate

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The k-th node of a table gets interactions in proportion to k^-exponent, so degrees have a power-law tail.
ACTIVITY_EXPONENT = 0.4
POPULARITY_EXPONENT = 0.5
POPULARITY_NOISE = 0.4  # standard deviation of the log of a node's popularity between relations


@dataclass(frozen=True)
class Kind:
    """A relation from users to the table `rhs`.

    `share`: its share of all interactions; `within`: the share of its interactions within the user's community.
    """

    name: str
    rhs: str
    share: float
    within: float


KINDS = (
    Kind("follow", "user", share=0.3, within=0.9),
    Kind("fav", "tweet", share=0.4, within=0.9),
    Kind("reply", "tweet", share=0.1, within=0.8),
    Kind("retweet", "tweet", share=0.2, within=0.95),
)


@dataclass(frozen=True)
class Planted:
    """The interactions of one relation. User s interacts with node t at the rate

        activity[s] · popularity[t] · (within · interest[s, t] / popularity of t's community + 1 - within)

    and never with itself, where interest[s, t] is the share of t's community among the user's interests.
    """

    kind: Kind
    activity: Floats
    """[users], sums to 1."""
    interests: Ints
    """[users, interests], communities, possibly repeated. A user belongs to the first, in which others follow it."""
    rhs_community: Ints
    """[nodes]"""
    popularity: Floats
    """[nodes], sums to 1."""
    of_community: Floats
    """[communities], the sum of their nodes' popularity."""

    def rates(self, lhs: Ints, rhs: Ints) -> Floats:
        """The rate of each pair; `lhs` and `rhs` broadcast."""
        community = self.rhs_community[rhs]
        interest = (self.interests[lhs] == community[..., None]).mean(-1)
        factor = interest * (self.kind.within / self.of_community[community]) + (1 - self.kind.within)
        rates = self.activity[lhs] * (self.popularity[rhs] * factor)
        return np.where(lhs == rhs, 0.0, rates) if self.kind.rhs == "user" else rates

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Draws `count` interactions. Returns the lhs and rhs of the distinct pairs, without self-loops."""
        lhs = rng.choice(len(self.activity), count, p=self.activity)
        # Inverse transform sampling over the nodes sorted by community, so that each community is a range of the
        # cumulative popularity.
        order = np.argsort(self.rhs_community, kind="stable")
        line = np.cumsum(self.popularity[order])
        stops = np.cumsum(np.bincount(self.rhs_community))
        bounds = np.concatenate([[0.0], line[stops - 1]])
        inside = rng.random(count) < self.kind.within
        community = self.interests[lhs, self._drawn_interests(count, rng)]
        low = np.where(inside, bounds[community], 0.0)
        high = np.where(inside, bounds[community + 1], line[-1])
        point = low + (high - low) * rng.random(count)
        rhs = order[np.minimum(np.searchsorted(line, point, side="right"), len(order) - 1)]
        pairs = np.unique(lhs * len(order) + rhs)
        lhs, rhs = pairs // len(order), pairs % len(order)
        others = lhs != rhs if self.kind.rhs == "user" else np.full(len(lhs), True)
        return lhs[others], rhs[others]

    def _drawn_interests(self, count: int, rng: np.random.Generator) -> Ints | int:
        interests = self.interests.shape[1]
        return 0 if interests == 1 else rng.integers(interests, size=count)  # a network without them stays as it was


def plant(settings: Generate, rng: np.random.Generator) -> list[Planted]:
    """The relations of a network. They share activity, communities and the base of popularity."""
    sizes = {"user": settings.users, "tweet": settings.tweets}
    activity = _power_law(settings.users, ACTIVITY_EXPONENT, rng)
    communities = {table: rng.permutation(size) % settings.communities for table, size in sizes.items()}
    base = {table: _power_law(size, POPULARITY_EXPONENT, rng) for table, size in sizes.items()}
    popularities = []
    for kind in KINDS:
        popularity = base[kind.rhs] * np.exp(POPULARITY_NOISE * rng.standard_normal(sizes[kind.rhs]))
        popularities.append(popularity / popularity.sum())
    others = [rng.permutation(settings.users) % settings.communities for _ in range(settings.interests - 1)]
    interests = np.stack([communities["user"], *others], 1)
    relations = []
    for kind, popularity in zip(KINDS, popularities, strict=True):
        of_community: Floats = np.bincount(communities[kind.rhs], popularity).astype(np.float64)
        relations.append(Planted(kind, activity, interests, communities[kind.rhs], popularity, of_community))
    return relations


def _power_law(size: int, exponent: float, rng: np.random.Generator) -> Floats:
    weights = (1.0 + rng.permutation(size)) ** -exponent
    shares: Floats = weights / weights.sum()
    return shares
