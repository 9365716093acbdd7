"""C-ECHO, C-STORE and C-FIND with DCMTK and pynetdicom as peers."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from pacspark.gateway import statuses
from pacspark.gateway.config import Caller, Destination, Limits
from pacspark.gateway.dimse.commands import C_STORE
from pacspark.gateway.dimse.negotiation import request
from pacspark.gateway.dimse.services import STUDY_ROOT
from pacspark.gateway.server import Gateway
from pacspark.tables.catalog import Catalog
from tests.ct_objects import ct_image, encoded
from tests.gateway.conftest import LIMITS
from tests.gateway.peers import dcmtk, responses

PIXELS = np.arange(24, dtype=np.int16).reshape(4, 6)
FIND = f"{STUDY_ROOT}.1"


def written(folder: Path, count: int = 3, **more: object) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, count + 1):
        told = {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyDate": "20260102"} | more
        image = ct_image(PIXELS + number, number, (0.0, 0.0, float(number)), **told)  # type: ignore[arg-type]
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(encoded(image))
    return paths


def store(gateway: Gateway, *paths: Path, fails: bool = False) -> str:
    return dcmtk("storescu", "-v", "127.0.0.1", gateway.dimse.port, *paths, fails=fails)


def find(gateway: Gateway, *keys: str, model: str = "-S") -> list[dict[str, str]]:
    arguments = [part for key in keys for part in ("-k", key)]
    said = dcmtk("findscu", "-v", model, "127.0.0.1", gateway.dimse.port, *arguments)
    return responses(said)


def test_echo__is_answered(gateway: Gateway) -> None:
    assert "Success" in dcmtk("echoscu", "-v", "127.0.0.1", gateway.dimse.port)


def test_store__keeps_the_data_set_byte_for_byte(gateway: Gateway, tmp_path: Path) -> None:
    paths = written(tmp_path / "in")
    store(gateway, *paths)
    for path in paths:
        uid = f"1.2.826.0.1.3680043.8.498.1.1.{path.stem}"
        kept = gateway.store.read(gateway.store.instance(uid))
        sent = path.read_bytes()
        start = sent.index(b"\x08\x00\x16\x00UI")
        assert kept.endswith(sent[start:])
        assert kept[128:132] == b"DICM"


def test_store__again_is_a_success_and_stores_nothing(gateway: Gateway, tmp_path: Path) -> None:
    paths = written(tmp_path / "in")
    store(gateway, *paths)
    gateway.store.flush()
    said = store(gateway, *paths)
    assert said.count("Received Store Response (Success)") == 3
    assert gateway.store.pending == 0
    assert len(gateway.store.index) == 3


def test_store__of_other_bytes_says_that_the_uid_is_taken(
    gateway: Gateway, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store(gateway, *written(tmp_path / "in", 1))
    other = written(tmp_path / "other", 1, PatientName="Roe^Richard")
    assert "0x0111" in dcmtk("storescu", "-d", "127.0.0.1", gateway.dimse.port, *other, fails=True)
    uid = "1.2.826.0.1.3680043.8.498.1.1.1"
    assert f"STORESCU at 127.0.0.1: store: {uid}: conflict" in caplog.text
    gateway.store.flush()
    (reject,) = Catalog(gateway.storage).rejects().to_pylist()
    assert reject["error_class"] == "conflict"


def test_store__of_a_data_set_announced_as_another_is_refused(gateway: Gateway) -> None:
    image = encoded(ct_image(PIXELS, 1, (0.0, 0.0, 0.0)))
    data_set = image[image.index(b"\x08\x00\x16\x00UI") :]
    here = Destination("PACSPARK", "127.0.0.1", gateway.dimse.port)
    association = request(here, "TEST", [(CTImageStorage, [ExplicitVRLittleEndian])], LIMITS)
    command = {
        "AffectedSOPClassUID": CTImageStorage,
        "CommandField": C_STORE,
        "MessageID": 1,
        "Priority": 0,
        "AffectedSOPInstanceUID": "1.2.3.4",
    }
    association.link.send(command, 1, data_set)
    answer = association.link.receive()
    association.link.release()
    assert answer is not None
    assert answer.command["Status"] == statuses.DOES_NOT_MATCH
    assert len(gateway.store.index) == 0


def test_full_disk__is_told_and_recovers(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = start_gateway()
    paths = written(tmp_path / "in", 1)
    gateway.store.landing.reserve_bytes = 1 << 60
    assert "0xa700" in dcmtk("storescu", "-d", "127.0.0.1", gateway.dimse.port, *paths, fails=True)
    gateway.store.landing.reserve_bytes = 1 << 20
    store(gateway, *paths)
    assert len(gateway.store.index) == 1


def test_find__at_all_levels(gateway: Gateway, tmp_path: Path) -> None:
    store(gateway, *written(tmp_path / "in"))
    study = "StudyInstanceUID=1.2.826.0.1.3680043.8.498.1"
    series = "SeriesInstanceUID=1.2.826.0.1.3680043.8.498.1.1"
    patients = find(
        gateway, "QueryRetrieveLevel=PATIENT", "PatientID", "PatientName=doe*",
        "NumberOfPatientRelatedInstances", model="-P",
    )  # fmt: skip
    assert [(p["0010,0020"], p["0010,0010"], p["0020,1204"]) for p in patients] == [
        ("P1", "Doe^Jane", "3")
    ]
    (found,) = find(
        gateway, "QueryRetrieveLevel=STUDY", "StudyDate=20260101-", "StudyInstanceUID",
        "ModalitiesInStudy", "NumberOfStudyRelatedSeries",
    )  # fmt: skip
    assert (found["0008,0061"], found["0020,1206"]) == ("CT", "1")
    assert found["0020,000d"] == "1.2.826.0.1.3680043.8.498.1"
    assert (found["0008,0054"], found["0008,0056"]) == ("PACSPARK", "ONLINE")
    (found,) = find(gateway, "QueryRetrieveLevel=SERIES", study, "SeriesInstanceUID", "Modality")
    assert found["0008,0060"] == "CT"
    images = find(
        gateway, "QueryRetrieveLevel=IMAGE", study, series, "SOPInstanceUID", "InstanceNumber",
        "Rows", "RescaleIntercept",
    )  # fmt: skip
    assert [(i["0020,0013"], i["0028,0010"], i["0028,1052"]) for i in images] == [
        (str(number), "4", "-1000.0") for number in (1, 2, 3)
    ]
    assert find(gateway, "QueryRetrieveLevel=STUDY", "PatientID=none", "StudyDate") == []


def test_find__without_the_keys_above_needs_relational_queries(
    gateway: Gateway, tmp_path: Path
) -> None:
    store(gateway, *written(tmp_path / "in"))
    said = dcmtk(
        "findscu", "-v", "-S", "127.0.0.1", gateway.dimse.port, "-k", "QueryRetrieveLevel=SERIES",
        "-k", "Modality=CT", "-k", "SeriesInstanceUID",
    )  # fmt: skip
    assert "DataSetDoesNotMatchSOPClass" in said
    from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = FIND, b"\x01"
    entity = AE("TEST")
    entity.add_requested_context(FIND)
    association = entity.associate("127.0.0.1", gateway.dimse.port, ext_neg=[item])
    assert association.acceptor.sop_class_extended == {FIND: b"\x01"}
    query = Dataset()
    query.QueryRetrieveLevel, query.Modality, query.SeriesInstanceUID = "SERIES", "CT", ""
    answers = [status.Status for status, _ in association.send_c_find(query, FIND)]
    association.release()
    assert answers == [statuses.PENDING, statuses.SUCCESS]


def test_find__speaks_other_alphabets(gateway: Gateway, tmp_path: Path) -> None:
    store(
        gateway,
        *written(
            tmp_path / "in",
            1,
            SpecificCharacterSet=["", "ISO 2022 IR 87"],
            PatientName="Yamada^Tarou=山田^太郎",
        ),
    )
    entity = AE("TEST")
    entity.add_requested_context(FIND, ImplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", gateway.dimse.port)
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel, query.PatientName, query.StudyInstanceUID = "STUDY", "山田*", ""
    found = [answer for _, answer in association.send_c_find(query, FIND) if answer]
    association.release()
    assert [str(answer.PatientName) for answer in found] == ["Yamada^Tarou=山田^太郎"]
    assert found[0].SpecificCharacterSet == "ISO_IR 192"


def test_find__can_be_cancelled(gateway: Gateway, tmp_path: Path) -> None:
    store(gateway, *written(tmp_path / "in", 40))
    said = dcmtk(
        "findscu", "-v", "-S", "--cancel", "2", "127.0.0.1", gateway.dimse.port, "-k",
        "QueryRetrieveLevel=IMAGE", "-k", "StudyInstanceUID=1.2.826.0.1.3680043.8.498.1", "-k",
        "SeriesInstanceUID=1.2.826.0.1.3680043.8.498.1.1", "-k", "SOPInstanceUID",
    )  # fmt: skip
    assert "Cancel" in said


def test_callers__get_what_their_row_allows(
    start_gateway: Callable[..., Gateway], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callers = (
        Caller("CT1", services=("echo", "store")),
        Caller("VIEWER", "127.0.0.1", ("echo", "find")),
        Caller("FAR", "10.0.0.0/8"),
    )
    gateway = start_gateway(callers=callers)
    caplog.set_level(logging.INFO, "pacspark.gateway")
    port = gateway.dimse.port
    path = written(tmp_path / "in", 1)[0]
    dcmtk("storescu", "-aet", "CT1", "127.0.0.1", port, path)
    for ae_title in ("NOBODY", "FAR"):
        said = dcmtk("echoscu", "-v", "-aet", ae_title, "127.0.0.1", port, fails=True)
        assert "Calling AE Title Not Recognized" in said
    assert "No Acceptable Presentation Contexts" in dcmtk(
        "storescu", "-aet", "VIEWER", "127.0.0.1", port, path, fails=True
    )
    query = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyDate")
    assert responses(dcmtk("findscu", "-v", "-aet", "VIEWER", *query, "127.0.0.1", port))
    assert "No Acceptable Presentation Contexts" in dcmtk(
        "findscu", "-aet", "CT1", *query, "127.0.0.1", port, fails=True
    )
    gateway.dimse.close()
    assert (
        "NOBODY at 127.0.0.1: associate: rejected: no [[callers]] has this AE title" in caplog.text
    )
    (line,) = (line for line in caplog.text.splitlines() if "asked for find too" in line)
    assert "CT1 -> ANY-SCP: no request" in line
    assert gateway.audit.counts["associate", False] == 2


def test_audit__has_a_row_for_each_access(gateway: Gateway, tmp_path: Path) -> None:
    store(gateway, *written(tmp_path / "in", 2))
    find(gateway, "QueryRetrieveLevel=STUDY", "StudyDate")
    gateway.audit.flush()
    rows = Catalog(gateway.storage).table("audit").to_pylist()
    assert [(row["action"], row["actor"], row["outcome"]) for row in rows] == [
        ("store", "STORESCU", "stored"),
        ("store", "STORESCU", "stored"),
        ("find", "FINDSCU", "success"),
    ]
    assert {row["address"] for row in rows} == {"127.0.0.1"}
    assert rows[0]["uid"].startswith("1.2.826")
    gateway.audit.flush()
    assert Catalog(gateway.storage).table("audit").num_rows == 3


def test_association__has_one_line(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pacspark.gateway"):
        dcmtk("echoscu", "127.0.0.1", gateway.dimse.port)
        gateway.dimse.close()
    lines = [record.getMessage() for record in caplog.records if "ECHOSCU" in record.getMessage()]
    assert len(lines) == 1
    assert "1 echo" in lines[0]
    assert "released" in lines[0]


def test_private_classes__are_stored_where_they_are_told(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    paths = written(tmp_path / "in", 1, SOPClassUID="1.2.826.0.1.999.1")
    gateway = start_gateway(private_sop_classes=("1.2.826.0.1.999.1",))
    image = ct_image(PIXELS, 1, (0.0, 0.0, 0.0), SOPClassUID="1.2.826.0.1.999.1")
    entity = AE("TEST")
    entity.add_requested_context("1.2.826.0.1.999.1", ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", gateway.dimse.port)
    assert association.send_c_store(image).Status == statuses.SUCCESS
    association.release()
    assert len(gateway.store.index) == 1
    assert paths[0].exists()


def test_limits__of_a_query_are_told(start_gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    limits = Limits(answers=1, commit_s=3600, reserve_bytes=LIMITS.reserve_bytes)
    gateway = start_gateway(limits=limits)
    store(gateway, *written(tmp_path / "in", 2))
    said = dcmtk(
        "findscu", "-v", "-S", "127.0.0.1", gateway.dimse.port, "-k", "QueryRetrieveLevel=IMAGE",
        "-k", "StudyInstanceUID=1.2.826.0.1.3680043.8.498.1", "-k",
        "SeriesInstanceUID=1.2.826.0.1.3680043.8.498.1.1", "-k", "SOPInstanceUID",
    )  # fmt: skip
    assert "OutOfResources" in said
    assert len(responses(said)) == 1
    assert gateway.audit.counts["find", False] == 1
