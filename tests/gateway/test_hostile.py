"""Hostile peers: whatever they send, an honest one is served meanwhile and afterwards."""

import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacspark.dicom.decode import data_set_start
from pacspark.errors import AssociationEndedError, ProtocolError, QueryError, UsageError
from pacspark.gateway import statuses
from pacspark.gateway.config import Destination, GatewayConfig, Limits, Tls
from pacspark.gateway.dimse.commands import C_ECHO, C_FIND, C_STORE, decode_command, encode_command
from pacspark.gateway.dimse.identifiers import read_identifier, write_identifier
from pacspark.gateway.dimse.link import ABORT, Link
from pacspark.gateway.dimse.negotiation import Association, request
from pacspark.gateway.dimse.services import STUDY_ROOT, VERIFICATION
from pacspark.gateway.dimse.serving import server_context
from pacspark.gateway.limits import MOST_HALF_OPEN, Doorkeeper
from pacspark.gateway.server import Gateway
from pacspark.tables.landing import LARGE_BYTES
from tests.ct_objects import SERIES_UID, ct_image, encoded
from tests.gateway.conftest import LIMITS
from tests.gateway.pdus import association_request
from tests.gateway.peers import dcmtk

LITTLE = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
SHORT = Limits(
    negotiate_s=0.4, idle_s=0.6, pdu_s=0.4, commit_s=3600, reserve_bytes=LIMITS.reserve_bytes
)


@contextmanager
def connected(gateway: Gateway) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", gateway.dimse.port), 30) as peer:
        yield peer


def echo(gateway: Gateway) -> None:
    assert "Success" in dcmtk("echoscu", "-v", "127.0.0.1", gateway.dimse.port)


def associated(gateway: Gateway, *contexts: str) -> Association:
    here = Destination("PACSPARK", "127.0.0.1", gateway.dimse.port)
    return request(here, "TEST", [(uid, [LITTLE]) for uid in contexts], LIMITS)


def end_of(peer: socket.socket) -> bytes:
    """Read until the gateway closes the connection."""
    received = b""
    try:
        while part := peer.recv(4096):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        bytes(100),
        b"\x01\x00\xff\xff\xff\xff" + bytes(100),
        b"\x04\x00\xff\xff\xff\xff" + bytes(100),
        b"\x04\x00\x00\x00\x00\x0a" + bytes(10),
        b"\x01\x00\x00\x00\x00\x44" + bytes(0x44),
        b"\x01\x00\x00\x00\x00\x50" + bytes(0x44) + b"\x20\x00\xff\xff" + bytes(8),
        b"\xff" * 1000,
    ],
)
def test_garbage__ends_its_connection_and_nothing_else(gateway: Gateway, sent: bytes) -> None:
    with connected(gateway) as peer:
        with suppress(ConnectionError, OSError):  # it may have ended already
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
        end_of(peer)
    echo(gateway)


def test_context__without_an_abstract_syntax_ends_its_connection(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    asked = association_request().replace(b"\x30\x00\x00\x11", b"\x40\x00\x00\x11", 1)
    with connected(gateway) as peer:
        peer.sendall(asked)
        assert end_of(peer)[:1] == bytes([ABORT])
    assert "Traceback" not in caplog.text
    echo(gateway)


def test_pdu_of_4_gib__is_refused_before_it_takes_memory(gateway: Gateway) -> None:
    before = psutil.Process().memory_info().rss
    with ExitStack() as stack:
        associations = [associated(gateway, VERIFICATION) for _ in range(20)]
        for association in associations:
            stack.callback(association.link.close)
            association.link._send([b"\x04\x00" + struct.pack(">I", 0xFFFFFFF0) + bytes(1000)])
        for association in associations:
            with pytest.raises(AssociationEndedError):
                association.link.receive()
        echo(gateway)
    assert psutil.Process().memory_info().rss - before < 64 << 20


def test_slow_peers__are_dropped_and_an_honest_one_is_served(
    start_gateway: Callable[..., Gateway],
) -> None:
    gateway = start_gateway(limits=SHORT)
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(gateway)) for _ in range(10)]
        dripping = stack.enter_context(connected(gateway))
        dripping.sendall(b"\x01\x00\x00\x00\x10\x00")
        idle = associated(gateway, VERIFICATION)
        half_a_pdu = associated(gateway, VERIFICATION)
        half_a_pdu.link._send([b"\x04\x00\x00\x00\x10\x00" + bytes(10)])
        echo(gateway)
        for peer in [*silent, dripping]:
            end_of(peer)
        for association in (idle, half_a_pdu):
            with pytest.raises(AssociationEndedError):
                association.link.receive()
    echo(gateway)


