"""What is sent, byte for byte, to peers that read slowly; and what is read before it is sent."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress

import pytest

from pacspark.errors import AssociationEndedError, ProtocolError, StorageError
from pacspark.gateway.config import Destination, Limits
from pacspark.gateway.dimse.commands import C_FIND, C_STORE, response
from pacspark.gateway.dimse.identifiers import write_identifier
from pacspark.gateway.dimse.link import Link
from pacspark.gateway.dimse.negotiation import Association, accept
from pacspark.gateway.dimse.sending import Outgoing, Sent, read_ahead, send_to
from pacspark.tables.landing import LARGE_BYTES
from tests.gateway.served import CT, LITTLE, object_of


def test_link__sends_all_to_a_peer_that_takes_little_at_a_time() -> None:
    data = bytes(range(251)) * 13_001  # some 3 MB: more parts than one call of the system takes
    here, there = socket.socketpair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    link = Link(here, Limits(), "a slow peer")
    got = bytearray()

    def read() -> None:
        while part := there.recv(7_001):
            got.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    command = {"CommandField": C_STORE, "MessageID": 1}
    parts: list[bytes | memoryview] = [data[:500_001], memoryview(data)[500_001:]]
    link.send(command, 3, iter(parts))
    link.close()
    reader.join(30)
    there.close()
    values, position = [b"", b""], 0
    while position < len(got):
        assert got[position : position + 2] == b"\4\0"
        length = int.from_bytes(got[position + 6 : position + 10])
        assert int.from_bytes(got[position + 2 : position + 6]) == length + 4 <= 4096
        assert got[position + 10] == 3
        is_command, is_last = got[position + 11] & 1, got[position + 11] & 2
        position += 10 + length
        values[is_command] += bytes(got[position - length + 2 : position])
        assert bool(is_last) == (position == len(got) or (is_command and not values[0]))
    assert values[0] == data


def outgoing(name: str, read: list[str], *pieces: bytes) -> Outgoing:
    def given() -> Iterator[bytes]:
        read.append(name)
        if not pieces:
            raise StorageError(name)
        yield from pieces

    return Outgoing(name, "", "", sum(map(len, pieces)), given)


def test_read_ahead__begins_the_next_object_and_no_more() -> None:
    read: list[str] = []
    names = [f"1.{n}" for n in range(4)]
    for place, one in enumerate(read_ahead(outgoing(n, read, n.encode(), b"!") for n in names)):
        assert one.sop_instance_uid == names[place]
        assert b"".join(one.pieces()) == names[place].encode() + b"!"
        assert set(names[: place + 1]) <= set(read) <= set(names[: place + 2])


def test_read_ahead__leaves_large_objects_where_they_are() -> None:
    read: list[str] = []
    large = [outgoing(n, read, bytes(LARGE_BYTES), b"!") for n in ("1", "2")]
    for one in read_ahead(large):
        assert one.sop_instance_uid not in read
        assert sum(map(len, one.pieces())) == LARGE_BYTES + 1
    assert read == ["1", "2"]


def test_read_ahead__fails_where_the_object_is_taken() -> None:
    read: list[str] = []
    one, other, third = read_ahead(
        iter([outgoing("1", read, b"x"), outgoing("2", read), outgoing("3", read, b"z")])
    )
    assert list(one.pieces()) == [b"x"]
    with pytest.raises(StorageError, match="2"):
        next(other.pieces())
    assert list(third.pieces()) == [b"z"]


def test_requests__that_wait_are_few() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link, peer = Link(ours, Limits(), "peer"), Link(theirs, Limits(), "gateway")
        large = write_identifier([(0x00104000, "LT", "x" * 60_000)], "1.2.840.10008.1.2.1")
        for number in range(9):
            peer.send({"CommandField": C_FIND, "MessageID": number}, 1, large)
            with pytest.raises(ProtocolError) if number == 8 else nullcontext():
                link.poll()
        link.discard()


HASTY = Limits(negotiate_s=1.0, idle_s=1.0)
EMPTY_COMMAND = bytes.fromhex("040000000006000000020101")
"""A part of a command of which no more ever comes, in a context that was accepted."""


def accepted(peer: socket.socket) -> Association:
    link = Link(peer, Limits(), "")
    return accept(link, "", Limits(), lambda *_: [LITTLE], lambda _: None)


def say_for_ever(peer: socket.socket) -> None:
    while True:
        peer.sendall(EMPTY_COMMAND)
        time.sleep(0.01)


def never_answer(peer: socket.socket) -> None:
    accepted(peer).link.receive()
    say_for_ever(peer)


def never_release(peer: socket.socket) -> None:
    association = accepted(peer)
    message = association.link.receive()
    assert message is not None
    association.link.send(response(message.command, 0), message.context_id)
    say_for_ever(peer)


def send_back(peer: socket.socket) -> None:
    association = accepted(peer)
    message = association.link.receive()
    assert message is not None
    told = {"CommandField": C_STORE, "MessageID": 1, "AffectedSOPClassUID": CT}
    association.link.send(told, message.context_id, (bytes(1 << 20) for _ in range(1 << 13)))


def accept_without_syntax(peer: socket.socket) -> None:
    Link(peer, Limits(), "").read_pdu(5)
    items = struct.pack(">BxH", 0x10, 21) + b"1.2.840.10008.3.1.1.1"
    items += struct.pack(">BxH4B", 0x21, 4, 1, 0, 0, 0)
    items += struct.pack(">BxHBxHI", 0x50, 8, 0x51, 4, 16384)
    body = b"\0\1\0\0" + b"SCP".ljust(16) + b"SCU".ljust(16) + bytes(32) + items
    peer.sendall(struct.pack(">BxI", 2, len(body)) + body)
    peer.recv(1)


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        (never_answer, "expected 6 bytes in time"),
        (never_release, ""),
        (send_back, "expected answers, found a C-STORE"),
        (accept_without_syntax, "expected association PDU"),
    ],
)
def test_peer__that_is_hostile_keeps_nobody(
    hostile: Callable[[socket.socket], None], said: str
) -> None:
    data = object_of("1.2.3")
    one = Outgoing("1.2.3", CT, LITTLE, len(data), lambda: iter([data]))
    reports: list[Sent] = []

    def send(port: int) -> None:
        reports.extend(send_to(Destination("SCP", "127.0.0.1", port), "SCU", [one], HASTY))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = threading.Thread(target=send, args=listener.getsockname()[1:], daemon=True)
        sender.start()
        peer, _ = listener.accept()
        with peer, suppress(OSError, AssociationEndedError):
            hostile(peer)
        sender.join(30)
    assert not sender.is_alive()
    assert reports[-1].remaining == 0
    assert [said in reason for reason in reports[-1].reasons] == ([True] if said else [])
