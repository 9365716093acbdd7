"""How many of Numba's threads a kernel may use."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba


def most_threads() -> int:
    """Return how many threads Numba has here."""
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


@contextmanager
def at_most(n_threads: int) -> Iterator[None]:
    """Run kernels on so many threads at most, and leave Numba's own setting as it was."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, most_threads()))
    try:
        yield
    finally:
        numba.set_num_threads(before)
