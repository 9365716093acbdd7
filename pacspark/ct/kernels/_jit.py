"""Every JIT flag, in one place.

``fastmath`` leaves out NaN and infinity: callers check their input.
"""

from collections.abc import Callable
from typing import Any

import numba

FLAGS: dict[str, Any] = {
    "nogil": True,
    "boundscheck": False,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}


def _compiled(function: Callable[..., Any], **flags: Any) -> Any:
    try:
        # compiled code is kept on disk, so that the second process starts at once
        return numba.njit(cache=True, **flags, **FLAGS)(function)
    except RuntimeError:
        # neither the package's folder nor the user's can be written, as on some clusters
        return numba.njit(**flags, **FLAGS)(function)


def jit(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call."""
    return _compiled(function)


def parallel_jit(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call; its ``prange`` loops run on all of Numba's threads."""
    return _compiled(function, parallel=True)
