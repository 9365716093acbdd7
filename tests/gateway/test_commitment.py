"""Storage commitment, over the association that asked and over one of its own."""

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage
from pynetdicom import AE, build_role, evt

from pacspark.gateway.config import Destination
from pacspark.gateway.dimse.commands import C_ECHO, N_ACTION, N_EVENT_REPORT, RESPONSE, response
from pacspark.gateway.dimse.commitment import MOST_REPORTS
from pacspark.gateway.dimse.identifiers import write_identifier
from pacspark.gateway.dimse.negotiation import request
from pacspark.gateway.dimse.services import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    VERIFICATION,
)
from pacspark.gateway.server import Gateway
from pacspark.tables.deletion import delete
from tests.gateway.conftest import LIMITS
from tests.gateway.served import LITTLE
from tests.gateway.test_dimse import written
from tests.servers import wait_until

UID = "1.2.826.0.1.3680043.8.498.1.1.1"
ASKED = {
    "RequestedSOPClassUID": STORAGE_COMMITMENT, "CommandField": N_ACTION, "MessageID": 1,
    "RequestedSOPInstanceUID": STORAGE_COMMITMENT_INSTANCE, "ActionTypeID": 1,
}  # fmt: skip
REFERENCES = [
    (0x00081195, "UI", "1.2.3.99"),
    (0x00081199, "SQ", [{
        "00081150": {"vr": "UI", "Value": [str(CTImageStorage)]},
        "00081155": {"vr": "UI", "Value": [UID]},
    }]),
]  # fmt: skip


def references(*pairs: tuple[str, str]) -> Dataset:
    asked = Dataset()
    asked.TransactionUID = "1.2.3.99"
    items = []
    for sop_class, uid in pairs:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    asked.ReferencedSOPSequence = Sequence(items)
    return asked


class Reports:
    """What was reported, and a way to wait for it."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.data_set, self.kind = Dataset(), 0

    def handle(self, event: Any) -> tuple[int, None]:
        self.data_set, self.kind = event.event_information, event.event_type
        self.came.set()
        return 0, None


def test_commitment__comes_over_the_same_association(gateway: Gateway, tmp_path: Path) -> None:
    gateway.store.store(written(tmp_path / "in", 1)[0].read_bytes(), "x")
    reports = Reports()
    entity = AE("CT1")
    entity.add_requested_context(STORAGE_COMMITMENT)
    association = entity.associate(
        "127.0.0.1", gateway.dimse.port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.handle)]
    )
    status, _ = association.send_n_action(
        references((CTImageStorage, UID), (CTImageStorage, "9.9"), ("1.2.3", UID)),
        1,
        STORAGE_COMMITMENT,
        STORAGE_COMMITMENT_INSTANCE,
    )
    assert status.Status == 0
    assert reports.came.wait(30)
    association.release()
    assert reports.kind == 2
    assert reports.data_set.TransactionUID == "1.2.3.99"
    (kept,) = reports.data_set.ReferencedSOPSequence
    assert kept.ReferencedSOPInstanceUID == UID
    assert [
        (item.ReferencedSOPInstanceUID, item.FailureReason)
        for item in reports.data_set.FailedSOPSequence
    ] == [("9.9", 0x0112), (UID, 0x0119)]


def test_commitment__of_what_another_writer_has_just_deleted_fails(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = start_gateway(limits=replace(LIMITS, follow_s=3600))
    gateway.store.store(written(tmp_path / "in", 1)[0].read_bytes(), "x")
    gateway.store.flush()
    delete(gateway.storage, "instance", UID)
    reports = Reports()
    entity = AE("CT1")
    entity.add_requested_context(STORAGE_COMMITMENT)
    association = entity.associate(
        "127.0.0.1", gateway.dimse.port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.handle)]
    )
    association.send_n_action(
        references((CTImageStorage, UID)), 1, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
    )
    assert reports.came.wait(30)
    association.release()
    (failed,) = reports.data_set.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (UID, 0x0112)


def ask_and_leave(gateway: Gateway) -> None:
    """Ask for commitment and release the association, so that the report needs one of its own."""
    here = Destination("PACSPARK", "127.0.0.1", gateway.dimse.port)
    association = request(here, "CT1", [(STORAGE_COMMITMENT, [LITTLE])], LIMITS)
    association.link.send(ASKED, 1, write_identifier(REFERENCES, LITTLE))
    answer = association.link.receive()
    assert answer is not None
    assert answer.command["Status"] == 0
    association.link.release()


def test_commitment__reaches_a_peer_that_did_not_wait(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    reports = Reports()
    entity = AE("CT1")
    entity.add_supported_context(STORAGE_COMMITMENT, scu_role=True, scp_role=True)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.handle)]
    )
    assert server is not None
    assert server.socket is not None
    try:
        port = server.socket.getsockname()[1]
        gateway = start_gateway(destinations={"CT1": Destination("CT1", "127.0.0.1", port)})
        gateway.store.store(written(tmp_path / "in", 1)[0].read_bytes(), "x")
        ask_and_leave(gateway)
        assert reports.came.wait(30)
        assert reports.kind == 1
        assert reports.data_set.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == UID
    finally:
        server.shutdown()


def test_commitment__for_a_peer_that_never_answers_holds_few_threads(
    start_gateway: Callable[..., Gateway],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        gateway = start_gateway(destinations={"CT1": Destination("CT1", "127.0.0.1", port)})
        for _ in range(MOST_REPORTS + 4):
            ask_and_leave(gateway)
        wait_until(lambda: any("not reported" in row["outcome"] for row in gateway.audit._rows),
                   "no report was given up", [])  # fmt: skip
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("pacspark-commitment CT1") == MOST_REPORTS


def test_request__that_comes_before_the_answer_to_a_report_is_answered(gateway: Gateway) -> None:
    here = Destination("PACSPARK", "127.0.0.1", gateway.dimse.port)
    classes = [(uid, [LITTLE]) for uid in (STORAGE_COMMITMENT, VERIFICATION)]
    link = request(here, "CT1", classes, LIMITS).link
    link.send(ASKED, 1, write_identifier(REFERENCES, LITTLE))
    link.send({"AffectedSOPClassUID": VERIFICATION, "CommandField": C_ECHO, "MessageID": 7}, 3)
    fields = []
    for _ in range(3):
        message = link.receive()
        assert message is not None
        fields.append(message.command["CommandField"])
        if fields[-1] == N_EVENT_REPORT:
            link.send(response(message.command, 0), 1)
    link.release()
    assert fields == [N_ACTION | RESPONSE, N_EVENT_REPORT, C_ECHO | RESPONSE]


def test_commitment__of_nothing_is_refused(gateway: Gateway) -> None:
    entity = AE("CT1")
    entity.add_requested_context(STORAGE_COMMITMENT)
    association = entity.associate(
        "127.0.0.1",
        gateway.dimse.port,
        ext_neg=[build_role(STORAGE_COMMITMENT, scu_role=True)],
    )
    for asked, action, wanted in ((references(), 1, 0x0115), (references(), 2, 0x0123)):
        status, _ = association.send_n_action(
            asked, action, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
        assert status.Status == wanted
    association.release()
