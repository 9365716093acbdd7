"""Film over DIMSE: Basic Grayscale Print Management as SCU (PS3.4 H).

A sheet is one film box that holds one image, drawn here: the printer lays nothing out, so that a
film shows the same on all printers::

    printer: N-GET ─▶ film session: N-CREATE
                        each sheet:  film box: N-CREATE ─▶ image box: N-SET ─▶ N-ACTION (print)
                                     ─▶ film box: N-DELETE
                      film session: N-DELETE
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from pacspark.errors import AssociationEndedError, ProtocolError, UsageError
from pacspark.gateway.config import Destination, Limits
from pacspark.gateway.dimse.commands import (
    N_ACTION,
    N_CREATE,
    N_DELETE,
    N_EVENT_REPORT,
    N_GET,
    N_SET,
    response,
)
from pacspark.gateway.dimse.identifiers import Elements, read_identifier, text_of, write_identifier
from pacspark.gateway.dimse.negotiation import Association, request
from pacspark.gateway.statuses import SUCCESS

GRAYSCALE_PRINT: Final = "1.2.840.10008.5.1.1.9"
"""The meta SOP class that holds those below."""
_FILM_SESSION, _FILM_BOX, _IMAGE_BOX = (
    "1.2.840.10008.5.1.1.1",
    "1.2.840.10008.5.1.1.2",
    "1.2.840.10008.5.1.1.4",
)
_PRINTER, _PRINTER_INSTANCE = "1.2.840.10008.5.1.1.16", "1.2.840.10008.5.1.1.17"
_PRINT: Final = 1
_MOST_COPIES: Final = 100
_DEPTH: Final = 4
_WARNINGS: Final = frozenset({0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)})
_CONTEXT_ID: Final = 1
_PATIENCE_S: Final = 600.0
"""For one answer, however much a printer tells of itself meanwhile."""


@dataclass(frozen=True, slots=True)
class FilmJob:
    """How sheets are printed.

    Attributes
    ----------
    copies
        of each sheet
    medium, film_size
        defined terms of Medium Type and Film Size ID
    """

    copies: int = 1
    medium: str = "BLUE FILM"
    film_size: str = "14INX17IN"

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= _MOST_COPIES:
            message = f"print: expected 1 to {_MOST_COPIES} copies, found {self.copies}"
            raise UsageError(message)


@contextmanager
def printing(
    destination: Destination,
    job: FilmJob,
    *,
    calling_ae_title: str = "PACSPARK",
    tls: ssl.SSLContext | None = None,
) -> Iterator["FilmSession"]:
    """Open a film session at a printer; it is deleted at the end, what was printed stays.

    Parameters
    ----------
    destination
        the printer
    job
        how
    calling_ae_title
        what to be called
    tls
        for a printer that wants it

    Raises
    ------
    AssociationEndedError
        where nobody answers, or the association ends early
    ProtocolError
        where the printer has failed, or refuses something
    """
    context = (GRAYSCALE_PRINT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = request(destination, calling_ae_title, [context], Limits(), tls)
    try:
        if _CONTEXT_ID not in association.contexts:
            message = f"{association.link.peer}: expected a printer of grayscale film, found none"
            raise ProtocolError(message)
        session = FilmSession(association, job)
        session.open()
        yield session
        session.close()
    finally:
        association.link.release()


class FilmSession:
    """A film session at a printer; see :func:`printing`.

    Attributes
    ----------
    warnings
        what the printer did otherwise than it was told, each once
    """

    def __init__(self, association: Association, job: FilmJob) -> None:
        self._link, self._peer, self._job = association.link, association.link.peer, job
        self._syntax = association.contexts[_CONTEXT_ID].transfer_syntax
        self._uid, self._messages = str(generate_uid()), 0
        self.warnings: list[str] = []

    def open(self) -> None:
        """Ask how the printer is, and create the session."""
        state = self._ask("tell of itself", N_GET, _PRINTER, _PRINTER_INSTANCE)
        status = text_of(state.get("21100010")) or "NORMAL"
        if status != "NORMAL":
            told = f"{status[:16]} {text_of(state.get('21100020'))[:64]}".strip()
            if status == "FAILURE":
                message = f"{self._peer}: expected a printer that is ready, found {told}"
                raise ProtocolError(message)
            self._warn(f"printer status {told}")
        session = {
            "NumberOfCopies": str(self._job.copies),
            "PrintPriority": "MED",
            "MediumType": self._job.medium,
            "FilmDestination": "PROCESSOR",
        }
        self._ask("create a film session", N_CREATE, _FILM_SESSION, self._uid, session)

    def print_sheet(self, pixels: NDArray[np.uint8]) -> None:
        """Print one sheet.

        Parameters
        ----------
        pixels
            ``(n_rows, n_columns)``, 0 is black
        """
        film_uid = str(generate_uid())
        film = {
            "ImageDisplayFormat": "STANDARD\\1,1",
            "FilmOrientation": "PORTRAIT",
            "FilmSizeID": self._job.film_size,
            "MagnificationType": "CUBIC",
            "ReferencedFilmSessionSequence": {
                "ReferencedSOPClassUID": _FILM_SESSION,
                "ReferencedSOPInstanceUID": self._uid,
            },
        }
        made = self._ask("create a film box", N_CREATE, _FILM_BOX, film_uid, film)
        boxes = made.get("20100510", {}).get("Value") or []
        if len(boxes) != 1 or not isinstance(boxes[0], dict):
            message = f"{self._peer}: expected a film box of one image, found {len(boxes)}"
            raise ProtocolError(message)
        box_uid = text_of(boxes[0].get("00081155"))
        self._ask("take an image", N_SET, _IMAGE_BOX, box_uid, _image_box(pixels))
        self._ask("print", N_ACTION, _FILM_BOX, film_uid)
        self._ask("delete a film box", N_DELETE, _FILM_BOX, film_uid)

    def close(self) -> None:
        """Delete the session."""
        self._ask("delete a film session", N_DELETE, _FILM_SESSION, self._uid)

    def _ask(
        self,
        what: str,
        field: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        told: Mapping[str, Any] | None = None,
    ) -> Elements:
        """Send a request; give what the answer holds, after success or a warning."""
        self._messages += 1
        side = "Affected" if field == N_CREATE else "Requested"
        command = {
            f"{side}SOPClassUID": sop_class_uid,
            "CommandField": field,
            "MessageID": self._messages,
            f"{side}SOPInstanceUID": sop_instance_uid,
            "ActionTypeID": _PRINT if field == N_ACTION else None,
        }
        data = None if told is None else write_identifier(_tagged(told), self._syntax)
        self._link.send(command, _CONTEXT_ID, data)
        deadline = monotonic() + _PATIENCE_S
        answer = self._link.receive(most_s=_PATIENCE_S)
        while answer is not None and answer.command["CommandField"] == N_EVENT_REPORT:
            # printers tell of themselves whenever they like
            self._link.send(response(answer.command, SUCCESS), _CONTEXT_ID)
            answer = self._link.receive(most_s=deadline - monotonic())
        if answer is None:
            message = f"{self._peer}: expected the printer to {what}, found no answer"
            raise AssociationEndedError(message)
        self._require(what, answer.command)
        identifier = answer.identifier()
        return read_identifier(identifier, self._syntax, _DEPTH) if identifier else {}

    def _require(self, what: str, answer: Mapping[str, Any]) -> None:
        status, comment = int(answer.get("Status", 0xC000)), answer.get("ErrorComment", "")
        found = f"status {status:04X}" + (f" ({comment[:64]})" if comment else "")
        if status in _WARNINGS:
            self._warn(f"asked to {what}: {found}")
        elif status != SUCCESS:
            message = f"{self._peer}: expected the printer to {what}, found {found}"
            raise ProtocolError(message)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _image_box(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    data = pixels.tobytes()
    return {
        "ImageBoxPosition": 1,
        "BasicGrayscaleImageSequence": {
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "PixelAspectRatio": ["1", "1"],
            "BitsAllocated": 8,
            "BitsStored": 8,
            "HighBit": 7,
            "PixelRepresentation": 0,
            "PixelData": data + b"\0" * (len(data) % 2),
        },
    }


def _tagged(told: Mapping[str, Any]) -> Iterator[tuple[int, str, Any]]:
    """Give tag, VR and value of keywords; a mapping is a sequence of one item."""
    for keyword, value in told.items():
        tag = tag_for_keyword(keyword) or 0
        if isinstance(value, Mapping):
            item = {
                f"{number:08X}": {"vr": vr, "Value": one if isinstance(one, list) else [one]}
                for number, vr, one in _tagged(value)
            }
            yield tag, "SQ", [item]
        else:
            yield tag, "OW" if keyword == "PixelData" else dictionary_VR(tag), value
