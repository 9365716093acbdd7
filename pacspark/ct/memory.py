"""Arrays whose memory goes back to the system piece by piece, where the system can take it."""

import math
import mmap
from typing import TYPE_CHECKING

import numpy as np

from pacspark.errors import MemoryBudgetError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Pages:
    """A float32 array of zeros in pages of its own.

    Parameters
    ----------
    shape
        Of the array.
    small
        In small pages: it takes memory as it is filled, even out of order. Huge pages, which are
        faster to work in, come whole at their first byte.

    Attributes
    ----------
    array
        The array; it lives as long as anything refers to it.
    """

    def __init__(self, shape: tuple[int, ...], *, small: bool = False) -> None:
        size_bytes = 4 * math.prod(shape)
        # private: shared pages would not go back
        private = hasattr(mmap, "MAP_ANONYMOUS")
        flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if private else {}
        try:
            self._memory = mmap.mmap(-1, size_bytes, **flags)
        except OSError as error:
            message = (
                f"memory: expected {size_bytes / 2**30:.1f} GiB for {' x '.join(map(str, shape))} "
                f"voxels, found less ({error.strerror}); make fewer or larger voxels, or slabs"
            )
            raise MemoryBudgetError(message) from error
        advice = "MADV_NOHUGEPAGE" if small else "MADV_HUGEPAGE"
        if hasattr(mmap, advice):
            self._memory.madvise(getattr(mmap, advice))
        self.array: NDArray[np.float32] = np.frombuffer(self._memory, np.float32).reshape(shape)

    def give_back(self, start: int, stop: int) -> None:
        """Forget what the first axis holds between two indices; it reads as zeros from then on."""
        row_bytes = self.array[0].nbytes
        pages = (-(-start * row_bytes // mmap.PAGESIZE), stop * row_bytes // mmap.PAGESIZE)
        first, last = (page * mmap.PAGESIZE for page in pages)
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, first, last - first)
