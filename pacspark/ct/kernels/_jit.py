"""Every JIT flag, in one place.

Compiled code is kept on disk, so that the second process starts at once. ``fastmath`` leaves out
NaN and infinity: callers check their input.
"""

import numba

FLAGS = {
    "cache": True,
    "nogil": True,
    "boundscheck": False,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}

jit = numba.njit(**FLAGS)
parallel_jit = numba.njit(parallel=True, **FLAGS)
