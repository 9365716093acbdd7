"""Line integrals in the `projections` table: written in chunks, read as any block and band.

One chunk is one row and one Parquet row group: an angle block cut to a row band, float32 little
endian, C order ``(angle, row, column)``. A reader fetches just the chunks that its block and band
touch, each in one range read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pacspark.errors import ProjectionDataError
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import AddedFile, DataFile, one_value, open_data_file
from pacspark.tables.schema import PROJECTIONS
from pacspark.tables.storage import Storage

CHUNK_BYTES = 4 << 20
CHUNK_ANGLES = 16
FRAME_ITEM_BYTES = 4


Lap = Callable[[str], None]
"""Told the name of a phase when it has ended."""


def no_lap(phase: str) -> None:
    """Measure nothing."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where one chunk lies, and what it covers."""

    file: str
    row_group: int
    angle_start: int
    angle_stop: int
    row_start: int
    row_stop: int


class ProjectionWriter:
    """Writes the chunks of a run of angles into one data file, invisible until committed.

    Parameters
    ----------
    storage
        The archive.
    series_instance_uid
        The scan that the angles belong to.
    energy_bin
        Index of the energy bin, 0 for a scan without.
    run_id
        Written into every row.
    job
        From `files_of_job`.
    """

    def __init__(
        self, storage: Storage, series_instance_uid: str, energy_bin: int, run_id: str, job: str
    ) -> None:
        self._file = DataFile(storage, PROJECTIONS, job)
        self._key = {
            "series_instance_uid": series_instance_uid,
            "energy_bin": energy_bin,
            "run_id": run_id,
        }

    def write(
        self,
        projections: NDArray[np.float32],
        angle_start: int,
        gantry_angles_rad: Sequence[float] | NDArray[np.float64],
        first_row: int = 0,
    ) -> None:
        """Write line integrals ``(n, n_rows, n_columns)``, from an angle and a row on."""
        n_angles, n_rows, n_columns = projections.shape
        for start in range(0, n_angles, CHUNK_ANGLES):
            stop = min(n_angles, start + CHUNK_ANGLES)
            band = max(1, CHUNK_BYTES // (FRAME_ITEM_BYTES * n_columns * (stop - start)))
            for row_start in range(0, n_rows, band):
                row_stop = min(n_rows, row_start + band)
                values = np.ascontiguousarray(projections[start:stop, row_start:row_stop], "<f4")
                row = self._key | {
                    "angle_start": angle_start + start,
                    "angle_count": stop - start,
                    "row_start": first_row + row_start,
                    "row_count": row_stop - row_start,
                    "column_count": n_columns,
                    "gantry_angles_rad": [float(angle) for angle in gantry_angles_rad[start:stop]],
                    "line_integrals": None,
                }
                table = pa.Table.from_pylist([row], schema=PROJECTIONS.arrow_schema)
                place = table.schema.get_field_index("line_integrals")
                self._file.append(table.set_column(place, table.field(place), one_value(values)))

    def close(self) -> AddedFile:
        """Make the file durable and return what a commit needs."""
        return self._file.close()


def list_chunks(catalog: Catalog, series_instance_uid: str, energy_bin: int) -> list[Chunk]:
    """List the chunks of one energy bin of a scan, from the footers of the files alone.

    A file that was committed twice over (two jobs that prepared the same scan at once) is listed
    once.
    """
    chunks: dict[tuple[int, int], Chunk] = {}
    for file in catalog.files_of(
        "projections", {"series_instance_uid": series_instance_uid, "energy_bin": energy_bin}
    ):
        with open_data_file(catalog.storage, PROJECTIONS.name, file) as parquet:
            names = [
                "angle_start",
                "angle_count",
                "row_start",
                "row_count",
                "series_instance_uid",
                "energy_bin",
            ]
            for group, row in enumerate(parquet.read(columns=names).to_pylist()):
                if (row["series_instance_uid"], row["energy_bin"]) != (
                    series_instance_uid,
                    energy_bin,
                ):
                    continue
                chunk = Chunk(
                    file,
                    group,
                    row["angle_start"],
                    row["angle_start"] + row["angle_count"],
                    row["row_start"],
                    row["row_start"] + row["row_count"],
                )
                chunks.setdefault((chunk.angle_start, chunk.row_start), chunk)
    return [chunks[key] for key in sorted(chunks)]


class ProjectionReader:
    """Reads blocks of angles, cut to bands of rows, from chunks.

    Parameters
    ----------
    storage
        The archive.
    chunks
        At least those that will be asked for; `list_chunks` makes them.
    n_columns
        Columns of the detector.
    """

    def __init__(self, storage: Storage, chunks: Sequence[Chunk], n_columns: int) -> None:
        self._storage = storage
        self._chunks = chunks
        self._n_columns = n_columns
        self._open: tuple[str, pq.ParquetFile] | None = None

    def read(
        self, angle_start: int, angle_stop: int, row_start: int, row_stop: int, lap: Lap = no_lap
    ) -> NDArray[np.float32]:
        """Return float32 ``(angle_stop - angle_start, row_stop - row_start, n_columns)``.

        Parameters
        ----------
        angle_start, angle_stop, row_start, row_stop
            Which of them.
        lap
            Told when ``read`` has ended.

        Raises
        ------
        ProjectionDataError
            When the chunks do not cover what was asked.
        """
        shape = (angle_stop - angle_start, row_stop - row_start, self._n_columns)
        block = np.empty(shape, np.float32)
        filled = 0
        for chunk in self._chunks:
            first, last = max(angle_start, chunk.angle_start), min(angle_stop, chunk.angle_stop)
            top, bottom = max(row_start, chunk.row_start), min(row_stop, chunk.row_stop)
            if first >= last or top >= bottom:
                continue
            values = self._chunk_values(chunk)
            block[
                first - angle_start : last - angle_start, top - row_start : bottom - row_start
            ] = values[
                first - chunk.angle_start : last - chunk.angle_start,
                top - chunk.row_start : bottom - chunk.row_start,
            ]
            filled += (last - first) * (bottom - top)
        if filled != shape[0] * shape[1]:
            message = (
                f"projections: expected every row {row_start}..{row_stop} of the angles "
                f"{angle_start}..{angle_stop}, found {filled} of {shape[0] * shape[1]} rows"
            )
            raise ProjectionDataError(message)
        lap("read")
        return block

    def _chunk_values(self, chunk: Chunk) -> NDArray[np.float32]:
        if self._open is None or self._open[0] != chunk.file:
            path = self._storage.path("projections", chunk.file)
            self._open = (
                chunk.file,
                pq.ParquetFile(self._storage.filesystem.open_input_file(path)),
            )
        table = self._open[1].read_row_group(chunk.row_group, columns=["line_integrals"])
        buffer = table["line_integrals"].chunk(0)[0].as_buffer()
        shape = (
            chunk.angle_stop - chunk.angle_start,
            chunk.row_stop - chunk.row_start,
            self._n_columns,
        )
        return np.frombuffer(buffer, "<f4").reshape(shape)
