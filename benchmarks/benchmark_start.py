"""How soon a fresh process reconstructs: with no compiled kernels on disk, and with those of the
process before it.

Run: python -m benchmarks.benchmark_start
Records one JSON line per process in ``docs/benchmarks/start.jsonl``: the seconds of its imports,
and of its first reconstruction after them, of next to no data, so that they are those of
compiling kernels or of reading them.
"""

import json
import os
import subprocess
import sys
import tempfile

from benchmarks.results import record

RECONSTRUCT = """
import json
import time
began = time.perf_counter()
import numpy as np
from pacspark.ct import ConeBeamGeometry, FlatPanel, VolumeGrid, reconstruct_fdk
imported = time.perf_counter()
angles = np.arange(8) * 2 * np.pi / 8
geometry = ConeBeamGeometry(100.0, 200.0, angles, FlatPanel(4, 4, 1.0, 1.0))
reconstruct_fdk(np.ones((8, 4, 4)), geometry, VolumeGrid((4, 4, 4), (0.5, 0.5, 0.5)))
done = time.perf_counter()
print(json.dumps({"import_s": imported - began, "reconstruct_s": done - imported}))
"""


def start(cache: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", RECONSTRUCT],
        env=os.environ | {"NUMBA_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: round(seconds, 3) for name, seconds in json.loads(done.stdout).items()}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="pacspark-bench-") as cache:
        for process in ("first", "second"):
            record("start", process=process, **start(cache))


if __name__ == "__main__":
    main()
