"""Connections of the web door: who keeps the gateway waiting holds no place that others need."""

import asyncio
import logging
import socket
import sys
from collections import OrderedDict
from contextlib import suppress
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from pacspark.gateway.limits import MOST_HALF_OPEN

LOGGER: Final = logging.getLogger(__name__)
_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_TAKEN_AT_ONCE: Final = 16
_WHY: Final = "plain HTTP, silence, or no certificate that client_ca believes"


class Listener(socket.socket):
    """A socket that listens for an event loop, and ends connections that do not become any.

    The loop tells of a connection when its TLS handshake is over. It lets that take a minute, and
    has any number of them at once; here the time is told, and the oldest makes room for the newest.
    Who takes nothing of an answer for a while is cut off, which only the system sees through TLS.

    Parameters
    ----------
    family
        of addresses
    begin_s
        for a handshake
    idle_s
        without a byte of an answer that is taken
    """

    def __init__(self, family: int, begin_s: float, idle_s: float) -> None:
        # with its protocol told, the event loop sets TCP_NODELAY: 40 ms less for each small answer
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._begin_s, self._idle_ms = begin_s, max(1, round(1000 * idle_s))
        self._half_open: OrderedDict[int, tuple[socket.socket, str]] = OrderedDict()
        self._taken = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """Take a connection; the event loop calls this until there is none.

        It is told that there is none after a few: what those that were taken say is read before
        so many more come that room is made of them.
        """
        if self._taken == _TAKEN_AT_ONCE:
            raise BlockingIOError
        connection, address = super().accept()
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._take_more)
        self._taken += 1
        if sys.platform == "linux":
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._idle_ms)
        place = connection.fileno()
        self._forget(place)  # one that was closed
        self._half_open[place] = (connection, str(address[0]))
        if len(self._half_open) > MOST_HALF_OPEN:
            self._forget(next(iter(self._half_open)))
        asyncio.get_running_loop().call_later(self._begin_s, self._require_begun, place, connection)
        return connection, address

    def _take_more(self) -> None:
        self._taken = 0

    def has_begun(self, place: int) -> None:
        """Take note that a connection can be spoken on.

        Parameters
        ----------
        place
            its descriptor
        """
        self._half_open.pop(place, None)

    def _require_begun(self, place: int, connection: socket.socket) -> None:
        if self._half_open.get(place, (None,))[0] is connection:
            self._forget(place)

    def _forget(self, place: int) -> None:
        """Let both ends see the end of a connection that became none; who reads here closes it."""
        connection, address = self._half_open.pop(place, (None, ""))
        if connection is not None:
            LOGGER.info("%s: HTTPS: no TLS was agreed on: %s", address, _WHY)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Connection(H11Protocol):
    """HTTP/1.1 on one connection; made by uvicorn, of a class that :func:`connections` gives.

    A first request has to come in time. Where there are more connections than there may be, the one
    goes that has kept the gateway waiting longest: for a request or the rest of one, or until it
    takes an answer. Who sends or takes something all the time is never that one. Where none waits,
    the newest is told to come again.
    """

    listener: Listener
    most: int
    first_request_s: float
    heard_of: "OrderedDict[Connection, None]"
    """All connections of one door; who was heard of longest ago comes first."""

    def connection_made(self, transport: Any) -> None:
        """Take a new connection, and let one go where there are too many."""
        super().connection_made(transport)
        self.listener.has_begun(transport.get_extra_info("socket").fileno())
        self._is_heard_of()
        self.loop.call_later(self.first_request_s, self._require_request)
        if len(self.heard_of) > self.most:
            oldest = next((one for one in self.heard_of if one is not self and one.waits), None)
            if oldest is not None:
                self.heard_of.pop(oldest)
                oldest.transport.abort()
            else:
                self.transport.write(_BUSY)
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection that has ended."""
        self.heard_of.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what a client sends."""
        self._is_heard_of()
        super().data_received(data)

    def resume_writing(self) -> None:
        """Go on with an answer that a client takes."""
        self._is_heard_of()
        super().resume_writing()

    @property
    def waits(self) -> bool:
        """Whether it is the client's turn."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused

    def _is_heard_of(self) -> None:
        self.heard_of[self] = None
        self.heard_of.move_to_end(self)

    def _require_request(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def connections(listener: Listener, most: int, first_request_s: float) -> type[Connection]:
    """Make the class of the connections of one door.

    Parameters
    ----------
    listener
        that takes them
    most
        at once
    first_request_s
        from the connection to a whole request head
    """
    told: dict[str, Any] = {"listener": listener, "most": most, "first_request_s": first_request_s}
    return type("_Connection", (Connection,), told | {"heard_of": OrderedDict()})
