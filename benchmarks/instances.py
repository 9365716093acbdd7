"""Archives of many tiny instances, made fast: what benchmarks at 10^4 to 10^6 instances start from.

Run: python -m benchmarks.instances ROOT N [--start 0] [--size 4] [--processes 2] [--rows-only]
Every object is a whole CT slice of some 1.2 KB: its header is encoded once per series, and the few
values that tell slices apart are written into a copy. It then goes the way of every ingest (index,
intake, commit) in parallel processes, without Spark. The same numbers always make the same bytes,
so an archive can be grown by a second call with ``--start``. With ``--rows-only`` only the first
instance of each series has bytes, which the rows of the others point to too, ten times as fast: for
what asks rows and frames, and compares no digest.
"""

import argparse
import hashlib
import os
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from pacspark.dicom.decode import index_instance
from pacspark.tables.creating import create_tables
from pacspark.tables.datafile import ObjectFile
from pacspark.tables.intake import Intake, IntakeResult, commit_intake
from pacspark.tables.reports import IngestReport
from pacspark.tables.rowfiles import InstanceFiles
from pacspark.tables.schema import INSTANCES, frame_columns
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.writer import commit_files, commit_row_files

SLICES_PER_SERIES = 100
SERIES_PER_STUDY = 4
STUDIES_PER_PATIENT = 2
TASK_INSTANCES = 4096
FAMILY_NAMES = ("Adams", "Berger", "Costa", "Dubois", "Eriksson", "Fischer", "Garcia", "Horvat")
MODALITIES = ("CT", "MR", "PT", "CR")
_UID = "2.25.1" + "0" * 38
_NUMBER = "900000000001"  # as long as an IS can be: no UID has it by chance
_POSITION = "0\\0\\900002.0"


def made_uid(kind: str, number: int) -> str:
    """Give a UID of 44 characters, in no order: as UIDs made from UUIDs, the worst to look up."""
    digest = hashlib.blake2b(f"{kind} {number}".encode(), digest_size=16).digest()
    return f"2.25.1{int.from_bytes(digest, 'big') % 10**38:038d}"


@lru_cache(maxsize=8)
def _template(series: int, size: int) -> bytes:
    study = series // SERIES_PER_STUDY
    patient = study // STUDIES_PER_PATIENT
    dataset: Any = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPInstanceUID = _UID
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, _UID
    dataset.StudyInstanceUID = made_uid("study", study)
    dataset.SeriesInstanceUID = made_uid("series", series)
    dataset.FrameOfReferenceUID = made_uid("frame of reference", study)
    dataset.PatientName = f"{FAMILY_NAMES[patient % 8]}^Test {patient}"
    dataset.PatientID = f"P{patient:07d}"
    dataset.PatientBirthDate = f"{1940 + patient % 70}{1 + patient % 12:02d}15"
    dataset.PatientSex = "FM"[patient % 2]
    dataset.StudyDate = f"{2016 + study % 10}{1 + study % 12:02d}{1 + study % 28:02d}"
    dataset.StudyTime = f"{study % 24:02d}{study % 60:02d}00"
    dataset.AccessionNumber, dataset.StudyID = f"A{study:08d}", f"{study % 10000}"
    dataset.StudyDescription = f"Study of {('head', 'thorax', 'abdomen')[study % 3]}"
    dataset.ReferringPhysicianName = f"Referrer^{study % 50}"
    dataset.InstitutionName, dataset.Manufacturer = "Benchmark", "pacspark"
    dataset.Modality = MODALITIES[study % 4]
    dataset.SeriesNumber = series % SERIES_PER_STUDY + 1
    dataset.SeriesDescription = f"Series {series % SERIES_PER_STUDY + 1}"
    dataset.SeriesDate, dataset.SeriesTime = dataset.StudyDate, dataset.StudyTime
    dataset.InstanceNumber, dataset.ImagePositionPatient = _NUMBER, _POSITION
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.5], 1
    dataset.KVP, dataset.RescaleSlope, dataset.RescaleIntercept = 120, 1, -1024
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    noise = np.random.default_rng(series).normal(0, 60, (size, size))
    dataset.PixelData = noise.astype("<i2").tobytes()
    stream = BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def instance(number: int, size: int = 4) -> bytes:
    """Give the bytes of instance `number`, a CT slice of `size` x `size` pixels."""
    series, position = divmod(number, SLICES_PER_SERIES)
    return (
        _template(series, size)
        .replace(_UID.encode(), made_uid("instance", number).encode())
        .replace(_NUMBER.encode(), f"{position + 1:<12}".encode())
        .replace(_POSITION.encode(), f"0\\0\\{position:<8}".encode())
    )