def test_dripping_peer__cannot_hold_on_by_sending_a_byte_now_and_then(
    start_gateway: Callable[..., Gateway],
) -> None:
    gateway = start_gateway(limits=SHORT)
    with connected(gateway) as peer:
        peer.sendall(b"\x01\x00\x00\x00\x10\x00")
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.05):
                try:
                    peer.sendall(b"\0")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        end_of(peer)
        ended.set()
        thread.join()


def test_half_open_connections__make_room_for_the_newest(gateway: Gateway) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(connected(gateway)) for _ in range(MOST_HALF_OPEN + 20)]
        for _ in range(3):
            echo(gateway)
        assert end_of(peers[0]) == b""
    echo(gateway)


def test_half_open_connections__of_tls_make_room_for_the_newest_too(
    start_gateway: Callable[..., Gateway], certificates: Path
) -> None:
    tls = Tls(certificates / "gateway.pem", certificates / "gateway.key")
    gateway = start_gateway(tls=tls, limits=replace(LIMITS, negotiate_s=3600))
    with ExitStack() as stack:
        peers = [stack.enter_context(connected(gateway)) for _ in range(MOST_HALF_OPEN + 20)]
        assert [end_of(peer) for peer in peers[:20]] == [b""] * 20
        gateway.dimse.close()
        assert {end_of(peer) for peer in peers} == {b""}


def test_associations__of_two_that_are_welcome_at_once_are_counted() -> None:
    doorkeeper = Doorkeeper(Limits(associations=1))
    with ExitStack() as stack:
        pairs = [[stack.enter_context(one) for one in socket.socketpair()] for _ in range(2)]
        links = [Link(ours, Limits(), "peer") for ours, _ in pairs]
        assert [doorkeeper.lets_in(link, "10.0.0.1") for link in links] == [True, True]
        assert [doorkeeper.associates(link, "10.0.0.1") for link in links] == [True, False]
        doorkeeper.lets_out(links[0])
        assert doorkeeper.associates(links[1], "10.0.0.1")


def test_associations__beyond_the_limit_are_rejected_for_now(
    start_gateway: Callable[..., Gateway],
) -> None:
    limits = Limits(associations=3, commit_s=3600, reserve_bytes=LIMITS.reserve_bytes)
    gateway = start_gateway(limits=limits)
    held = [associated(gateway, VERIFICATION) for _ in range(3)]
    with pytest.raises(AssociationEndedError, match="too many associations"):
        associated(gateway, VERIFICATION)
    held.pop().link.release()
    for _ in range(100):  # the thread of the one that ended has to end, too
        try:
            held.append(associated(gateway, VERIFICATION))
        except AssociationEndedError:
            continue
        break
    assert len(held) == 3
    for association in held:
        association.link.release()


def test_rate__of_one_address_is_limited(start_gateway: Callable[..., Gateway]) -> None:
    limits = Limits(associations_per_minute=5, commit_s=3600, reserve_bytes=LIMITS.reserve_bytes)
    gateway = start_gateway(limits=limits)
    for _ in range(5):
        associated(gateway, VERIFICATION).link.release()
    with pytest.raises(AssociationEndedError):
        associated(gateway, VERIFICATION)


