"""A seeded fuzzer of the DICOM upper layer: conversations of an honest peer, nearly sound."""

import random
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress

from pacspark.errors import AssociationEndedError
from pacspark.gateway.config import Destination, Limits
from pacspark.gateway.dimse.commands import (
    C_CANCEL,
    C_ECHO,
    C_FIND,
    C_GET,
    C_MOVE,
    C_STORE,
    N_ACTION,
)
from pacspark.gateway.dimse.identifiers import write_identifier
from pacspark.gateway.dimse.link import Link
from pacspark.gateway.dimse.negotiation import request
from pacspark.gateway.dimse.services import STUDY_ROOT, VERIFICATION
from tests.ct_objects import SERIES_UID, STUDY_UID
from tests.gateway.served import CT, LITTLE, data_set_of, object_of

COMMITMENT = "1.2.840.10008.1.20.1"
WORKLIST = "1.2.840.10008.5.1.4.31"
CLASSES = (
    VERIFICATION, CT, f"{STUDY_ROOT}.1", f"{STUDY_ROOT}.2", f"{STUDY_ROOT}.3", COMMITMENT, WORKLIST,
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 7, 0x7F, 0xFF, 0x100, 0xFFFE, 0xFFFF, 1 << 20, (1 << 20) + 1, 1 << 31,
           0xFFFFFFF0, 0xFFFFFFFF)  # fmt: skip
RELEASE, ABORT = b"\x05\0\0\0\0\x04\0\0\0\0", b"\x07\0\0\0\0\x04\0\0\0\0"


def association_request() -> bytes:
    """Record the association request of an honest peer."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hear() -> None:
            peer, _ = listener.accept()
            with peer:
                heard.append(peer.recv(1 << 16))

        thread = threading.Thread(target=hear)
        thread.start()
        here = Destination("PACSPARK", "127.0.0.1", listener.getsockname()[1])
        with suppress(AssociationEndedError):
            request(here, "FUZZER", [(uid, [LITTLE]) for uid in CLASSES], Limits(), scp_roles=[CT])
        thread.join()
    return heard[0]


def message(field: int, abstract: str, data_set: bytes | None = None, **more: object) -> bytes:
    """Give the PDUs of one message."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        told = {"CommandField": field, "MessageID": 1, "Priority": 0, **more}
        if field != N_ACTION:
            told["AffectedSOPClassUID"] = abstract
        Link(ours, Limits(), "").send(told, 2 * CLASSES.index(abstract) + 1, data_set)
        ours.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: theirs.recv(1 << 16), b""))


def pdus_of(data: bytes) -> list[bytes]:
    """Cut a stream into its PDUs."""
    found, position = [], 0
    while position < len(data):
        end = position + 6 + struct.unpack_from(">I", data, position + 2)[0]
        found.append(data[position:end])
        position = end
    return found


def identifier(level: str, *keys: tuple[int, str, object]) -> bytes:
    """Give the identifier of a query."""
    return write_identifier([(0x00080052, "CS", level), *keys], LITTLE)


