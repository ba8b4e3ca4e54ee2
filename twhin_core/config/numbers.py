"""The ranges of the config's numbers and texts.

Each bound is far beyond sensible values and within what the code can hold, so that a number of too many digits is
refused in one line instead of overflowing, exhausting the memory or running forever.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from twhin_core import sizes, storage
from twhin_core.errors import UserError

INT64 = 2**63

Count = Annotated[int, Field(gt=0, le=10**15)]
"""Of rows, edges or steps."""
CountOrNone = Annotated[int, Field(ge=0, le=10**15)]
"""A count that may be zero."""
BatchSize = Annotated[int, Field(gt=0, le=10**8)]
"""Of edges in memory at once."""
Negatives = Annotated[int, Field(ge=0, le=10**6)]
"""Per positive and side: columns of a score matrix."""
Few = Annotated[int, Field(gt=0, le=10**6)]
"""Of what is listed, repeated or held per row: ranks, rounds, resamples, links."""
Seconds = Annotated[int, Field(gt=0, le=10**8)]
Seed = Annotated[int, Field(ge=0, lt=INT64)]
Time = Annotated[int, Field(ge=-INT64, lt=INT64)]
"""In the unit of the data."""

Rate = Annotated[float, Field(ge=1e-12, le=1e6)]
"""A learning rate."""
Scale = Annotated[float, Field(ge=1e-9, le=1e6)]
"""A positive factor or width. Its inverse fits into fp32 too."""
Strength = Annotated[float, Field(ge=0, le=1e6)]
"""A factor that is off at 0."""
PriorWeight = Annotated[float, Field(ge=0, le=10)]
"""Of log p in a logit."""
Exponent = Annotated[float, Field(ge=0, le=10)]
"""Of a degree: 10^15 to the tenth fits into fp64."""
Epsilon = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Drop = Annotated[float, Field(ge=0, le=1e15)]
"""Of a metric."""
Figure = Annotated[float, Field(ge=-1e15, le=1e15)]
"""A metric, which may be a number of edges."""

AnyLocation = Annotated[str, Field(min_length=1, max_length=4096)]
"""A path or URL of any system, such as HDFS, or of a server."""


def _reachable(url: str) -> str:
    try:
        storage.is_remote(url)
    except UserError as error:
        raise ValueError(str(error)) from None
    return url


Location = Annotated[AnyLocation, AfterValidator(_reachable)]
"""A path, or a URL of an object store."""
Name = Annotated[str, Field(min_length=1, max_length=1000)]
"""Of a column or relation."""


def _in_range(size: str) -> str:
    if not 1000 <= sizes.in_bytes(size) <= 2**50:
        raise ValueError("must be between 1KB and 1024TiB")
    return size


Memory = Annotated[str, Field(pattern=sizes.PATTERN, max_length=30), AfterValidator(_in_range)]
"""An amount of memory, such as `4GB`."""

SECONDS = {"h": 3600, "d": 86_400}


def in_seconds(duration: int | str) -> int:
    """Parses `12h` or `90d`; an integer is in the unit of the data."""
    return duration if isinstance(duration, int) else int(duration[:-1]) * SECONDS[duration[-1]]


Duration = (
    Annotated[int, Field(gt=0, lt=INT64)] | Annotated[str, Field(pattern=r"^[1-9]\d{0,6}[hd]$", description="`12h`")]
)
"""Hours or days, or an integer in the unit of the data where times are integers."""