def command(field: int, sop_class: str, uid: str | None = None) -> dict[str, object]:
    return {
        "AffectedSOPClassUID": sop_class,
        "CommandField": field,
        "MessageID": 1,
        "AffectedSOPInstanceUID": uid,
    }


@pytest.mark.parametrize("uid", ["../../../etc/passwd", "1.2.3\n4", "9" * 65, "", "a.b"])
def test_uid__that_is_none_names_nothing(gateway: Gateway, uid: str) -> None:
    association = associated(gateway, CT)
    association.link.send(command(C_STORE, CT, uid), 1, b"\x08\x00\x16\x00UI\x02\x001\0")
    with pytest.raises(AssociationEndedError):
        association.link.receive()
    assert len(gateway.store.index) == 0
    echo(gateway)


def test_object__that_is_no_data_set_is_refused_and_kept(gateway: Gateway) -> None:
    association = associated(gateway, CT)
    association.link.send(command(C_STORE, CT, "1.2.3"), 1, b"\xff" * 1000)
    answer = association.link.receive()
    assert answer is not None
    assert answer.command["Status"] == statuses.CANNOT_UNDERSTAND
    association.link.release()
    gateway.store.flush()
    assert gateway.store._catalog.rejects().num_rows == 1


def test_object__beyond_the_limit_ends_the_association(
    start_gateway: Callable[..., Gateway],
) -> None:
    limits = Limits(object_bytes=100_000, commit_s=3600, reserve_bytes=LIMITS.reserve_bytes)
    gateway = start_gateway(limits=limits)
    association = associated(gateway, CT)
    with suppress(AssociationEndedError):
        association.link.send(command(C_STORE, CT, "1.2.3"), 1, bytes(5_000_000))
    with pytest.raises(AssociationEndedError):
        association.link.receive()
    echo(gateway)


def test_large_object__for_which_there_is_no_room_is_refused_and_the_next_is_stored(
    gateway: Gateway,
) -> None:
    image = encoded(ct_image(np.zeros((2048, 2100), np.int16), 1, (0.0, 0.0, 0.0)))
    assert len(image) > LARGE_BYTES
    data_set, uid = image[data_set_start(image) :], f"{SERIES_UID}.1"
    association = associated(gateway, CT)
    for reserve, status in ((1 << 60, statuses.OUT_OF_RESOURCES), (0, statuses.SUCCESS)):
        gateway.store.landing.reserve_bytes = reserve
        association.link.send(command(C_STORE, CT, uid), 1, data_set)
        answer = association.link.receive()
        assert answer is not None
        assert answer.command["Status"] == status
    association.link.release()
    kept = gateway.store.read(gateway.store.instance(uid))
    assert kept[data_set_start(kept) :] == data_set


def nested(depth: int) -> bytes:
    item = b""
    for _ in range(depth):
        inner = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item
        item = b"\x08\x00\x99\x11SQ\x00\x00" + struct.pack("<I", len(inner)) + inner
    return item


@pytest.mark.parametrize(
    "identifier",
    [
        nested(20),
        nested(2000),
        b"\x08\x00\x52\x00CS\xff\xff",
        b"\x08\x00\x52\x00CS\x06\x00STUDY " * 2,
        b"".join(struct.pack("<HH", 9, n) + b"LO\x00\x00" for n in range(1, 3000)),
        bytes(2_000_000),
    ],
)
def test_identifier__that_is_hostile_is_refused(gateway: Gateway, identifier: bytes) -> None:
    association = associated(gateway, f"{STUDY_ROOT}.1")
    try:
        association.link.send(command(C_FIND, f"{STUDY_ROOT}.1"), 1, identifier)
        answer = association.link.receive()
        assert answer is not None
        assert answer.command["Status"] == statuses.DOES_NOT_MATCH
        association.link.release()
    except AssociationEndedError:
        assert len(identifier) > 1 << 20
    echo(gateway)


