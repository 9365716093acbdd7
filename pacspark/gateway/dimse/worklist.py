"""Modality worklist (PS3.4 K): C-FIND over a folder of DICOM worklist files, or over a table.

A file holds one requested procedure; each item of its Scheduled Procedure Step Sequence is one
entry. Files are read again when they change. A file that cannot be read is passed over, with a line
in the log; nothing in the folder is ever written.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Final

from pacspark.dicom.conditions import Condition
from pacspark.dicom.decode import data_set_start
from pacspark.dicom.elements import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from pacspark.dicom.matching import parse_query
from pacspark.dicom.stream import MemoryStream
from pacspark.dicom.walk import DataSetWalk
from pacspark.errors import DicomDecodeError, QueryError
from pacspark.gateway import statuses
from pacspark.gateway.dimse.identifiers import (
    Elements,
    is_key,
    keys_inside,
    plain_value,
    shown,
    text_of,
    write_identifier,
)
from pacspark.gateway.dimse.link import Message
from pacspark.gateway.dimse.session import Session
from pacspark.gateway.dimse.worklist_table import STEPS, WorklistTable, is_table
from pacspark.gateway.searching import fuzzy_keys

LOGGER: Final = logging.getLogger(__name__)
_MOST_FILE_BYTES: Final = 4 << 20
_MOST_FILES: Final = 100_000
_START: Final = ("00400002", "00400003")
"""Date and time that a scheduled procedure step starts."""


@dataclass(frozen=True, slots=True)
class _File:
    stamp: tuple[int, int]
    elements: Elements | None


class Worklist:
    """The entries of a folder, in memory; safe for threads.

    Parameters
    ----------
    folder
        of worklist files, with any names
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, _File] = {}
        self._lock = Lock()

    def entries(self) -> list[Elements]:
        """Give all entries, each with one scheduled procedure step, as the folder is now."""
        with self._lock:
            try:
                paths = sorted(path for path in self._folder.iterdir() if path.is_file())
            except OSError as error:
                LOGGER.warning("worklist: %s: %s", self._folder, error.strerror)
                paths = []
            self._files = {
                path: file for path in paths[:_MOST_FILES] if (file := self._file(path)) is not None
            }
            documents = [file.elements for file in self._files.values() if file.elements]
        return [
            document | {STEPS: {"vr": "SQ", "Value": [step]}}
            for document in documents
            for step in document.get(STEPS, {}).get("Value", ())
            if isinstance(step, dict)  # whatever a file says that the sequence is
        ]

    def _file(self, path: Path) -> _File | None:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            known = self._files.get(path)
            if known is not None and known.stamp == stamp:
                return known
            if status.st_size > _MOST_FILE_BYTES:
                message = f"expected at most {_MOST_FILE_BYTES} bytes, found {status.st_size}"
                raise DicomDecodeError(message)
            return _File(stamp, _read(path.read_bytes()))
        except DicomDecodeError as error:
            LOGGER.warning("worklist: %s: %s", path, error)
            return _File(stamp, None)
        except OSError:
            return None


def worklist_of(path: Path) -> Worklist | WorklistTable:
    """Open a worklist.

    Raises
    ------
    UsageError
        where it is a table that cannot be one
    """
    return WorklistTable(path) if is_table(path) else Worklist(path)


def _read(data: bytes) -> Elements:
    start = data_set_start(data)
    explicit = data[start + 4 : start + 6].isalpha() and data[start + 4 : start + 6].isupper()
    walk = DataSetWalk(MemoryStream(data))
    elements: Elements = json.loads(
        walk.run(start, EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE)
    )
    return elements


def find_worklist(session: Session, message: Message) -> None:
    """Answer a worklist query: one pending response per scheduled procedure step that matches."""
    asked = session.identifier(message)
    syntax = session.context(message).transfer_syntax
    steps = asked.get(STEPS, {}).get("Value") or [{}]
    if len(steps) > 1:
        text = f"ScheduledProcedureStepSequence: expected one item, found {len(steps)}"
        raise QueryError(text)
    fuzzy = session.agreed(message)[2]
    conditions, step_conditions = (_conditions(one, fuzzy=fuzzy) for one in (asked, steps[0]))
    entries = [] if session.worklist is None else session.worklist.entries()
    message_id = message.command.get("MessageID", 0)
    sent, status, outcome = 0, statuses.SUCCESS, "success"
    for entry in entries:
        step = entry[STEPS]["Value"][0]
        if not (_meets(entry, conditions) and _meets(step, step_conditions)):
            continue
        identifier = _told(asked, entry, syntax)
        if identifier is None:
            continue
        if session.association.link.is_cancelled(message_id):
            status, outcome = statuses.CANCELLED, "cancelled"
            break
        if sent >= session.config.limits.answers:
            status, outcome = statuses.OUT_OF_RESOURCES, f"failed: more than {sent} matches"
            break
        session.answer(message, statuses.PENDING, identifier)
        sent += 1
    session.record("worklist", outcome, matches=sent)
    session.answer(message, status)


def _told(asked: Elements, entry: Elements, syntax: str) -> bytes | None:
    """Write what is asked of an entry; None where it holds what cannot be written."""
    answer = shown(asked, entry)
    try:
        return write_identifier(
            ((int(tag, 16), one["vr"], plain_value(one)) for tag, one in answer.items()), syntax
        )
    except Exception as error:  # noqa: BLE001 -- pydicom's, of any kind; one entry hides no other
        told = " ".join(str(error).split())[:200]
        LOGGER.warning("worklist: an entry is passed over: it cannot be written: %s", told)
        return None


def _conditions(asked: Elements, *, fuzzy: bool) -> list[Condition]:
    """Make the conditions of one level; all are held against DICOM JSON, no column is at hand."""
    keys: dict[str, str] = {}
    for tag, element in asked.items():
        if element.get("vr") == "SQ":
            keys |= {} if tag == STEPS else dict(keys_inside(tag, element))
        elif is_key(tag):
            keys[tag] = text_of(element)
    # of two ranges, the times belong to the first and the last day (PS3.4 K.6.1.2.2)
    combined = all("-" in keys.get(tag, "") for tag in _START)
    query = parse_query(
        fuzzy_keys(keys) if fuzzy else keys, "instance", combined_date_time=combined
    )
    return [_in_json(condition) for condition in query.conditions]


def _in_json(condition: Condition) -> Condition:
    time = None if condition.time is None else _in_json(condition.time)
    return replace(condition, key=replace(condition.key, column=None, level=None), time=time)


def _meets(elements: Mapping[str, Any], conditions: list[Condition]) -> bool:
    return all(condition.matches({"dicom_json": elements}) for condition in conditions)
