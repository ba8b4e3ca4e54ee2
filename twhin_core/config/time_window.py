"""The section `prepare.time_window`."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from twhin_core.config.numbers import Time
from twhin_core.config.section import Section


def _as_text(value: Any) -> Any:
    """YAML parses unquoted dates; the config keeps them as text, which JSON can represent."""
    return value.isoformat() if isinstance(value, datetime.date) else value


Bound = Annotated[Time | str | None, BeforeValidator(_as_text)]


class TimeWindow(Section):
    """Keeps the edges with start ≤ time < end."""

    start: Bound = Field(
        None, description="Integer if times are integers, else an ISO date or date and time, in UTC by default."
    )
    end: Bound = Field(None, description="Like `start`; the first time to leave out.")

    @model_validator(mode="after")
    def _check_bounds(self) -> TimeWindow:
        for name in ("start", "end"):
            if isinstance(bound := getattr(self, name), str):
                try:
                    datetime.datetime.fromisoformat(bound)
                except ValueError:
                    raise ValueError(f"{name}: neither an integer nor an ISO date or time: {bound!r}") from None
        kinds = {type(bound) for bound in (self.start, self.end) if bound is not None}
        if not kinds:
            raise ValueError("needs start, end or both")
        if len(kinds) > 1:
            raise ValueError("start and end must both be integers or both be dates")
        start, end = self.bounds
        if start is not None and end is not None and start >= end:
            raise ValueError("end: must be later than start")
        return self

    @property
    def of_integers(self) -> bool:
        """Whether the bounds are integers rather than dates."""
        return any(isinstance(bound, int) for bound in (self.start, self.end))

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        """Start and end as integers: as given, or in seconds since 1970, rounded up."""
        return _to_integer(self.start), _to_integer(self.end)


def _to_integer(bound: int | str | None) -> int | None:
    if not isinstance(bound, str):
        return bound
    time = datetime.datetime.fromisoformat(bound)
    since = time.replace(tzinfo=time.tzinfo or datetime.UTC) - datetime.datetime.fromtimestamp(0, datetime.UTC)
    return -(-since // datetime.timedelta(seconds=1))
