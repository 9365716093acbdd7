"""Ingest of CT slices: instances per second and MB per second through Spark local[2].

Run: python -m benchmarks.benchmark_ingest [--instances 2000] [--size 512]
Records one JSON line per case in ``docs/benchmarks/ingest.jsonl``. The objects are made before the
clock starts; the Spark session is warm (its start is reported by itself).
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from benchmarks.results import record
from pacspark.archive import create_archive


def write_slices(folder: Path, instances: int, size: int) -> int:
    """Write `instances` CT slices of `size` x `size` and return their bytes."""
    rng = np.random.default_rng(1)
    pixels = rng.normal(0, 60, (size, size)).astype("<i2")
    total = 0
    for number in range(instances):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        uid = f"2.25.{10**30 + number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, uid
        dataset.StudyInstanceUID = f"2.25.{10**20 + number // 1000}"
        dataset.SeriesInstanceUID = f"2.25.{10**25 + number // 500}"
        dataset.FrameOfReferenceUID = dataset.StudyInstanceUID
        dataset.PatientName, dataset.PatientID = "Bench^Mark", f"B{number // 1000}"
        dataset.PatientBirthDate, dataset.PatientSex = "", ""
        dataset.StudyDate, dataset.StudyTime = "20260101", "120000"
        dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
        dataset.Modality, dataset.SeriesNumber = "CT", number // 500
        dataset.InstanceNumber = number % 500
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImagePositionPatient = [0, 0, number % 500]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.5], 1
        dataset.KVP, dataset.RescaleSlope, dataset.RescaleIntercept = 120, 1, -1024
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows = dataset.Columns = size
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.PixelData = np.roll(pixels, number, axis=1).tobytes()
        path = folder / f"{number:06d}.dcm"
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        total += path.stat().st_size
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=2000)
    parser.add_argument("--size", type=int, default=512)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-"))
    try:
        incoming = work / "incoming"
        incoming.mkdir()
        size_bytes = write_slices(incoming, arguments.instances, arguments.size)
        archive = create_archive(work / "archive")
        started = time.perf_counter()
        archive.spark.range(2).count()
        session_s = time.perf_counter() - started
        report = archive.ingest(incoming)
        again = archive.ingest(incoming)
        for case, one in (("first", report), ("again", again)):
            record(
                "ingest",
                case=case,
                instances=arguments.instances,
                bytes=size_bytes,
                stored=one.stored,
                duplicate=one.duplicate,
                seconds=round(one.seconds, 2),
                instances_per_s=round(arguments.instances / one.seconds, 1),
                mb_per_s=round(size_bytes / one.seconds / 1e6, 1),
                session_start_s=round(session_s, 2),
            )
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
