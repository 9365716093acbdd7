"""C-GET, C-MOVE and `pacspark send`: out as it went in, counted, and decoded only where needed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, build_role, evt

from pacspark.dicom.decode import data_set_start, index_instance
from pacspark.gateway import statuses
from pacspark.gateway.config import Caller, Destination, Tls
from pacspark.gateway.dimse import retrieving
from pacspark.gateway.dimse.commands import C_CANCEL, C_GET, C_MOVE, C_STORE, RESPONSE
from pacspark.gateway.dimse.identifiers import write_identifier
from pacspark.gateway.dimse.negotiation import Association, request
from pacspark.gateway.dimse.sending import client_context
from pacspark.gateway.dimse.services import STUDY_ROOT
from pacspark.gateway.server import Gateway
from pacspark.gateway.transcoding import transcoded
from tests.conftest import missing
from tests.ct_objects import STUDY_UID, ct_image, encoded
from tests.gateway.conftest import LIMITS
from tests.gateway.peers import BIN, dcmtk
from tests.gateway.test_dimse import written
from tests.servers import free_port, wait_until

MOVE, GET = f"{STUDY_ROOT}.2", f"{STUDY_ROOT}.3"
CT = "1.2.840.10008.5.1.4.1.1.2"


def data_set(data: bytes) -> bytes:
    return data[data_set_start(data) :]


@contextmanager
def receiver(folder: Path, *options: str, echo: Sequence[str] = ()) -> Iterator[int]:
    """Run storescp, which writes what it gets into a folder, byte for byte."""
    if not (BIN / "storescp").exists():
        missing("dcmtk")
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(
        [str(BIN / "storescp"), "-v", "+B", "+xa", *options, "-od", str(folder), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_until(lambda: _answers_echo(port, echo), "storescp", [process])
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _answers_echo(port: int, options: Sequence[str]) -> bool:
    done = subprocess.run(
        [str(BIN / "echoscu"), *options, "127.0.0.1", str(port)],
        capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    return done.returncode == 0


@contextmanager
def sink(taken: Callable[[Any], int]) -> Iterator[int]:
    """Run pynetdicom's storage SCP; what it is sent is answered by a function."""
    entity = AE("SINK")
    entity.add_supported_context(CT)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, taken)]
    )
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def getting(gateway: Gateway, contexts: Sequence[tuple[str, Sequence[str]]]) -> Association:
    here = Destination("PACSPARK", "127.0.0.1", gateway.dimse.port)
    proposed: list[tuple[str, Sequence[str]]] = [(GET, [ExplicitVRLittleEndian]), *contexts]
    return request(here, "TEST", proposed, LIMITS, scp_roles=[uid for uid, _ in contexts])


def ask(association: Association, keys: dict[int, str], level: str = "STUDY") -> None:
    elements = [(0x00080052, "CS", level), *((tag, "UI", value) for tag, value in keys.items())]
    command = {"AffectedSOPClassUID": GET, "CommandField": C_GET, "MessageID": 7, "Priority": 0}
    association.link.send(command, 1, write_identifier(elements, ExplicitVRLittleEndian))


def get(
    association: Association, keys: dict[int, str], *, refuse: str = "", level: str = "STUDY"
) -> tuple[dict[str, tuple[str, bytes]], list[dict[str, int]]]:
    """Ask, take what comes, and give the objects by UID and the responses."""
    ask(association, keys, level)
    objects: dict[str, tuple[str, bytes]] = {}
    answers: list[dict[str, int]] = []
    while not answers or answers[-1]["Status"] == statuses.PENDING:
        message = association.link.receive()
        assert message is not None
        if message.command["CommandField"] == C_GET | RESPONSE:
            answers.append(message.command)
            continue
        uid = message.command["AffectedSOPInstanceUID"]
        context = association.contexts[message.context_id]
        objects[uid] = (context.transfer_syntax, message.identifier())
        reply = {
            "CommandField": C_STORE | RESPONSE,
            "MessageIDBeingRespondedTo": message.command["MessageID"],
            "AffectedSOPInstanceUID": uid,
            "Status": 0xA700 if uid == refuse else 0,
        }
        association.link.send(reply, message.context_id)
    association.link.release()
    return objects, answers


