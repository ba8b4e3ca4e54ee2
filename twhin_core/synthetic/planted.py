"""The model behind the generated network: who interacts with what, at which rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twhin_core.config.prepare import Generate

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The k-th of a table's nodes gets interactions in proportion to k^-exponent: degrees have a power-law tail.
ACTIVITY_EXPONENT = 0.4
POPULARITY_EXPONENT = 0.5
TASTE = 0.4  # standard deviation of the logarithm by which a node's popularity differs from relation to relation


@dataclass(frozen=True)
class Kind:
    """A relation from users to the table `rhs`.

    `share`: its part of all interactions; `within`: the part of its interactions that stay in the user's community.
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
    """The interactions of one relation. User s has one with node t at the rate

        activity[s] · popularity[t] · (within · [s and t share a community] / popularity of t's community + 1 - within)

    and none with themselves.
    """

    kind: Kind
    activity: Floats
    """[users], sums to 1."""
    lhs_community: Ints
    """[users]"""
    rhs_community: Ints
    """[nodes]"""
    popularity: Floats
    """[nodes], sums to 1."""
    of_community: Floats
    """[communities], the sum of its nodes' popularity."""

    def rates(self, lhs: Ints, rhs: Ints) -> Floats:
        """The rate of each pair; `lhs` and `rhs` broadcast. The more, the likelier is the edge."""
        community = self.rhs_community[rhs]
        inside = self.lhs_community[lhs] == community
        factor = inside * (self.kind.within / self.of_community[community]) + (1 - self.kind.within)
        rates = self.activity[lhs] * (self.popularity[rhs] * factor)
        return np.where(lhs == rhs, 0.0, rates) if self.kind.rhs == "user" else rates

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """lhs and rhs of the distinct pairs among `count` interactions, less those of users with themselves."""
        lhs = rng.choice(len(self.activity), count, p=self.activity)
        # Nodes lie side by side on a line, a community next to another, each as long as it is popular; a random point
        # of the line, or of the community's stretch of it, picks a node.
        order = np.argsort(self.rhs_community, kind="stable")
        line = np.cumsum(self.popularity[order])
        stops = np.cumsum(np.bincount(self.rhs_community))
        bounds = np.concatenate([[0.0], line[stops - 1]])
        inside = rng.random(count) < self.kind.within
        community = self.lhs_community[lhs]
        low = np.where(inside, bounds[community], 0.0)
        high = np.where(inside, bounds[community + 1], line[-1])
        point = low + (high - low) * rng.random(count)
        rhs = order[np.minimum(np.searchsorted(line, point, side="right"), len(order) - 1)]
        pairs = np.unique(lhs * len(order) + rhs)
        lhs, rhs = pairs // len(order), pairs % len(order)
        others = lhs != rhs if self.kind.rhs == "user" else np.full(len(lhs), True)
        return lhs[others], rhs[others]


def plant(settings: Generate, rng: np.random.Generator) -> list[Planted]:
    """A network's relations. Activity, communities and the base of popularity are the same in all of them."""
    sizes = {"user": settings.users, "tweet": settings.tweets}
    activity = _power_law(settings.users, ACTIVITY_EXPONENT, rng)
    communities = {table: rng.permutation(size) % settings.communities for table, size in sizes.items()}
    base = {table: _power_law(size, POPULARITY_EXPONENT, rng) for table, size in sizes.items()}
    relations = []
    for kind in KINDS:
        popularity = base[kind.rhs] * np.exp(TASTE * rng.standard_normal(sizes[kind.rhs]))
        popularity /= popularity.sum()
        of_community: Floats = np.bincount(communities[kind.rhs], popularity).astype(np.float64)
        relations.append(Planted(kind, activity, communities["user"], communities[kind.rhs], popularity, of_community))
    return relations


def _power_law(size: int, exponent: float, rng: np.random.Generator) -> Floats:
    weights = (1.0 + rng.permutation(size)) ** -exponent
    shares: Floats = weights / weights.sum()
    return shares
