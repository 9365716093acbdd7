"""One connection of the DICOM upper layer (PS3.8 9.3): PDUs and messages, in the thread that asks.

pynetdicom has two threads per association, which look at each other once a millisecond; it trusts a
PDU's length of 32 bits, and gives the data sets of C-GET and C-MOVE anew to its encoder. Here one
thread reads when it has nothing else to do, lengths and waiting are bounded before a byte is read,
and data sets are the bytes that they were. What goes into association requests and answers is
pynetdicom's (see :mod:`pacspark.gateway.dimse.negotiation`).
"""

import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from math import inf
from time import monotonic
from typing import Final

from pacspark.errors import AssociationEndedError, ProtocolError
from pacspark.gateway.config import Limits
from pacspark.gateway.dimse.commands import (
    C_CANCEL,
    C_STORE,
    DATA_SET,
    NO_DATA_SET,
    RESPONSE,
    Command,
    decode_command,
    encode_command,
)
from pacspark.tables.spool import Spool

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
_PDU_HEADER: Final = struct.Struct(">BxI")
_PDV_HEADER: Final = struct.Struct(">IBB")
_COMMAND, _LAST = 1, 2
_MOST_COMMAND_BYTES: Final = 64 << 10
_SENT_AT_ONCE_BYTES: Final = 1 << 20
_MOST_PARTS: Final = 512
"""The system takes no more in one call."""
_LEAST_PDU_BYTES: Final = 4096
_UNLIMITED_PDU_BYTES: Final = 1 << 20
_MOST_WAITING: Final = 8
"""Requests of a peer that has not been told that it may send more than one; each has its bytes."""
_MOST_CANCELLED: Final = 64
_UNEXPECTED_PDU, _UNRECOGNIZED_PDU, _INVALID_PARAMETER = 2, 1, 6


@dataclass(slots=True)
class Message:
    """One DIMSE message: its command set, and its data set where it has one."""

    command: Command
    context_id: int
    data_set: Spool | None = None

    def identifier(self) -> bytes:
        """Give a data set that has to be small, as bytes."""
        if self.data_set is None:
            return b""
        data = self.data_set.data()
        return data if isinstance(data, bytes) else data.read()


@dataclass(slots=True)
class _Incoming:
    """A message of which something is still to come."""

    context_id: int
    command_bytes: bytearray = field(default_factory=bytearray)
    message: Message | None = None
    most_bytes: int = 0


