"""Small slices to ingest, and what became of them."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pacspark.archive import Archive
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.reports import IngestReport
from pacspark.tables.sources import expand_sources
from pacspark.tables.storage import Storage, open_storage
from tests.ct_objects import ct_image, encoded


def ct_slice(uid: str, number: int, size: int = 16) -> bytes:
    """Give the bytes of a small CT slice."""
    pixels = np.full((size, size), number, np.int16)
    return encoded(ct_image(pixels, number, (0, 0, number), SOPInstanceUID=uid))


def write_slices(folder: Path, count: int, size: int = 16) -> dict[str, str]:
    """Write CT slices; return the digest of each by SOP Instance UID."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for number in range(count):
        uid = f"2.25.{1000 + number}"
        data = ct_slice(uid, number + 1, size)
        (folder / f"{number:05d}.dcm").write_bytes(data)
        digests[uid] = hashlib.sha256(data).hexdigest()
    return digests


def stored(archive: Archive) -> dict[str, str]:
    """Read every object back and give its digest by SOP Instance UID; each UID once."""
    rows = archive.catalog.table("instances").to_pylist()
    assert len({row["sop_instance_uid"] for row in rows}) == len(rows)
    return {
        row["sop_instance_uid"]: hashlib.sha256(archive.catalog.read_object(row)).hexdigest()
        for row in rows
    }


def upload(root: str, files: Mapping[str, bytes]) -> str:
    """Write files below a root; return its URL."""
    storage = open_storage(root)
    for name, data in files.items():
        path = storage.path(name)
        storage.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with storage.filesystem.open_output_stream(path) as stream:
            stream.write(data)
    return root if "://" in root else Path(root).as_uri()


def zip_of(*members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for number, data in enumerate(members):
            packed.writestr(f"folder/{number}.dcm", data)
    return buffer.getvalue()


def object_files(storage: Storage) -> set[str]:
    """Give the data files in the folder of `objects`, listed by the table or not."""
    return {path.name for path in Path(storage.path("objects")).glob("*.parquet")}


def take_in_here(storage: Storage, *paths: Path) -> IngestReport:
    """Ingest in this process."""
    with Intake(storage, "run") as intake:
        for source in expand_sources(paths):
            intake.add_source(source)
        result = intake.finish()
    return commit_intake(storage, [result], "run")
