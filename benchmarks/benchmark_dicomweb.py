"""What a viewer waits for over HTTP: study list, series metadata, frames, a whole series.

A series of 500 slices of 512 x 512 is stored over STOW-RS, committed, and read by one client on the
loopback. Times are medians; ``first`` is that of the first request after the start, with nothing in
any cache of this process.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.results import record
from pacspark.gateway.config import GatewayConfig
from pacspark.gateway.server import Gateway
from pacspark.tables.schema import create_tables
from pacspark.tables.storage import Storage, open_storage
from tests.ct_objects import SERIES_UID, STUDY_UID, ct_image, encoded
from tests.gateway.http import client_of, stow

SLICES = 500
AT_ONCE = 50
SERIES = f"/dicom-web/studies/{STUDY_UID}/series/{SERIES_UID}"
STORED = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        began = perf_counter()
        work()
        times.append(perf_counter() - began)
    return times


def fill(storage: Storage) -> None:
    pixels = np.random.default_rng(1).integers(0, 4000, (512, 512)).astype(np.int16)
    config = GatewayConfig(dimse_port=0, http_port=0)
    with Gateway(storage, config) as gateway, client_of(gateway) as client:
        size = 0
        seconds = 0.0
        for start in range(0, SLICES, AT_ONCE):
            objects = [
                encoded(ct_image(pixels + number, number, (0.0, 0.0, float(number))))
                for number in range(start, start + AT_ONCE)
            ]
            size += sum(map(len, objects))
            began = perf_counter()
            assert stow(client, *objects).status_code == 200
            seconds += perf_counter() - began
        record("dicomweb", case="store", slices=SLICES, mb_per_s=round(size / seconds / 1e6, 1),
               objects_per_s=round(SLICES / seconds))  # fmt: skip


def read(storage: Storage) -> None:
    config = GatewayConfig(dimse_port=0, http_port=0)
    with Gateway(storage, config) as gateway, client_of(gateway) as client:
        numbers: Iterator[int] = iter(range(1, SLICES))

        def ask(path: str) -> None:
            assert client.get(path, headers=STORED if "/frames/" in path else None).is_success

        ask("/healthz")
        cases: dict[str, tuple[Callable[[], object], int]] = {
            "first frame": (lambda: ask(f"{SERIES}/instances/{SERIES_UID}.0/frames/1"), 1),
            "study list": (lambda: ask("/dicom-web/studies?limit=101&offset=0"), 50),
            "metadata of 500": (lambda: ask(f"{SERIES}/metadata"), 9),
            "frame, each once": (
                lambda: ask(f"{SERIES}/instances/{SERIES_UID}.{next(numbers)}/frames/1"), 200,
            ),
            "frame again": (lambda: ask(f"{SERIES}/instances/{SERIES_UID}.3/frames/1"), 100),
            "whole series": (lambda: ask(SERIES), 3),
        }  # fmt: skip
        for case, (work, repeats) in cases.items():
            times = timed(work, repeats)
            record("dicomweb", case=case, median_ms=round(1e3 * median(times), 1),
                   first_ms=round(1e3 * times[0], 1), n=repeats)  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        archive = open_storage(Path(folder) / "archive")
        create_tables(archive)
        fill(archive)
        read(archive)