@pytest.mark.parametrize(("told_every_s", "remaining"), [(0.0, [2, 1, 0, None]), (60.0, [2, None])])
def test_get__gives_the_bytes_that_were_stored(
    told_every_s: float,
    remaining: list[int | None],
    gateway: Gateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retrieving, "TOLD_EVERY_S", told_every_s)
    paths = written(tmp_path / "in")
    for path in paths[:2]:
        gateway.store.store(path.read_bytes(), "x")
    gateway.store.flush()
    gateway.store.store(paths[2].read_bytes(), "x")  # still in the landing
    objects, answers = get(
        getting(gateway, [(CT, [ExplicitVRLittleEndian])]), {0x0020000D: STUDY_UID}
    )
    assert {uid.rpartition(".")[2]: kept for uid, (_, kept) in objects.items()} == {
        path.stem: data_set(path.read_bytes()) for path in paths
    }
    assert [answer.get("NumberOfRemainingSuboperations") for answer in answers] == remaining
    assert answers[-1]["Status"] == statuses.SUCCESS
    assert answers[-1]["NumberOfCompletedSuboperations"] == 3


def test_get__counts_what_the_peer_refuses(gateway: Gateway, tmp_path: Path) -> None:
    for path in written(tmp_path / "in"):
        gateway.store.store(path.read_bytes(), "x")
    uid = "1.2.826.0.1.3680043.8.498.1.1.2"
    _, answers = get(
        getting(gateway, [(CT, [ExplicitVRLittleEndian])]), {0x0020000D: STUDY_UID}, refuse=uid
    )
    last = answers[-1]
    assert last["Status"] == statuses.SUBOPERATIONS_FAILED
    assert last["NumberOfCompletedSuboperations"] == 2
    assert last["NumberOfFailedSuboperations"] == 1


def test_get__without_a_context_for_the_objects_fails_each(
    gateway: Gateway, tmp_path: Path
) -> None:
    for path in written(tmp_path / "in"):
        gateway.store.store(path.read_bytes(), "x")
    mr = "1.2.840.10008.5.1.4.1.1.4"
    objects, answers = get(
        getting(gateway, [(mr, [ExplicitVRLittleEndian])]), {0x0020000D: STUDY_UID}
    )
    assert objects == {}
    assert answers[-1]["Status"] == statuses.NO_SUBOPERATION_WORKED
    assert answers[-1]["NumberOfFailedSuboperations"] == 3


def test_get__is_cancelled(gateway: Gateway, tmp_path: Path) -> None:
    for path in written(tmp_path / "in", 20):
        gateway.store.store(path.read_bytes(), "x")
    association = getting(gateway, [(CT, [ExplicitVRLittleEndian])])
    ask(association, {0x0020000D: STUDY_UID})
    first = association.link.receive()
    assert first is not None
    association.link.send({"CommandField": C_CANCEL, "MessageIDBeingRespondedTo": 7}, 1)
    association.link.send(
        {
            "CommandField": C_STORE | RESPONSE,
            "MessageIDBeingRespondedTo": first.command["MessageID"],
            "Status": 0,
        },
        first.context_id,
    )
    last = association.link.receive()
    while last is not None and last.command["Status"] == statuses.PENDING:
        last = association.link.receive()
    assert last is not None
    assert last.command["Status"] == statuses.CANCELLED
    assert last.command["NumberOfRemainingSuboperations"] == 19
    association.link.release()


def test_get__whose_peer_is_gone_has_its_row(gateway: Gateway, tmp_path: Path) -> None:
    for path in written(tmp_path / "in"):
        gateway.store.store(path.read_bytes(), "x")
    association = getting(gateway, [(CT, [ExplicitVRLittleEndian])])
    ask(association, {0x0020000D: STUDY_UID})
    assert association.link.receive() is not None
    association.link.abort()
    wait_until(lambda: gateway.audit.counts["get", False] == 1, "no row for C-GET", [])


