r"""Modality worklist from a table: one row is one scheduled procedure step.

Columns are keywords, in a CSV file (UTF-8, with a header), a Parquet file or a Delta table, on a
disk of this machine::

    PatientName,PatientID,AccessionNumber,Modality,ScheduledStationAETitle,ScheduledProcedureStepStartDate
    Doe^Jane,P1,A1,CT,CT1,20260301

Keywords of the Scheduled Procedure Step Sequence go into its item, all others beside it. An empty
cell is no value; several values are separated by ``\``. The table is read again when it changes.
"""

import csv
import logging
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from pathlib import Path
from threading import Lock
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacspark.dicom.values import person_name_groups
from pacspark.errors import UsageError
from pacspark.gateway.dimse.identifiers import Elements

LOGGER: Final = logging.getLogger(__name__)
STEPS: Final = "00400100"
"""Scheduled Procedure Step Sequence."""
STEP_KEYWORDS: Final = frozenset(
    """
    Modality ScheduledStationAETitle ScheduledStationName ScheduledProcedureStepLocation
    ScheduledProcedureStepStartDate ScheduledProcedureStepStartTime ScheduledProcedureStepEndDate
    ScheduledProcedureStepEndTime ScheduledPerformingPhysicianName ScheduledProcedureStepID
    ScheduledProcedureStepDescription ScheduledProcedureStepStatus PreMedication
    RequestedContrastAgent CommentsOnTheScheduledProcedureStep
    """.split()
)
_INTEGERS: Final = frozenset("IS SL SS SV UL US UV".split())
_FLOATS: Final = frozenset("DS FD FL".split())
_ONE_TEXT: Final = frozenset("LT ST UR UT".split())
_TEXTS: Final = frozenset("AE AS CS DA DT LO PN SH TM UC UI".split()) | _ONE_TEXT
_MOST_ROWS: Final = 100_000
_MOST_FILE_BYTES: Final = 256 << 20


def is_table(path: Path) -> bool:
    """Tell whether a worklist is a table, and no folder of DICOM files."""
    return path.suffix.lower() in {".csv", ".parquet"} or (path / "_delta_log").is_dir()


class WorklistTable:
    """The entries of a table, in memory; safe for threads.

    Parameters
    ----------
    path
        of the table

    Raises
    ------
    UsageError
        where it is none, or a column is no keyword: what it turns into later is told in the log,
        and the last good entries stay
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._stamp = self._stamp_now()
        self._entries = self._read()

    def entries(self) -> list[Elements]:
        """Give all entries, each with one scheduled procedure step, as the table is now."""
        with self._lock:
            try:
                stamp = self._stamp_now()
                if stamp != self._stamp:
                    self._stamp = stamp
                    self._entries = self._read()
            except UsageError as error:
                LOGGER.warning("%s", error)
            return self._entries

    def _stamp_now(self) -> tuple[int, int]:
        try:
            if self._path.is_dir():
                return DeltaTable(self._path).version(), 0
            status = self._path.stat()
        except (OSError, DeltaError) as error:
            raise self._error("a table", getattr(error, "strerror", None) or error) from error
        if status.st_size > _MOST_FILE_BYTES:
            raise self._error(f"at most {_MOST_FILE_BYTES} bytes", status.st_size)
        return status.st_mtime_ns, status.st_size

    def _read(self) -> list[Elements]:
        try:
            if self._path.suffix.lower() == ".csv":
                with self._path.open(encoding="utf-8-sig", newline="") as file:
                    reader = csv.reader(file, strict=True)
                    return self._made(next(reader, []), reader)
            table = self._table()
            rows = (row.values() for batch in table.to_batches() for row in batch.to_pylist())
            return self._made(table.column_names, rows)
        except (
            OSError, ValueError, ArithmeticError, LookupError, csv.Error, pa.ArrowException,
            DeltaError,
        ) as error:  # fmt: skip
            if isinstance(error, UsageError):
                raise
            raise self._error("a table", " ".join(str(error).split())[:200]) from error

    def _table(self) -> pa.Table:
        if not self._path.is_dir():
            return pq.read_table(self._path)
        return DeltaTable(self._path).to_pyarrow_table()

    def _made(self, columns: list[str], rows: Iterable[Iterable[Any]]) -> list[Elements]:
        places = [self._place(column) for column in columns]
        if len(set(columns)) < len(columns):
            raise self._error("each column once", "one twice")
        return list(self._entries_of(places, rows))

    def _entries_of(
        self, places: list[tuple[str, str, bool]], rows: Iterable[Iterable[Any]]
    ) -> Iterator[Elements]:
        for number, row in enumerate(rows, 1):
            if number > _MOST_ROWS:
                raise self._error(f"at most {_MOST_ROWS} rows", "more")
            try:
                yield _entry(places, row)
            except ValueError as error:
                LOGGER.warning("worklist: %s: row %d is passed over: %s", self._path, number, error)

    def _place(self, column: str) -> tuple[str, str, bool]:
        """Give tag and VR of a column, and whether it belongs into the step."""
        tag = tag_for_keyword(column)
        vr = "" if tag is None else dictionary_VR(tag)
        if vr not in _TEXTS | _INTEGERS | _FLOATS:
            raise self._error("columns that are keywords of texts or numbers", repr(column[:80]))
        return f"{tag:08X}", vr, column in STEP_KEYWORDS

    def _error(self, expected: str, found: object) -> UsageError:
        return UsageError(f"worklist: {self._path}: expected {expected}, found {found}")


def _entry(places: list[tuple[str, str, bool]], row: Iterable[Any]) -> Elements:
    top: Elements = {}
    step: Elements = {}
    for (tag, vr, is_of_step), cell in zip(places, row, strict=True):
        values = _values(vr, cell)
        if values:
            (step if is_of_step else top)[tag] = {"vr": vr, "Value": values}
    return top | {STEPS: {"vr": "SQ", "Value": [step]}}


def _values(vr: str, cell: Any) -> list[Any]:
    if isinstance(cell, list):
        return [value for one in cell for value in _values(vr, one)]
    text = _text(vr, cell)
    if not text:
        return []
    parts = [text] if vr in _ONE_TEXT else text.split("\\")
    if vr in _INTEGERS:
        return [int(part) for part in parts]
    if vr in _FLOATS:
        return [float(part) for part in parts]
    if vr == "PN":
        return [person_name_groups(part) for part in parts]
    return parts


def _text(vr: str, cell: Any) -> str:
    if cell is None:
        return ""
    if vr == "DA" and isinstance(cell, date):  # a datetime is one
        return cell.strftime("%Y%m%d")
    if vr == "TM" and isinstance(cell, time | datetime):
        return cell.strftime("%H%M%S")
    if vr == "DT" and isinstance(cell, datetime):
        return cell.strftime("%Y%m%d%H%M%S")
    return str(cell).strip()
