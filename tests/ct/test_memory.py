"""Memory that goes back, and how much a reconstruction holds."""

import subprocess
import sys

import numpy as np
import pytest

from pacspark.ct.memory import Pages
from pacspark.errors import MemoryBudgetError


def test_pages__are_zeros_that_can_be_given_back() -> None:
    for small in (False, True):
        pages = Pages((6, 100, 128), small=small)
        array = pages.array
        assert array.dtype == np.float32
        assert not array.any()
        array[:] = 1.0
        pages.give_back(1, 3)  # 50 KiB each: whole pages go, the ends of others stay
        assert (array[[0, 3, 4, 5]] == 1.0).all()
        assert (array[1:3] == 0.0).mean() > 0.9
        array[2] = 3.0
        assert (array[2] == 3.0).all()


def test_pages__refuse_more_than_the_system_has() -> None:
    with pytest.raises(MemoryBudgetError, match=r"GiB for 100000 x 100000 x 100000 voxels, found"):
        Pages((10**5,) * 3)


PEAK = """
import math, re
from pathlib import Path
import numpy as np
from pacspark.ct import ConeBeamGeometry, FlatPanel, VolumeGrid, reconstruct_fdk

def held(which):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{which}:\\s+(\\d+)", status)[1])

def scan(size, count):
    panel = FlatPanel(size, size, 1.0, 1.0)
    angles = np.arange(count) * 2 * math.pi / count
    geometry = ConeBeamGeometry(5 * size, 7 * size, angles, panel)
    return np.ones((count, size, size), np.float32), geometry, VolumeGrid((size,) * 3, (0.7,) * 3)

reconstruct_fdk(*scan(32, 8), n_threads=2)  # compiled, and the libraries' own memory
projections, geometry, grid = scan(256, 180)
Path("/proc/self/clear_refs").write_text("5")  # what compiling took is no longer the peak
before = held("VmRSS")
volume = reconstruct_fdk(projections, geometry, grid, n_threads=2)
added = held("VmHWM") - before
print((added + projections.nbytes) / (volume.nbytes + projections.nbytes))
"""


def test_reconstruct__holds_little_more_than_volume_and_projections() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 1.0 < float(done.stdout) < 1.25