def write_instances(folder: Path, numbers: range, size: int = 4) -> int:
    """Write instances as files, a folder per series; return their bytes."""
    total = 0
    for number in numbers:
        series = folder / f"{number // SLICES_PER_SERIES:06d}"
        if number == numbers.start or number % SLICES_PER_SERIES == 0:
            series.mkdir(parents=True, exist_ok=True)
        data = instance(number, size)
        (series / f"{number:07d}.dcm").write_bytes(data)
        total += len(data)
    return total


def _take_in(storage: Storage, run_id: str, numbers: range, size: int) -> IntakeResult:
    with Intake(storage, run_id) as intake:
        for number in numbers:
            intake.add(f"instance:{number}", instance(number, size))
        return intake.finish()


def _results(
    storage: Storage, run_id: str, numbers: range, size: int, processes: int
) -> Iterator[IntakeResult]:
    tasks = [numbers[at : at + TASK_INSTANCES] for at in range(0, len(numbers), TASK_INSTANCES)]
    # Arrow and delta-rs have threads, which a fork would lose
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        # a few tasks ahead of the commits, so that results do not pile up
        waiting: deque[Future[IntakeResult]] = deque()
        for task in tasks:
            waiting.append(pool.submit(_take_in, storage, run_id, task, size))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def fill(
    root: str | Path,
    numbers: range,
    *,
    size: int = 4,
    processes: int | None = None,
    progress: bool = False,
) -> IngestReport:
    """Store instances of some numbers in an archive, which is made where it is missing."""
    storage = open_storage(root)
    create_tables(storage)
    run_id = uuid.uuid4().hex
    report = IngestReport(run_id)
    started = time.perf_counter()
    for result in _results(storage, run_id, numbers, size, processes or os.cpu_count() or 1):
        report += commit_intake(storage, [result], run_id)
        if progress:
            seconds = time.perf_counter() - started
            done = f"{report.inputs} of {len(numbers)} instances, {seconds:.0f} s"
            print(f"{done}, {report.inputs / seconds:.0f} per s", flush=True)
    return report.timed(time.perf_counter() - started)


def fill_rows(root: str | Path, numbers: range) -> None:
    """Write rows of instances: as `fill` does, but for digests and bytes, which a series shares."""
    storage = open_storage(root)
    create_tables(storage)
    for at in range(0, len(numbers), TASK_INSTANCES):
        task = numbers[at : at + TASK_INSTANCES]
        files = InstanceFiles(storage)
        with ObjectFile(storage) as objects:
            files.append(_rows(task, objects))
            commit_files(
                storage, "objects", [objects.close()], run_id="rows-only", operation="ingest"
            )
        commit_row_files(storage, files.close(), run_id="rows-only", operation="ingest")


def _rows(numbers: range, objects: ObjectFile) -> pa.Table:
    """Make rows: those of each series are copies of one, but for what tells slices apart."""
    series, positions = np.divmod(np.array(numbers), SLICES_PER_SERIES)
    first = int(series[0])
    templates = [_series_row(one, objects) for one in range(first, int(series[-1]) + 1)]
    rows = pa.Table.from_pylist(templates, schema=INSTANCES.arrow_schema).take(series - first)
    uids = [made_uid("instance", number) for number in numbers]
    own = {
        "sop_instance_uid": uids,
        "sha256": [hashlib.sha256(uid.encode()).hexdigest() for uid in uids],
        "instance_number": positions + 1,
        "source": [f"instance:{number}" for number in numbers],
    }
    for name, values in own.items():
        field = rows.schema.field(name)
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, field, pa.array(values, field.type))
    return rows


def _series_row(series: int, objects: ObjectFile) -> dict[str, Any]:
    data = instance(series * SLICES_PER_SERIES)
    index = index_instance(data)
    return (
        index.row
        | frame_columns(index.frames)
        | objects.append(data).columns()
        | {"dicom_json": index.dicom_json, "run_id": "rows-only"}
        | {"received_at": datetime.now(UTC)}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("instances", type=int)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--rows-only", action="store_true")
    given = parser.parse_args()
    numbers = range(given.start, given.start + given.instances)
    if given.rows_only:
        fill_rows(given.root, numbers)
        return
    report = fill(given.root, numbers, size=given.size, processes=given.processes, progress=True)
    print(f"stored {report.stored}, duplicate {report.duplicate}: {given.root}")


if __name__ == "__main__":
    main()
