"""How long OHIF takes from the click on a study of 500 slices to its first image.

Run: python -m benchmarks.benchmark_viewer [--repeats 5]
Headless Chromium shows OHIF on the DICOMweb of the gateway and on that of Orthanc's plugin in turn,
in the same run; the viewer's own files come from the same folder for both. Each time is that of a
fresh browser context. Needs what ``make peers`` and ``make viewer`` fetch. Records one JSON line
per server in ``docs/benchmarks/viewer.jsonl``.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.benchmark_dicomweb import COMMITTED_S, stored
from benchmarks.gateways import orthanc, pacspark
from benchmarks.results import record
from pacspark.gateway.web.viewer import app_config, viewer_folder
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage
from tests.servers import Orthanc, cache_folder

SCRIPT = Path(__file__).with_name("watch_first_image.mjs")
CHROMIUM = Path("/usr/bin/chromium")
SLICES = 500


def watched(http_port: int, work: Path) -> float:
    """Give the milliseconds from the click to the first image."""
    config = work / "app-config.js"
    config.write_text(app_config())
    done = subprocess.run(
        ["node", str(SCRIPT), str(cache_folder() / "node" / "node_modules" / "playwright-core"),
         str(CHROMIUM), f"http://127.0.0.1:{http_port}", str(viewer_folder()), str(config)],
        capture_output=True, text=True, check=True, timeout=300
    )  # fmt: skip
    return float(json.loads(done.stdout)["milliseconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if not (CHROMIUM.exists() and viewer_folder().is_dir() and Orthanc.program()):
        print("OHIF, Chromium or Orthanc is missing: make peers viewer", flush=True)
        return
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-", dir=Path.cwd() / "build"))
    times: dict[str, list[float]] = {"pacspark": [], "orthanc": []}
    try:
        root = work / "archive"
        create_tables(open_storage(root))
        with pacspark(root) as server, orthanc(work / "orthanc") as rival:
            for one in (server, rival):
                stored(one, work / "slices", SLICES)
            time.sleep(COMMITTED_S)
            for _ in range(given.repeats):
                times["pacspark"].append(watched(server.http_port, work))
                times["orthanc"].append(watched(rival.http_port, work))
    finally:
        shutil.rmtree(work)
    for name, taken in times.items():
        record(
            "viewer", case="first image", server=name, slices=SLICES, n=len(taken),
            median_ms=round(median(taken)), least_ms=round(min(taken)), most_ms=round(max(taken)),
        )  # fmt: skip


if __name__ == "__main__":
    main()
