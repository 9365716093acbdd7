"""A statistic over a million frames, computed where the frames are decoded.

Run: python -m benchmarks.benchmark_frames [--frames 1000000] [--edge 16]
Multi-frame objects of 10,000 tiny frames each are stored, then the mean and the 99th percentile of
every frame are computed in tasks, and what all frames say together comes to the driver: one row.
Beside it, the pixels themselves as a column, counted by Spark. Records JSON lines in
``docs/benchmarks/frames.jsonl``: seconds, and what the driver's Python process grew by meanwhile.
"""

import argparse
import io
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pyspark.sql import functions as sf

import pacspark
from benchmarks.results import record
from pacspark.progress import SILENT
from pacspark.spark.session import local_session
from pacspark.tables.intake import Intake, commit_intake

FRAMES_PER_OBJECT = 10_000


def multi_frame(number: int, frames: int, edge: int) -> bytes:
    draw = np.random.default_rng(number)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = f"2.25.1{number:06d}"
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"2.25.1{number:06d}"
    image.StudyInstanceUID, image.SeriesInstanceUID = "2.25.2", "2.25.3"
    image.Modality, image.InstanceNumber = "CT", number
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = edge
    image.NumberOfFrames = frames
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.RescaleSlope, image.RescaleIntercept = 1, -1024
    image.PixelData = draw.integers(0, 2000, frames * edge * edge).astype("<i2").tobytes()
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, image, enforce_file_format=True)
    return stream.getvalue()


def statistics(frame: pacspark.Frame) -> tuple[float, float]:
    values = frame.values
    return float(values.mean()), float(np.partition(values.ravel(), -3)[-3])


def measured(work: Any) -> tuple[dict[str, float], Any]:
    process = psutil.Process()
    before, started = process.memory_info().rss, time.perf_counter()
    found = work()
    seconds = time.perf_counter() - started
    grown = max(0, process.memory_info().rss - before)
    return {"seconds": round(seconds, 2), "driver_grew_mib": round(grown / 2**20, 1)}, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--edge", type=int, default=16)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pacspark-bench-"))
    try:
        session = local_session("local[2]", "benchmark")
        archive = pacspark.create(folder / "archive", session, progress=SILENT)
        storage = archive.catalog.storage
        with Intake(storage, "benchmark") as intake:
            for number in range(-(-given.frames // FRAMES_PER_OBJECT)):
                frames = min(FRAMES_PER_OBJECT, given.frames - number * FRAMES_PER_OBJECT)
                intake.add(f"made:{number}", multi_frame(number, frames, given.edge))
            taken = intake.finish()
        commit_intake(storage, [taken], "benchmark")
        pixel_bytes = given.frames * given.edge**2 * 2
        archive.frames(where="InstanceNumber = 0").limit(1).collect()  # what starts once, has

        def in_tasks() -> Any:
            each = archive.frames(compute=statistics, returns="mean double, top double")
            return each.agg(sf.count("mean"), sf.avg("mean"), sf.max("top")).collect()[0]

        def as_column() -> Any:
            each = archive.frames()
            return each.agg(sf.count("pixels"), sf.sum(sf.length("pixels"))).collect()[0]

        for case, work in (("compute", in_tasks), ("pixels", as_column)):
            figures, found = measured(work)
            assert found[0] == given.frames, found
            record(
                "frames",
                case=case,
                frames=given.frames,
                edge=given.edge,
                pixel_mib=round(pixel_bytes / 2**20),
                frames_per_second=round(given.frames / figures["seconds"]),
                **figures,
            )
        session.stop()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