def conversations() -> Mapping[str, list[bytes]]:
    """Give what honest peers say after the association request: PDUs, by name."""
    study = (0x0020000D, "UI", STUDY_UID)
    series = (0x0020000E, "UI", SERIES_UID)
    one = {"00081150": {"vr": "UI", "Value": [CT]}, "00081155": {"vr": "UI", "Value": ["1.2.3.4"]}}
    wanted = write_identifier(
        [(0x00081195, "UI", "1.2.3.5"), (0x00081199, "SQ", [one])], LITTLE
    )  # fmt: skip
    find, move, get = CLASSES[2:5]
    said = {
        "echo": message(C_ECHO, VERIFICATION),
        "store": message(
            C_STORE, CT, data_set_of(object_of("1.2.3.4")), AffectedSOPInstanceUID="1.2.3.4"
        ),
        "find": message(C_FIND, find, identifier("STUDY", study, (0x00100010, "PN", "*"))),
        "find images": message(C_FIND, find, identifier("IMAGE", study, series)),
        "cancel": message(C_FIND, find, identifier("STUDY"))
        + message(C_CANCEL, find, MessageIDBeingRespondedTo=1),
        "get": message(C_GET, get, identifier("STUDY", study)),
        "move": message(C_MOVE, move, identifier("STUDY", study), MoveDestination="NOBODY"),
        "commit": message(
            N_ACTION, COMMITMENT, wanted, RequestedSOPClassUID=COMMITMENT, ActionTypeID=1,
            RequestedSOPInstanceUID="1.2.840.10008.1.20.1.1",
        ),
        "worklist": message(C_FIND, WORKLIST, write_identifier([(0x00100010, "PN", "")], LITTLE)),
    }  # fmt: skip
    return {name: pdus_of(data) for name, data in said.items()}


class Fuzzer:
    """Gives streams of bytes, the same for the same seed; at least one PDU of each is malformed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._request = association_request()
        self._conversations = list(conversations().values())

    def streams(self, count: int) -> Iterator[bytes]:
        """Give so many of them."""
        chance = self._random
        for _ in range(count):
            said = [bytearray(one) for one in chance.choice(self._conversations)]
            if chance.random() < 0.3:
                said += [bytearray(one) for one in chance.choice(self._conversations)]
            said.append(bytearray(chance.choice((RELEASE, RELEASE, ABORT))))
            start = bytearray(self._request)
            if chance.random() < 0.3:
                self._mutate(start)
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                self._mutate(chance.choice(said))
            self._reorder(said)
            yield bytes(start + b"".join(said))

    def _mutate(self, pdu: bytearray) -> None:
        chance = self._random
        # most of what is interesting is in headers and commands
        reach = max(1, len(pdu) if chance.random() < 0.3 else min(len(pdu), 200))
        place = chance.randrange(reach)
        match chance.randrange(9):
            case 0:  # the PDU's length
                pdu[2:6] = struct.pack(">I", self._number(len(pdu) - 6))
            case 1:  # a length within
                size = chance.choice((1, 2, 4))
                packed = struct.pack(chance.choice(("<Q", ">Q")), self._number(size))
                pdu[place : place + size] = packed[-size:] if packed[0] == 0 else packed[:size]
            case 2:  # bits
                for _ in range(chance.randint(1, 8)):
                    if pdu:
                        pdu[min(place, len(pdu) - 1)] ^= 1 << chance.randrange(8)
                    place = chance.randrange(reach)
            case 3:  # another type
                pdu[0:1] = bytes([chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0xFF))])
            case 4:  # the end is missing
                del pdu[place:]
            case 5:  # more than there should be
                pdu[place:place] = chance.randbytes(chance.choice((1, 2, 6, 100, 5000)))
            case 6:  # less, and a length that knows it
                del pdu[place : place + chance.choice((1, 2, 4, 50))]
                pdu[2:6] = struct.pack(">I", max(0, len(pdu) - 6))
            case 7:  # context, control
                pdu[10:12] = chance.randbytes(2)
            case _:  # of another conversation
                other = chance.choice(chance.choice(self._conversations))
                begin = chance.randrange(len(other))
                pdu[place : place + 20] = other[begin : begin + chance.choice((4, 20, 500))]

    def _number(self, right: int) -> int:
        near = (right - 1, right + 1, right + 6)
        return self._random.choice((*NUMBERS, *(max(0, one) for one in near)))

    def _reorder(self, said: list[bytearray]) -> None:
        chance = self._random
        match chance.randrange(8):
            case 0:
                del said[chance.randrange(len(said))]
            case 1:
                said.insert(chance.randrange(len(said)), chance.choice(said))
            case 2:
                chance.shuffle(said)
            case 3:
                del said[chance.randrange(len(said)) :]
            case _:
                pass
