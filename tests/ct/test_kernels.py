"""Which variant runs, and that compiled kernels are found by the next process."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from pacspark.ct.fdk import SlabReconstruction
from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    ParallelBeamGeometry,
    VolumeGrid,
)
from pacspark.ct.kernels._jit import jit
from pacspark.ct.kernels.backproject import (
    LONGEST_STEP,
    PADDING,
    RUN,
    fine,
    line_1,
    line_8,
    line_16,
    runs_between,
)
from pacspark.ct.kernels.variants import VARIANTS, available_variants, choose_variant
from pacspark.errors import UsageError

RECONSTRUCT = """
import sys
import numpy as np
from numba.core import event
from numba.core.dispatcher import Dispatcher
from pacspark.ct import ConeBeamGeometry, FlatPanel, VolumeGrid, reconstruct_fdk
from pacspark.ct.kernels.variants import VARIANTS, available_variants, choose_variant
angles = np.arange(8) * 2 * np.pi / 8
geometry = ConeBeamGeometry(100.0, 200.0, angles, FlatPanel(4, 4, 1.0, 1.0))
grid = VolumeGrid((4, 4, 4), (0.5, 0.5, 0.5))
with event.install_recorder("numba:compile") as compiled:
    volume = reconstruct_fdk(np.ones((8, 4, 4)), geometry, grid)