def test_move__whose_peer_is_gone_has_its_row(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    associations: list[Association] = []

    def taken(_event: Any) -> int:
        associations[0].link.abort()
        return 0

    with sink(taken) as port:
        gateway = start_gateway(destinations={"SINK": Destination("SINK", "127.0.0.1", port)})
        for path in written(tmp_path / "in"):
            gateway.store.store(path.read_bytes(), "x")
        here = Destination("PACSPARK", "127.0.0.1", gateway.dimse.port)
        associations += [request(here, "TEST", [(MOVE, [ExplicitVRLittleEndian])], LIMITS)]
        elements = [(0x00080052, "CS", "STUDY"), (0x0020000D, "UI", STUDY_UID)]
        command = {
            "AffectedSOPClassUID": MOVE, "CommandField": C_MOVE, "MessageID": 7, "Priority": 0,
            "MoveDestination": "SINK",
        }  # fmt: skip
        identifier = write_identifier(elements, ExplicitVRLittleEndian)
        associations[0].link.send(command, 1, identifier)
        wait_until(lambda: gateway.audit.counts["move", False] == 1, "no row for C-MOVE", [])
    (row,) = (row for row in gateway.audit._rows if row["action"] == "move")
    assert json.loads(row["detail"])["NumberOfCompletedSuboperations"] == 1


def test_get__of_nothing_is_a_success_of_none(gateway: Gateway) -> None:
    _, answers = get(getting(gateway, [(CT, [ExplicitVRLittleEndian])]), {0x0020000D: "1.2.3"})
    assert [(a["Status"], a["NumberOfCompletedSuboperations"]) for a in answers] == [(0, 0)]


@pytest.mark.parametrize(
    "keys", [{}, {0x0020000D: "*"}, {0x0020000E: "1.2.3"}, {0x0020000D: "1.2/../3"}]
)
def test_get__without_its_unique_key_is_refused(gateway: Gateway, keys: dict[int, str]) -> None:
    association = getting(gateway, [(CT, [ExplicitVRLittleEndian])])
    _, answers = get(association, keys)
    assert [answer["Status"] for answer in answers] == [statuses.DOES_NOT_MATCH]


def test_getscu__writes_what_storescu_sent(gateway: Gateway, tmp_path: Path) -> None:
    paths = written(tmp_path / "in")
    dcmtk("storescu", "127.0.0.1", gateway.dimse.port, *paths)
    (tmp_path / "out").mkdir()
    dcmtk(
        "getscu", "-S", "+B", "-od", tmp_path / "out", "127.0.0.1", gateway.dimse.port,
        "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY_UID}",
    )  # fmt: skip
    got = sorted(data_set(path.read_bytes()) for path in (tmp_path / "out").iterdir())
    assert got == sorted(data_set(path.read_bytes()) for path in paths)


def test_move__sends_to_a_configured_destination(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    with receiver(tmp_path / "out") as port:
        gateway = start_gateway(destinations={"SINK": Destination("SINK", "127.0.0.1", port)})
        paths = written(tmp_path / "in")
        for path in paths:
            gateway.store.store(path.read_bytes(), "x")
        gateway.store.flush()
        move = ("movescu", "-v", "-S", "-aem")
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY_UID}")
        said = dcmtk(*move, "SINK", "127.0.0.1", gateway.dimse.port, *keys)
        assert "Success" in said
        said = dcmtk(*move, "NOBODY", "127.0.0.1", gateway.dimse.port, *keys, fails=True)
        assert "MoveDestinationUnknown" in said
    got = sorted(data_set(path.read_bytes()) for path in (tmp_path / "out").iterdir())
    assert got == sorted(data_set(path.read_bytes()) for path in paths)


@pytest.mark.parametrize("priority", [0, 1, 2])
def test_suboperations__have_the_priority_of_their_request(
    start_gateway: Callable[..., Gateway], tmp_path: Path, priority: int
) -> None:
    seen: list[int] = []

    def taken(event: Any) -> int:
        seen.append(event.request.Priority)
        return 0

    with sink(taken) as port:
        gateway = start_gateway(destinations={"SINK": Destination("SINK", "127.0.0.1", port)})
        for path in written(tmp_path / "in", 1):
            gateway.store.store(path.read_bytes(), "x")
        query = pydicom.Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", STUDY_UID
        peer = AE("TEST")
        for uid in (GET, MOVE):
            peer.add_requested_context(uid)
        peer.add_requested_context(CT)
        association = peer.associate(
            "127.0.0.1", gateway.dimse.port, ext_neg=[build_role(CT, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, taken)],
        )  # fmt: skip
        told = [
            *association.send_c_move(query, "SINK", MOVE, priority=priority),
            *association.send_c_get(query, GET, priority=priority),
        ]
        association.release()
    assert [status.Status for status, _ in told if status.Status != statuses.PENDING] == [0, 0]
    assert seen == [priority, priority]


def dcmtk_tls(folder: Path, name: str) -> tuple[str, ...]:
    """Give the options with which DCMTK shows a certificate and wants one."""
    files = [str(folder / part) for part in (f"{name}.key", f"{name}.pem", "ca.pem")]
    return ("+tls", *files[:2], "+cf", files[2], "-rc")


def test_move__to_a_tls_peer_shows_the_gateways_certificate(
    start_gateway: Callable[..., Gateway], tmp_path: Path, certificates: Path
) -> None:
    tls = Tls(certificates / "gateway.pem", certificates / "gateway.key", certificates / "ca.pem")
    with tls_receiver(tmp_path / "out", certificates) as port:
        sink = Destination("SINK", "127.0.0.1", port, tls=True)
        gateway = start_gateway(tls=tls, destinations={"SINK": sink})
        paths = written(tmp_path / "in")
        for path in paths:
            gateway.store.store(path.read_bytes(), "x")
        mover = AE()
        mover.add_requested_context(f"{STUDY_ROOT}.2")
        caller = [certificates / name for name in ("ca.pem", "caller.pem", "caller.key")]
        association = mover.associate(
            "127.0.0.1", gateway.dimse.port, tls_args=(client_context(*caller), "127.0.0.1")
        )
        query = pydicom.Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", STUDY_UID
        answers = [
            answer.Status
            for answer, _ in association.send_c_move(query, "SINK", query_model=f"{STUDY_ROOT}.2")
        ]
        association.release()
        assert answers[-1] == statuses.SUCCESS
    assert len(list((tmp_path / "out").iterdir())) == len(paths)


@contextmanager
def tls_receiver(folder: Path, certificates: Path) -> Iterator[int]:
    """Run storescp where a certificate is wanted."""
    shown = dcmtk_tls(certificates, "caller")
    with receiver(folder, *shown, echo=shown) as port:
        yield port


def test_send__over_tls_needs_a_certificate_where_the_peer_wants_one(
    gateway: Gateway, tmp_path: Path, certificates: Path
) -> None:
    gateway.store.store(written(tmp_path / "in", 1)[0].read_bytes(), "x")
    gateway.store.flush()
    ca = ("--tls", "--tls-ca", str(certificates / "ca.pem"))
    own = ("--tls-certificate", str(certificates / "caller.pem"))
    key = ("--tls-key", str(certificates / "caller.key"))
    other = ("--tls-key", str(certificates / "gateway.key"))
    none = ("--tls-certificate", str(tmp_path / "none.pem"))
    with tls_receiver(tmp_path / "out", certificates) as port:
        what = ("--to", f"SINK@127.0.0.1:{port}", "--study", STUDY_UID)
        for options, status, said in (
            ((), 1, "SINK@127.0.0.1"),
            (("--tls",), 1, "in certificate chain; --tls-ca, of a gateway client_ca,"),
            (ca, 1, "SINK@127.0.0.1"),
            ((*ca, *own, *other), 2, "tls: expected a PEM file and its key, found"),
            ((*ca, *none), 2, "none.pem: No such file"),
            ((*ca, *key), 2, "--tls-key together with --tls-certificate"),
            (own, 2, "--tls-certificate together with --tls"),
        ):
            done = send(Path(gateway.storage.root), *what, *options)
            assert (done.returncode, said in done.stderr) == (status, True), done.stderr
            assert "Traceback" not in done.stderr
        assert not list((tmp_path / "out").iterdir())
        done = send(Path(gateway.storage.root), *what, *ca, *own, *key)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_move__to_a_destination_that_is_away_fails_each(
    start_gateway: Callable[..., Gateway], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = Destination("AWAY", "127.0.0.1", free_port())
    gateway = start_gateway(destinations={"AWAY": away})
    for path in written(tmp_path / "in"):
        gateway.store.store(path.read_bytes(), "x")
    said = dcmtk(
        "movescu", "-d", "-S", "-aem", "AWAY", "127.0.0.1", gateway.dimse.port,
        "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY_UID}", fails=True,
    )  # fmt: skip
    assert "0xa702" in said.lower()
    assert "cannot connect" in said
    (line,) = (line for line in caplog.text.splitlines() if "move: 0xA702" in line)
    assert "cannot connect: Connection refused" in line


def rle(tmp_path: Path) -> bytes:
    image = ct_image(np.arange(256, dtype=np.int16).reshape(16, 16), 1, (0.0, 0.0, 0.0))
    image.compress(RLELossless, generate_instance_uid=False)
    return encoded(image)


def test_compressed__goes_out_as_it_is_where_it_is_taken(gateway: Gateway, tmp_path: Path) -> None:
    data = rle(tmp_path)
    gateway.store.store(data, "x")
    objects, _ = get(getting(gateway, [(CT, [RLELossless])]), {0x0020000D: STUDY_UID})
    assert list(objects.values()) == [(RLELossless, data_set(data))]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_compressed__is_decoded_for_peers_that_take_plain_pixels_only(
    gateway: Gateway, tmp_path: Path, syntax: str
) -> None:
    data = rle(tmp_path)
    gateway.store.store(data, "x")
    objects, answers = get(getting(gateway, [(CT, [syntax])]), {0x0020000D: STUDY_UID})
    assert answers[-1]["Status"] == statuses.SUCCESS
    ((uid, (got_syntax, got)),) = objects.items()
    assert got_syntax == syntax
    assert uid == index_instance(data).sop_instance_uid
    whole = pydicom.dcmread(pydicom.filebase.DicomBytesIO(_part10(got, syntax)))
    assert whole.pixel_array.tolist() == np.arange(256).reshape(16, 16).tolist()
    assert whole.SOPInstanceUID == uid


def _part10(data_set_bytes: bytes, syntax: str) -> bytes:
    from pacspark.gateway.part10 import file_header

    return file_header(CT, "1.2.3", syntax) + data_set_bytes


def test_bare_data_set__is_given_to_peers_that_take_another_syntax(gateway: Gateway) -> None:
    """What came from a disk without file meta information has no header to read it by."""
    image = ct_image(np.arange(16, dtype=np.int16).reshape(4, 4), 1, (0.0, 0.0, 0.0))
    bare = data_set(encoded(image))
    gateway.store.store(bare, "x")
    context = (CT, [ImplicitVRLittleEndian])
    objects, answers = get(getting(gateway, [context]), {0x0020000D: STUDY_UID})
    assert answers[-1]["Status"] == statuses.SUCCESS
    ((syntax, got),) = objects.values()
    assert syntax == ImplicitVRLittleEndian
    whole = pydicom.dcmread(pydicom.filebase.DicomBytesIO(_part10(got, syntax)))
    assert whole.pixel_array.tolist() == np.arange(16).reshape(4, 4).tolist()


def test_big_endian__is_turned_round(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.int16).reshape(4, 6)
    big = encoded(ct_image(pixels, 1, (0.0, 0.0, 0.0)), big_endian=True)
    little = transcoded(big, ExplicitVRLittleEndian)
    whole = pydicom.dcmread(pydicom.filebase.DicomBytesIO(_part10(little, ExplicitVRLittleEndian)))
    assert whole.pixel_array.tolist() == pixels.tolist()
    assert whole.Rows == 4


def send(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pacspark", "send", str(root), *arguments],
        capture_output=True, text=True, check=False, env=os.environ, timeout=120,
    )  # fmt: skip


def test_send__stores_at_a_peer(gateway: Gateway, tmp_path: Path) -> None:
    paths = written(tmp_path / "in")
    for path in paths:
        gateway.store.store(path.read_bytes(), "x")
    gateway.store.flush()
    root = Path(gateway.storage.root)
    with receiver(tmp_path / "out") as port:
        done = send(root, "--to", f"SINK@127.0.0.1:{port}", "--study", STUDY_UID, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"sent": 3, "warnings": 0, "failed": 0, "reasons": []}
    got = sorted(data_set(path.read_bytes()) for path in (tmp_path / "out").iterdir())
    assert got == sorted(data_set(path.read_bytes()) for path in paths)


def test_send__to_a_peer_that_does_not_know_us_says_so(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = start_gateway(callers=(Caller("CT1"),))
    gateway.store.store(written(tmp_path / "in", 1)[0].read_bytes(), "x")
    gateway.store.flush()
    to = f"X@127.0.0.1:{gateway.dimse.port}"
    done = send(Path(gateway.storage.root), "--to", to, "--study", STUDY_UID, "--ae-title", "US9")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"{to}: the association was refused: it does not know the AE title US9" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--to", "X@127.0.0.1:0", "--study", "1.2"], 2, "--to: expected AE@HOST:PORT"),
        (["--to", "X@127.0.0.1:1", "--study", "1.2"], 1, "no study '1.2'"),
        (["--to", "X@127.0.0.1:1", "--study", "x*"], 2, "study: expected a UID"),
        (["--to", "X@127.0.0.1:1"], 2, "expected one of study, series, instance, found 0"),
        (["--to", "X@127.0.0.1:1", "--study", STUDY_UID], 1, "cannot connect"),
    ],
)
def test_send__says_in_one_line_what_is_wrong(
    gateway: Gateway, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    gateway.store.store(written(tmp_path / "in", 1)[0].read_bytes(), "x")
    gateway.store.flush()
    done = send(Path(gateway.storage.root), *arguments)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr
