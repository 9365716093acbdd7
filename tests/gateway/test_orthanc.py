"""Orthanc, an independent archive, as a peer: C-MOVE both ways, and its DICOMweb client."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from pacspark.gateway.config import Destination
from pacspark.gateway.server import Gateway
from pacspark.tables.catalog import Catalog
from tests.conftest import missing
from tests.ct_objects import STUDY_UID, ct_image, encoded
from tests.gateway.peers import dcmtk
from tests.servers import Orthanc

TITLE = "ORTHANC"


class Pair:
    """A gateway and an Orthanc that know each other."""

    def __init__(self, gateway: Gateway, orthanc: Orthanc) -> None:
        self.gateway, self.orthanc = gateway, orthanc
        base = f"http://127.0.0.1:{orthanc.http_port}"
        self.client = httpx.Client(base_url=base, timeout=60, trust_env=False)

    def post(self, path: str, told: object) -> Any:
        """Ask something of Orthanc that it does at once."""
        answer = self.client.post(path, json=told)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def give(self, objects: list[bytes]) -> list[str]:
        """Hand objects to Orthanc; give its own names for them."""
        return [self.client.post("/instances", content=one).json()["ID"] for one in objects]

    def taken(self) -> dict[str, bytes]:
        """Give what Orthanc has, by UID."""
        found = {}
        for name in self.client.get("/instances").json():
            data = self.client.get(f"/instances/{name}/file").content
            found[str(pydicom.dcmread(BytesIO(data)).SOPInstanceUID)] = data
        return found

    def kept(self) -> dict[str, bytes]:
        """Give what the archive has, by UID: from its tables."""
        self.gateway.store.flush()
        catalog = Catalog(self.gateway.storage)
        rows = catalog.table("instances").to_pylist()
        return {row["sop_instance_uid"]: catalog.read_object(row) for row in rows}


@pytest.fixture
def pair(start_gateway: Callable[..., Gateway], tmp_path: Path) -> Iterator[Pair]:
    if Orthanc.program() is None:
        missing("Orthanc")
    orthanc = Orthanc(tmp_path)
    here = Destination(TITLE, "127.0.0.1", orthanc.port)
    gateway = start_gateway(destinations={TITLE: here})
    assert gateway.web is not None
    orthanc.settings = {
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {"pacspark": ["PACSPARK", "127.0.0.1", gateway.dimse.port]},
        "DicomWeb": {
            "Enable": True,
            "Servers": {"pacspark": {"Url": f"http://127.0.0.1:{gateway.web.port}/dicom-web/"}},
        },
    }
    with orthanc:
        both = Pair(gateway, orthanc)
        with both.client:
            yield both


def images() -> dict[str, bytes]:
    """Three slices by UID, one of them compressed."""
    pixels = np.arange(64 * 64, dtype=np.int16).reshape(64, 64)
    made = [ct_image(pixels + n, n, (0.0, 0.0, float(n)), PatientID="P1") for n in (1, 2, 3)]
    made[2].compress(RLELossless, generate_instance_uid=False)
    return {str(image.SOPInstanceUID): encoded(image) for image in made}


def is_same(got: dict[str, bytes], given: dict[str, bytes]) -> bool:
    """Compare element by element: Orthanc writes lengths, and a header, in its own way."""
    assert got.keys() == given.keys()
    for uid, data in given.items():
        one, other = (pydicom.dcmread(BytesIO(whole)) for whole in (got[uid], data))
        assert one.file_meta.TransferSyntaxUID == other.file_meta.TransferSyntaxUID
        assert one == other, uid
    return True


def test_orthanc__is_a_destination_of_c_move(pair: Pair) -> None:
    given = images()
    for data in given.values():
        pair.gateway.store.store(data, "x")
    assert pair.client.post("/modalities/pacspark/echo", json={}).status_code == 200
    dcmtk(
        "movescu", "-S", "-aem", TITLE, "127.0.0.1", pair.gateway.dimse.port,
        "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY_UID}",
    )  # fmt: skip
    assert is_same(pair.taken(), given)


def test_orthanc__finds_and_moves_to_itself(pair: Pair) -> None:
    given = images()
    for data in given.values():
        pair.gateway.store.store(data, "x")
    pair.gateway.store.flush()
    query = {"Level": "Study", "Query": {"PatientID": "P*", "StudyInstanceUID": ""}}
    told = pair.post("/modalities/pacspark/query", query)
    answers = pair.client.get(f"/queries/{told['ID']}/answers").json()
    assert len(answers) == 1
    (content,) = [
        pair.client.get(f"/queries/{told['ID']}/answers/{one}/content?simplify").json()
        for one in answers
    ]
    assert (content["PatientID"], content["StudyInstanceUID"]) == ("P1", STUDY_UID)
    pair.post(f"/queries/{told['ID']}/retrieve", {"TargetAet": TITLE, "Synchronous": True})
    assert is_same(pair.taken(), given)


def test_orthanc__moves_to_the_gateway(pair: Pair) -> None:
    given = images()
    pair.give(list(given.values()))
    dcmtk(
        "movescu", "-S", "-aec", TITLE, "-aem", "PACSPARK", "127.0.0.1", pair.orthanc.port,
        "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY_UID}",
    )  # fmt: skip
    assert is_same(pair.kept(), given)


def test_orthanc__stores_by_c_store(pair: Pair) -> None:
    given = images()
    names = pair.give(list(given.values()))
    told = pair.post("/modalities/pacspark/store", {"Resources": names, "Synchronous": True})
    assert told["FailedInstancesCount"] == 0
    assert is_same(pair.kept(), given)


def test_orthanc__stores_and_retrieves_as_a_dicomweb_client(pair: Pair) -> None:
    given = images()
    names = pair.give(list(given.values()))
    pair.post("/dicom-web/servers/pacspark/stow", {"Resources": names, "Synchronous": True})
    assert is_same(pair.kept(), given)
    for name in names:
        assert pair.client.delete(f"/instances/{name}").status_code == 200
    assert pair.taken() == {}
    found = pair.post(
        "/dicom-web/servers/pacspark/qido",
        {"Uri": "/studies", "Arguments": {"PatientID": "P1", "00080061": "CT"}},
    )
    assert [row["0020000D"]["Value"] for row in found] == [STUDY_UID]
    pair.post(
        "/dicom-web/servers/pacspark/retrieve",
        {"Resources": [{"Study": STUDY_UID}], "Synchronous": True},
    )
    assert is_same(pair.taken(), given)