assert volume[1:3, 1:3, 1:3].min() > 0
kernels = {
    name: kernel.stats
    for home, module in sys.modules.items() if home.startswith("pacspark.ct.kernels.")
    for name, kernel in vars(module).items() if isinstance(kernel, Dispatcher)
}
print(",".join(available_variants()), choose_variant(), len(compiled.buffer))
print(*(name for name, stats in kernels.items() if stats.cache_hits))
print(*(name for name, stats in kernels.items() if stats.cache_misses))
"""


@dataclass(frozen=True)
class Apart:
    """What another process had and did: names of its variants, of kernels from disk and not."""

    available: str
    chosen: str
    n_compiled: int
    hits: set[str]
    misses: set[str]


def run_apart(**environment: str) -> Apart:
    """Reconstruct in another process."""
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", RECONSTRUCT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    variants, hits, misses = output.stdout.splitlines()
    available, chosen, n_compiled = variants.split()
    return Apart(available, chosen, int(n_compiled), set(hits.split()), set(misses.split()))


@pytest.mark.parametrize(
    "processor",
    # what counts is the CPU that Numba compiles for, not the one it runs on
    [{}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}],
    ids=["this CPU", "any CPU"],
)
def test_compiled_kernels__are_found_by_the_next_process(
    processor: dict[str, str], tmp_path: Path
) -> None:
    chosen = "portable" if processor else choose_variant()
    kernels = {"filter_rows", f"backproject_{chosen}", "turn"}
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PACSPARK_KERNEL": chosen} | processor

    first = run_apart(**environment)
    files = sorted(path.name for path in tmp_path.rglob("*.nbc"))
    assert first.chosen == chosen
    assert first.n_compiled > 0
    assert not first.hits
    assert first.misses >= kernels

    second = run_apart(**environment)
    assert second.chosen == chosen
    assert second.n_compiled == 0
    assert second.hits == kernels
    assert not second.misses
    assert sorted(path.name for path in tmp_path.rglob("*.nbc")) == files


def test_variants__of_a_cpu_without_avx512_use_avx2(tmp_path: Path) -> None:
    if "avx2" not in available_variants():
        assert available_variants() == ("portable",)
        return
    found = run_apart(
        NUMBA_CACHE_DIR=str(tmp_path), NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="+avx2,+fma"
    )
    assert (found.available, found.chosen) == ("avx2,portable", "avx2")


def test_kernels__compile_where_no_cache_can_be_written() -> None:
    # a function without a file has no place on disk, as on a cluster that unpacks read-only
    names: dict[str, Any] = {}
    exec(compile("def double(number):\n    return 2 * number", "<nowhere>", "exec"), names)
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(names["double"])
    assert jit(names["double"])(21) == 42


def test_choose_variant__follows_argument_then_environment_then_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PACSPARK_KERNEL", raising=False)
    assert choose_variant() == available_variants()[0]
    monkeypatch.setenv("PACSPARK_KERNEL", "portable")
    assert choose_variant() == "portable"
    assert choose_variant(available_variants()[0]) == available_variants()[0]
    monkeypatch.setenv("PACSPARK_KERNEL", "abacus")
    geometry = ConeBeamGeometry(100.0, 200.0, np.arange(8) * np.pi / 4, FlatPanel(4, 4, 1.0, 1.0))
    with pytest.raises(UsageError, match=r"PACSPARK_KERNEL: expected one of .*'abacus'"):
        SlabReconstruction(geometry, VolumeGrid((1, 1, 1), (1.0, 1.0, 1.0)))
    assert set(available_variants()) <= set(VARIANTS)


@pytest.mark.parametrize("step", [1e-9, 0.03, 0.5, 0.999, 1.0, 1.001, 1.5, LONGEST_STEP])
@pytest.mark.parametrize("origin", [-70.0, -33.0, -16.999999999, -0.25, 0.0, 3.9999999999, 40.5])
@pytest.mark.parametrize(
    ("line", "run", "name"), [(line_16, 16, "avx512"), (line_8, 8, "avx2"), (line_1, 1, "portable")]
)
def test_lines__interpolate_between_samples_with_zero_outside(
    line: object, run: int, name: str, origin: float, step: float
) -> None:
    if name not in available_variants():
        pytest.skip(f"this CPU has no {name}")
    n_v, n_z, row_start, z_start = 37, 3 * RUN, 5, 2 * RUN
    random = np.random.default_rng(0)
    samples = np.full((4, n_v + 2 * PADDING), np.nan, np.float32)  # what may not be read is NaN
    samples[1:3] = 0
    samples[1:3, PADDING:-PADDING] = random.standard_normal((2, n_v))
    sums = np.full(n_z + 2 * RUN, 7.0, np.float32)
    # as the kernel calls it: the slab's first slice at an absolute index
    start = origin + row_start - z_start * step
    first, end = runs_between(start, step, z_start, n_z, row_start, n_v, run)
    line(  # type: ignore[operator]
        sums, RUN + first * run, samples.ravel(),
        samples.shape[1] + PADDING - row_start, 2 * samples.shape[1] + PADDING - row_start,
        np.float32(0.3), np.float32(0.6),
        fine(start) + (z_start + first * run) * fine(step), fine(step), end - first,
    )  # fmt: skip
    blended = 0.3 * samples[1, PADDING:-PADDING] + 0.6 * samples[2, PADDING:-PADDING]
    positions = start + (z_start + np.arange(n_z)) * step - row_start
    expected = 7 + np.interp(positions, np.arange(-1, n_v + 1), [0, *blended, 0])
    np.testing.assert_allclose(sums[RUN:-RUN], expected, atol=2e-5)
    assert (sums[:RUN] == 7).all()
    assert (sums[-RUN:] == 7).all()


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "portable"])
@pytest.mark.parametrize("step", [LONGEST_STEP, np.nextafter(LONGEST_STEP, 2), 2.0, 7.5])
def test_variants__agree_where_voxels_become_too_coarse_for_registers(
    name: str, step: float
) -> None:
    if name not in available_variants():
        pytest.skip(f"this CPU has no {name}")
    angles = np.arange(6) * np.pi / 6
    geometry = ParallelBeamGeometry(angles, FlatPanel(60, 21, 1.0, 1.0))
    grid = VolumeGrid((40, 9, 17), (float(step), 1.0, 1.0))
    views = np.random.default_rng(1).random((6, 60, 21), np.float32)

    def slab(variant: str) -> NDArray[np.float32]:
        made = SlabReconstruction(geometry, grid, variant=variant)
        made.add(views[:, slice(*made.row_band)])
        return made.result()

    np.testing.assert_allclose(slab(name), slab("portable"), atol=1e-6)
