"""Several ranks count what one does."""

from __future__ import annotations

import tempfile

import numpy as np
import numpy.typing as npt
import pytest

from tests.data.reading import write_edges
from tests.data.test_frequencies import SCHEMA, make_edges
from tests.ranks import run_ranks
from twhin_core.data.frequencies import count_ends
from twhin_core.distributed.ranks import process_group
from twhin_core.training.frequencies import count_together

Counts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def counted(chunks: list[int]) -> list[Counts]:
    """What this rank is told, for each number of edges a chunk."""
    results = []
    with process_group() as ranks:
        for edges_per_chunk in chunks:
            with tempfile.TemporaryDirectory() as folder:
                files = write_edges(make_edges(500), SCHEMA, folder, edges_per_chunk)
                found = count_together(files, SCHEMA, ranks)
            results.append((found.key, found.count))
    return results


@pytest.mark.parametrize("ranks", [1, 2])
def test_all_ranks_have_the_counts_of_all_edges(ranks: int) -> None:
    chunks = [90, 1000]  # of one chunk, the second rank has nothing to count
    expected = count_ends([make_edges(500)], SCHEMA)
    for results in run_ranks(ranks, counted, chunks) if ranks > 1 else [counted(chunks)]:
        for key, count in results:
            np.testing.assert_array_equal(key, expected.key)
            np.testing.assert_array_equal(count, expected.count)
