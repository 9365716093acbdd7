"""Ingest: instances and MB per second through Spark local[2], step by step, and a rival.

Run: python -m benchmarks.benchmark_ingest [--instances 2000] [--size 512] [--small] [--no-rival]
``--small`` takes in 100,000 tiny objects instead. Records one JSON line per case in
``docs/benchmarks/ingest.jsonl`` and prints what each step cost. The objects are made before the
clock starts; the Spark session is warm (its start is reported by itself). The rival is Orthanc
(fetched by ``scripts/peers.sh``), which DCMTK's `/usr/bin/storescu` sends the same files to, two
associations at once, in the same run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from benchmarks.instances import write_instances
from benchmarks.results import record
from pacspark.archive import create_archive
from pacspark.tables.reports import IngestReport
from tests.servers import Orthanc


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


def show_steps(report: IngestReport) -> None:
    """Print what each step took of the cores' time, and per object."""
    total = sum(report.steps.values())
    for step, seconds in sorted(report.steps.items(), key=lambda item: -item[1]):
        each = seconds / report.inputs * 1e6
        print(f"  {step:<8} {seconds:8.2f} s {100 * seconds / total:5.1f} % {each:8.0f} us each")


def has_rival() -> bool:
    """Tell whether the rival and who sends to it are here, and where they are to be had."""
    if Orthanc.program() is not None and Path("/usr/bin/storescu").exists():
        return True
    print("no rival: run scripts/peers.sh", flush=True)
    return False


def send(work: Path, port: int, folder: Path) -> float:
    """Send all files of a folder by two storescu at once; give the seconds that it took."""
    files = sorted(str(path) for path in folder.rglob("*.dcm"))
    started = time.perf_counter()
    senders = []
    for number in range(2):
        listed = work / f"files-{number}.txt"
        command = ["xargs", "-a", str(listed), "-n", "1000", "/usr/bin/storescu", "-aec", "ORTHANC"]
        listed.write_text("\n".join(files[number::2]))
        senders.append(
            subprocess.Popen([*command, "127.0.0.1", str(port)], stderr=subprocess.DEVNULL)
        )
    if any(sender.wait() for sender in senders):
        sys.exit("storescu could not store all")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=None)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--rival-instances", type=int, default=None, help="of the same files")
    arguments = parser.parse_args()
    instances = arguments.instances or (100_000 if arguments.small else 2000)
    load = os.getloadavg()[0]  # figures of a busy machine tell little
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-"))
    try:
        incoming = work / "incoming"
        incoming.mkdir()
        if arguments.small:
            size_bytes = write_instances(incoming, range(instances))
        else:
            size_bytes = write_slices(incoming, instances, arguments.size)
        archive = create_archive(work / "archive")
        started = time.perf_counter()
        archive.spark.range(2).count()
        session_s = time.perf_counter() - started
        warm = work / "warm"
        write_instances(warm, range(10**9, 10**9 + 300))
        create_archive(work / "other", archive.spark).ingest(warm)
        rates = {}
        kind = "small" if arguments.small else f"{arguments.size} x {arguments.size}"
        for case in ("first", "again"):
            report = archive.ingest(incoming)
            rates[case] = instances / report.seconds
            record(
                "ingest",
                case=case,
                kind=kind,
                instances=instances,
                bytes=size_bytes,
                stored=report.stored,
                duplicate=report.duplicate,
                seconds=round(report.seconds, 2),
                instances_per_s=round(rates[case], 1),
                mb_per_s=round(size_bytes / report.seconds / 1e6, 1),
                steps={step: round(seconds, 2) for step, seconds in report.steps.items()},
                session_start_s=round(session_s, 2),
                load_before=round(load, 1),
            )
            show_steps(report)
        if arguments.no_rival or not has_rival():
            return
        sent = arguments.rival_instances or min(instances, 5000)
        for path in sorted(incoming.rglob("*.dcm"))[sent:]:
            path.unlink()
        with Orthanc(work) as rival:
            seconds = send(work, rival.port, incoming)
        record(
            "ingest",
            case="Orthanc",
            kind=kind,
            instances=sent,
            seconds=round(seconds, 2),
            instances_per_s=round(sent / seconds, 1),
            ours_times_faster=round(rates["first"] * seconds / sent, 1),
        )
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
