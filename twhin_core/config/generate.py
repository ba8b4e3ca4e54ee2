"""The section `prepare.generate`: a generated network in place of raw files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from twhin_core.config.numbers import Few, Seed
from twhin_core.config.section import Section

MOST_GENERATED = 10**8


class Generate(Section):
    """A generated Twitter-like network (see `twhin generate`) for trying things out."""

    users: Few = Field(8000, description="Nodes in the table `user`.")
    tweets: Few = Field(12000, description="Nodes in the table `tweet`.")
    communities: Few = Field(100, description="Planted communities, which mostly interact among themselves.")
    interests: Annotated[int, Field(gt=0, le=100)] = Field(
        1,
        description="Communities that a user interacts with, drawn at random. It belongs to the first, in "
        "which others follow it.",
    )
    edges_per_user: Few = Field(
        48, description="Mean interactions per user over all relations; repeated ones become one edge."
    )
    seed: Seed = Field(0, description="Seeds the network.")

    @model_validator(mode="after")
    def _check_communities(self) -> Generate:
        if self.communities > min(self.users, self.tweets):
            raise ValueError("communities: must not exceed the number of users or tweets")
        if self.users * self.edges_per_user > MOST_GENERATED:
            raise ValueError(
                f"edges_per_user: {self.edges_per_user:,} for {self.users:,} users are more than {MOST_GENERATED:,} "
                "interactions, which are generated in memory; lower either"
            )
        return self