def test_messages__out_of_order_end_the_association(gateway: Gateway) -> None:
    association = associated(gateway, VERIFICATION)
    data = struct.pack(">IBB", 4, 1, 0) + b"xx"
    association.link.send_pdu(4, data)
    with pytest.raises(AssociationEndedError):
        association.link.receive()
    association = associated(gateway, VERIFICATION)
    association.link.send(command(C_ECHO, VERIFICATION), 77)
    with pytest.raises(AssociationEndedError):
        association.link.receive()
    echo(gateway)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_command_sets__are_decoded_or_refused(data: bytes) -> None:
    with suppress(ProtocolError):
        decode_command(data)


@given(
    st.fixed_dictionaries(
        {"CommandField": st.integers(0, 0xFFFF), "CommandDataSetType": st.integers(0, 0xFFFF)},
        optional={
            "AffectedSOPInstanceUID": st.from_regex(r"\A[0-9]{1,5}(\.[0-9]{1,5}){0,5}\Z"),
            "MoveDestination": st.from_regex(r"\A[A-Z]{1,16}\Z"),
            "Status": st.integers(0, 0xFFFF),
        },
    )
)
def test_command_sets__are_read_as_they_were_written(told: dict[str, object]) -> None:
    assert decode_command(encode_command(told)) == told


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["1.2.840.10008.1.2", LITTLE]))
def test_identifiers__are_read_or_refused(data: bytes, syntax: str) -> None:
    with suppress(QueryError):
        read_identifier(data, syntax, 8)


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["C"]), max_size=20).map(lambda t: t.strip("\\^= "))
)
def test_identifiers__are_read_as_they_were_written(name: str) -> None:
    name = name.replace("\\", "").replace("=", "")
    data = write_identifier([(0x00100010, "PN", name), (0x0020000D, "UI", "1.2")], LITTLE)
    read = read_identifier(data, LITTLE, 8)
    assert read["0020000D"]["Value"] == ["1.2"]
    assert read["00100010"].get("Value", [{}])[0].get("Alphabetic", "").strip() == name.strip()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=300))
def test_any_bytes__leave_the_gateway_up(gateway: Gateway, sent: bytes) -> None:
    with connected(gateway) as peer:
        with suppress(ConnectionError, OSError):  # it may have ended already
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
        end_of(peer)
    assert gateway.dimse._thread.is_alive()


def tls_without_certificate(port: int) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        suppress(ssl.SSLError, ConnectionError),
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain) as peer,
    ):
        peer.sendall(b"x")
        return peer.recv(1)
    return b""


def test_tls__serves_those_who_have_a_certificate(
    start_gateway: Callable[..., Gateway], certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Tls(certificates / "gateway.pem", certificates / "gateway.key", certificates / "ca.pem")
    gateway = start_gateway(tls=tls)
    port = gateway.dimse.port
    caller = ("+tls", certificates / "caller.key", certificates / "caller.pem")
    said = dcmtk("echoscu", "-v", *caller, "+cf", certificates / "ca.pem", "127.0.0.1", port)
    assert "Success" in said
    caplog.set_level(logging.INFO, "pacspark.gateway")
    dcmtk("echoscu", "127.0.0.1", port, fails=True)
    assert not tls_without_certificate(port)
    said = dcmtk("echoscu", "-v", *caller, "+cf", certificates / "ca.pem", "127.0.0.1", port)
    assert "Success" in said
    gateway.dimse.close()
    assert "no TLS: the peer does not speak it" in caplog.text
    assert "no TLS: the peer shows no certificate, which client_ca wants" in caplog.text


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("gateway.pem", "caller.key", None), "caller.key: key values mismatch"),
        (("gateway.pem", "gateway.key", "ca.key"), "tls.client_ca: expected PEM certificates"),
    ],
)
def test_tls__whose_files_do_not_fit_is_one_line(
    certificates: Path, files: tuple[str | None, ...], said: str
) -> None:
    tls = Tls(*(certificates / name if name else None for name in files))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said):
        server_context(GatewayConfig(tls=tls))
