# mypy: allow-untyped-calls
"""Which variant of the backprojection this CPU runs."""

import os
from functools import cache

from numba.core import codegen, config

from pacspark.ct.kernels.backproject import (
    backproject_avx2,
    backproject_avx512,
    backproject_portable,
)

VARIANTS = {
    "avx512": (backproject_avx512, {"avx512f"}),
    "avx2": (backproject_avx2, {"avx2", "fma"}),
    "portable": (backproject_portable, set[str]()),
}
"""Fastest first: the kernel, and the CPU features that it needs."""

ENVIRONMENT_VARIABLE = "PACSPARK_KERNEL"


@cache
def available_variants() -> tuple[str, ...]:
    """Return the names of the variants that run here, fastest first.

    What counts is the CPU that Numba compiles for, which its own environment variables can make
    smaller than the one it runs on: an instruction that the compiler may not use ends the process.
    """
    features: str | None = getattr(config, "CPU_FEATURES", None)
    if features is None:
        features = str(codegen.get_host_cpu_features())
    present = {name.removeprefix("+") for name in features.split(",") if name.startswith("+")}
    return tuple(name for name, (_, needed) in VARIANTS.items() if needed <= present)


def choose_variant(wanted: str | None = None) -> str:
    """Return the wanted variant, else the one that `PACSPARK_KERNEL` names, else the fastest.

    Raises
    ------
    ValueError
        When the wanted one does not exist or does not run here.
    """
    available = available_variants()
    source = "variant" if wanted else ENVIRONMENT_VARIABLE
    wanted = wanted or os.environ.get(ENVIRONMENT_VARIABLE) or available[0]
    if wanted not in available:
        message = f"{source}: expected one of {', '.join(available)}, found {wanted!r}"
        raise ValueError(message)
    return wanted
