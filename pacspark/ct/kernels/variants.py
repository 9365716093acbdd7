"""Which variant of the backprojection this CPU runs, chosen once."""

import os
from functools import cache

from llvmlite import binding

from pacspark.ct.kernels.backproject import (
    backproject_avx2,
    backproject_avx512,
    backproject_portable,
)

VARIANTS = {
    "avx512": (backproject_avx512, ("avx512f",)),
    "avx2": (backproject_avx2, ("avx2", "fma")),
    "portable": (backproject_portable, ()),
}
"""Fastest first: the kernel, and the CPU features that it needs."""

ENVIRONMENT_VARIABLE = "PACSPARK_KERNEL"


def available_variants() -> tuple[str, ...]:
    """Return the names of the variants that this CPU can run, fastest first."""
    features = binding.get_host_cpu_features()
    return tuple(
        name
        for name, (_, needed) in VARIANTS.items()
        if all(features.get(feature, False) for feature in needed)
    )


@cache
def default_variant() -> str:
    """Return the variant that `PACSPARK_KERNEL` names, else the fastest that this CPU can run."""
    wanted = os.environ.get(ENVIRONMENT_VARIABLE, "")
    available = available_variants()
    if wanted and wanted not in available:
        message = (
            f"{ENVIRONMENT_VARIABLE}: expected one of {', '.join(available)}, found {wanted!r}"
        )
        raise ValueError(message)
    return wanted or available[0]