class Link:
    """A connection to one peer.

    Parameters
    ----------
    connection
        a connected socket, with TLS where that is wanted
    limits
        of lengths and of waiting
    peer
        for messages

    Attributes
    ----------
    peer_pdu_bytes
        the longest PDU that the peer takes
    cancelled
        numbers of messages whose operation the peer has cancelled
    released
        whether the peer has released the association
    begin_object
        gives where the data set of a C-STORE goes, for its command and context; what comes before
        it in a file is written there
    """

    def __init__(self, connection: socket.socket, limits: Limits, peer: str) -> None:
        self.limits, self.peer = limits, peer
        self.peer_pdu_bytes = _LEAST_PDU_BYTES
        self.cancelled: set[int] = set()
        self.released = False
        self.begin_object: Callable[[Command, int], Spool] = lambda _command, _context_id: Spool()
        self._connection = connection
        self._shakes_hands = False
        self._incoming: _Incoming | None = None
        self._ready: deque[Message] = deque()
        with suppress(OSError):  # or each exchange waits for a delayed acknowledgement
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def secure(self, context: ssl.SSLContext) -> None:
        """Speak TLS from here on, as a server.

        Raises
        ------
        OSError
            where the peer does not, or has no certificate that is wanted
        """
        self._shakes_hands = True
        try:
            secured = context.wrap_socket(
                self._connection, server_side=True, do_handshake_on_connect=False
            )
            self._connection = secured
            secured.do_handshake()
        finally:
            self._shakes_hands = False

    def close(self) -> None:
        """Close the connection; safe to repeat, and from another thread."""
        with suppress(OSError):
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
        if not self._shakes_hands:  # else the thread that does sees the end, and closes it
            self._connection.close()

    def discard(self) -> None:
        """Let go of what has come in; for the thread that reads, once the connection is closed."""
        half = self._incoming.message if self._incoming is not None else None
        for message in [*self._ready, *([half] if half is not None else [])]:
            if message.data_set is not None:
                message.data_set.close()

    # PDUs

    def read_pdu(self, wait_s: float, rest_s: float | None = None) -> tuple[int, bytearray]:
        """Read one PDU: its type and what follows its length.

        Parameters
        ----------
        wait_s
            for its first byte
        rest_s
            for all of it, from the first byte on; None for the limit

        Raises
        ------
        AssociationEndedError
            where the peer is gone or silent
        ProtocolError
            where the PDU is longer than it may be, or of no known type
        """
        head = self._receive(6, monotonic() + wait_s)
        deadline = monotonic() + (self.limits.pdu_s if rest_s is None else rest_s)
        kind, length = _PDU_HEADER.unpack(head)
        if not ASSOCIATE_RQ <= kind <= ABORT:
            self.abort(_UNRECOGNIZED_PDU)
            message = f"{self.peer}: expected a PDU of type 1 to 7, found type {kind}"
            raise ProtocolError(message)
        if length > self.limits.pdu_bytes:
            self.abort(_INVALID_PARAMETER)
            message = (
                f"{self.peer}: expected a PDU of at most {self.limits.pdu_bytes} bytes, found one "
                f"of {length}"
            )
            raise ProtocolError(message)
        return kind, self._receive(length, deadline)

    def _receive(self, length: int, deadline: float) -> bytearray:
        data = bytearray(length)
        view, have = memoryview(data), 0
        try:
            while have < length:
                left = deadline - monotonic()
                if left <= 0:
                    raise TimeoutError
                self._connection.settimeout(left)
                got = self._connection.recv_into(view[have:])
                if not got:
                    message = f"{self.peer}: expected {length} bytes, found the connection closed"
                    raise AssociationEndedError(message)
                have += got
        except TimeoutError as error:
            self.abort(0)
            message = f"{self.peer}: expected {length} bytes in time, found {have}"
            raise AssociationEndedError(message) from error
        except OSError as error:
            self.close()
            if isinstance(error, AssociationEndedError):
                raise
            message = f"{self.peer}: the connection was lost: {error.strerror or error}"
            raise AssociationEndedError(message) from error
        return data

    def send_pdu(self, kind: int, body: bytes) -> None:
        """Send one PDU."""
        self._send([_PDU_HEADER.pack(kind, len(body)) + body])

    def _send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send some parts in a row, without a copy of them but for TLS."""
        has_tls = isinstance(self._connection, ssl.SSLSocket)
        left = deque([b"".join(parts)] if has_tls else parts)
        deadline = monotonic() + self.limits.idle_s
        try:
            while left:
                left_s = deadline - monotonic()
                if left_s <= 0:
                    raise TimeoutError("timed out")
                self._connection.settimeout(left_s)
                if has_tls:
                    sent = self._connection.send(left[0])
                else:
                    sent = self._connection.sendmsg(list(islice(left, _MOST_PARTS)))
                while left and sent >= len(left[0]):
                    sent -= len(left.popleft())
                if sent:
                    left[0] = memoryview(left[0])[sent:]
        except OSError as error:
            self.close()
            message = f"{self.peer}: the connection was lost: {error.strerror or error}"
            raise AssociationEndedError(message) from error

    def abort(self, reason: int = 0) -> None:
        """Send A-ABORT, as far as that is possible, and close the connection."""
        source = 2 if reason else 0
        with suppress(OSError):
            if not self._shakes_hands:
                self._connection.settimeout(1)
                self._connection.sendall(_PDU_HEADER.pack(ABORT, 4) + bytes([0, 0, source, reason]))
        self.close()

    def release(self) -> None:
        """Ask for the release of the association, wait for it, and close."""
        deadline, answers = monotonic() + self.limits.negotiate_s, {RELEASE_RP, RELEASE_RQ, ABORT}
        with suppress(AssociationEndedError, ProtocolError):
            self.send_pdu(RELEASE_RQ, bytes(4))
            while self.read_pdu(max(deadline - monotonic(), 0.0))[0] not in answers:
                pass
        self.close()

    # messages

    def receive(self, wait_s: float | None = None, most_s: float = inf) -> Message | None:
        """Wait for the next message.

        Parameters
        ----------
        wait_s
            for each of its PDUs; None for the limit
        most_s
            for the whole of it: where this side asked, a peer may not keep it for ever

        Returns
        -------
        Message
            None where the peer released the association, which is answered

        Raises
        ------
        AssociationEndedError
            where the peer aborted, is gone or silent
        ProtocolError
            where it broke the protocol; the association is aborted
        """
        deadline = monotonic() + most_s
        each_s = self.limits.idle_s if wait_s is None else wait_s
        while not self._ready and not self.released:
            self._take_pdu(min(each_s, max(deadline - monotonic(), 0.0)))
        return self._ready.popleft() if self._ready else None

    def answer_to(self, request: int, wait_s: float) -> Message | None:
        """Wait for the answer to what this side asked; requests that come first go on waiting.

        Parameters
        ----------
        request
            its command field
        wait_s
            for the answer; errors are those of :meth:`receive`

        Returns
        -------
        Message
            None where the peer released the association
        """
        deadline = monotonic() + wait_s
        while True:
            for place, message in enumerate(self._ready):
                if message.command["CommandField"] == request | RESPONSE:
                    del self._ready[place]
                    return message
            if self.released:
                return None
            self._take_pdu(max(deadline - monotonic(), 0.0))

    def poll(self) -> None:
        """Take what has come in without waiting for it: C-CANCEL, mostly."""
        while not self.released and self._is_readable():
            self._take_pdu(self.limits.pdu_s)

    def is_cancelled(self, message_id: int) -> bool:
        """Tell whether the peer has cancelled an operation."""
        self.poll()
        return message_id in self.cancelled

    def _is_readable(self) -> bool:
        if isinstance(self._connection, ssl.SSLSocket) and self._connection.pending():
            return True
        try:
            return bool(select.select([self._connection], [], [], 0)[0])
        except (OSError, ValueError):
            return False

    def _take_pdu(self, wait_s: float) -> None:
        kind, body = self.read_pdu(wait_s)
        if kind == P_DATA:
            try:
                self._take_values(body)
            except ProtocolError:
                self.abort(_INVALID_PARAMETER)
                raise
        elif kind == RELEASE_RQ:
            self.released = True
            self.send_pdu(RELEASE_RP, bytes(4))
        elif kind == ABORT:
            self.close()
            message = f"{self.peer}: the peer aborted the association"
            raise AssociationEndedError(message)
        else:
            self.abort(_UNEXPECTED_PDU)
            message = f"{self.peer}: expected data or the release, found a PDU of type {kind}"
            raise ProtocolError(message)

    def _take_values(self, body: bytearray) -> None:
        view, position = memoryview(body), 0
        while position < len(body):
            if position + 6 > len(body):
                message = f"{self.peer}: expected a presentation data value, found the PDU's end"
                raise ProtocolError(message)
            length, context_id, control = _PDV_HEADER.unpack_from(body, position)
            end = position + 4 + length
            if length < 2 or end > len(body):
                message = (
                    f"{self.peer}: expected a value within its PDU, found one of {length} bytes"
                )
                raise ProtocolError(message)
            self._take_value(context_id, control, view[position + 6 : end])
            position = end

    def _take_value(self, context_id: int, control: int, value: memoryview) -> None:
        if self._incoming is None:
            self._incoming = _Incoming(context_id)
        incoming = self._incoming
        is_command = bool(control & _COMMAND)
        if incoming.context_id != context_id or is_command != (incoming.message is None):
            message = f"{self.peer}: expected the rest of a message, found a part of another"
            raise ProtocolError(message)
        if incoming.message is None:
            self._take_command(incoming, value, is_last=bool(control & _LAST))
            if incoming.message is None or incoming.message.data_set is not None:
                return
        elif incoming.message.data_set is not None:
            data_set = incoming.message.data_set
            data_set.write(value)
            if data_set.size_bytes > incoming.most_bytes:
                data_set.close()
                message = (
                    f"{self.peer}: data set: expected at most {incoming.most_bytes} bytes, found "
                    "more"
                )
                raise ProtocolError(message)
            if not control & _LAST:
                return
        self._incoming = None
        self._take_message(incoming.message)

    def _take_command(self, incoming: _Incoming, value: memoryview, *, is_last: bool) -> None:
        incoming.command_bytes += value
        if len(incoming.command_bytes) > _MOST_COMMAND_BYTES:
            message = f"{self.peer}: expected at most {_MOST_COMMAND_BYTES} bytes of command"
            raise ProtocolError(message)
        if not is_last:
            return
        command = decode_command(bytes(incoming.command_bytes))
        incoming.message = Message(command, incoming.context_id)
        if command["CommandDataSetType"] != NO_DATA_SET:
            if command["CommandField"] == C_STORE:
                incoming.most_bytes = self.limits.object_bytes
                incoming.message.data_set = self.begin_object(command, incoming.context_id)
            else:
                incoming.most_bytes = self.limits.identifier_bytes
                incoming.message.data_set = Spool()

    def _take_message(self, message: Message) -> None:
        if message.command["CommandField"] == C_CANCEL:
            if len(self.cancelled) < _MOST_CANCELLED:
                self.cancelled.add(message.command.get("MessageIDBeingRespondedTo", 0))
            return
        self._ready.append(message)
        if len(self._ready) > _MOST_WAITING:
            text = f"{self.peer}: expected at most {_MOST_WAITING} operations to wait, found more"
            raise ProtocolError(text)

    def send(
        self,
        command: Command,
        context_id: int,
        data_set: bytes | Iterable[bytes | memoryview] | None = None,
    ) -> None:
        """Send one message.

        Parameters
        ----------
        command
            whose ``CommandDataSetType`` is set here
        context_id
            of the presentation context
        data_set
            encoded in its transfer syntax: whole, or in parts
        """
        told = DATA_SET if data_set is not None else NO_DATA_SET
        encoded = encode_command(command | {"CommandDataSetType": told})
        waiting: list[bytes | memoryview] = []
        waiting_bytes = 0
        pdus = self._pdus(context_id, _COMMAND, [encoded])
        if data_set is not None:
            parts = [data_set] if isinstance(data_set, bytes | memoryview) else data_set
            pdus = chain(pdus, self._pdus(context_id, 0, parts))
        for header, value in pdus:
            waiting += (header, value)
            waiting_bytes += len(value)
            if waiting_bytes >= _SENT_AT_ONCE_BYTES:
                self._send(waiting)
                waiting.clear()
                waiting_bytes = 0
        if waiting:
            self._send(waiting)

    def _pdus(
        self, context_id: int, control: int, parts: Iterable[bytes | memoryview]
    ) -> Iterator[tuple[bytes, memoryview]]:
        """Cut a stream into PDUs that the peer takes, headers and values; the last one says so."""
        most = self.peer_pdu_bytes - 6 & ~1  # fragments have an even length
        full = self._header(context_id, control, most)
        waiting = memoryview(b"")
        for part in parts:
            view = memoryview(bytes(waiting) + part) if waiting else memoryview(part)
            start = 0
            while len(view) - start > most:
                yield full, view[start : start + most]
                start += most
            waiting = view[start:]
        yield self._header(context_id, control | _LAST, len(waiting)), waiting

    @staticmethod
    def _header(context_id: int, control: int, length: int) -> bytes:
        pdu = _PDU_HEADER.pack(P_DATA, length + 6)
        return pdu + _PDV_HEADER.pack(length + 2, context_id, control)


def usable_pdu_bytes(told: int | None) -> int:
    """Give the size of PDUs to send to a peer that told its maximum; 0 is none (PS3.8 D.1)."""
    if not told:
        return _UNLIMITED_PDU_BYTES
    return min(max(told, 16), _UNLIMITED_PDU_BYTES)
