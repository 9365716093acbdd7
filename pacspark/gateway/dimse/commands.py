"""Command sets of DIMSE messages (PS3.7 6.3.1, E): implicit VR little endian, group 0000."""

import struct
from collections.abc import Mapping
from typing import Any, Final

from pydicom.datadict import tag_for_keyword

from pacspark.errors import ProtocolError

Command = dict[str, Any]
"""A command set by keyword: numbers and texts."""

NO_DATA_SET: Final = 0x0101
DATA_SET: Final = 0x0001
RESPONSE: Final = 0x8000
C_STORE: Final = 0x0001
C_GET: Final = 0x0010
C_FIND: Final = 0x0020
C_MOVE: Final = 0x0021
C_ECHO: Final = 0x0030
N_EVENT_REPORT: Final = 0x0100
N_GET: Final = 0x0110
N_SET: Final = 0x0120
N_ACTION: Final = 0x0130
N_CREATE: Final = 0x0140
N_DELETE: Final = 0x0150
C_CANCEL: Final = 0x0FFF

_NUMBERS: Final = (
    "CommandField MessageID MessageIDBeingRespondedTo Priority CommandDataSetType Status ErrorID "
    "EventTypeID ActionTypeID NumberOfRemainingSuboperations NumberOfCompletedSuboperations "
    "NumberOfFailedSuboperations NumberOfWarningSuboperations MoveOriginatorMessageID"
).split()
_UIDS: Final = (
    "AffectedSOPClassUID RequestedSOPClassUID AffectedSOPInstanceUID RequestedSOPInstanceUID"
).split()
_TEXTS: Final = "MoveDestination MoveOriginatorApplicationEntityTitle ErrorComment".split()
_NUMBER_TAGS: Final = {tag_for_keyword(keyword): keyword for keyword in _NUMBERS}
_TEXT_TAGS: Final = {tag_for_keyword(keyword): keyword for keyword in (*_UIDS, *_TEXTS)}
_ELEMENT: Final = struct.Struct("<HHI")
_MOST_COMMENT_CHARACTERS: Final = 64


def decode_command(data: bytes) -> Command:
    """Decode a command set; elements that no service here needs are passed over.

    Raises
    ------
    ProtocolError
        where it is none
    """
    command: Command = {}
    position = 0
    while position < len(data):
        if position + 8 > len(data):
            message = "command set: expected a whole element, found the end of the bytes"
            raise ProtocolError(message)
        group, element, length = _ELEMENT.unpack_from(data, position)
        value = data[position + 8 : position + 8 + length]
        tag = group << 16 | element
        if group != 0 or len(value) != length:
            message = (
                f"command set: expected elements of group 0000, found ({group:04X},{element:04X})"
            )
            raise ProtocolError(message)
        if tag in _NUMBER_TAGS and length == 2:
            command[_NUMBER_TAGS[tag]] = int.from_bytes(value, "little")
        elif tag in _TEXT_TAGS:
            command[_TEXT_TAGS[tag]] = value.decode("latin_1").strip(" \0")
        position += 8 + length
    if "CommandField" not in command or "CommandDataSetType" not in command:
        message = "command set: expected a command field and a data set type, found neither or one"
        raise ProtocolError(message)
    return command


def encode_command(command: Mapping[str, Any]) -> bytes:
    """Encode a command set; keys whose value is None are left out."""
    elements = []
    for keyword, value in command.items():
        if value is None:
            continue
        tag = tag_for_keyword(keyword) or 0
        if tag in _NUMBER_TAGS:
            encoded = int(value).to_bytes(2, "little")
        else:
            text = str(value)
            if keyword == "ErrorComment":
                text = text[:_MOST_COMMENT_CHARACTERS]
            encoded = text.encode("ascii", "replace")
            padding = b"\0" if keyword in _UIDS else b" "
            encoded += padding * (len(encoded) % 2)
        elements.append((tag, encoded))
    body = b"".join(
        _ELEMENT.pack(tag >> 16, tag & 0xFFFF, len(encoded)) + encoded
        for tag, encoded in sorted(elements)
    )
    return _ELEMENT.pack(0, 0, 4) + len(body).to_bytes(4, "little") + body


def response(request: Mapping[str, Any], status: int, **more: Any) -> Command:
    """Make the command set of the response to a request."""
    return {
        "AffectedSOPClassUID": request.get("AffectedSOPClassUID")
        or request.get("RequestedSOPClassUID"),
        "CommandField": request["CommandField"] | RESPONSE,
        "MessageIDBeingRespondedTo": request.get("MessageID", 0),
        "CommandDataSetType": NO_DATA_SET,
        "Status": status,
        **more,
    }
