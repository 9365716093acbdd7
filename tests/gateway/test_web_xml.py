"""Data sets as XML: the Native DICOM Model, against what DCMTK's dcm2xml writes."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.conftest import missing
from tests.ct_objects import STUDY_UID
from tests.gateway.http import parts_of, stow
from tests.gateway.peers import BIN, dcmtk
from tests.gateway.web_objects import SERIES, STUDY, ct, instance

XML = 'multipart/related; type="application/dicom+xml"'
SPACE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
NUMBERS = {"DS", "FD", "FL", "IS", "SL", "SS", "UL", "US"}


def parsed(data: bytes) -> ET.Element:
    """Read XML, without its namespace, which dcm2xml leaves out."""
    root = ET.fromstring(data)
    for one in root.iter():
        one.tag = one.tag.removeprefix(SPACE)
    return root


def facts(parent: ET.Element, path: str = "") -> Iterator[tuple[str, object]]:
    """Give what a data set says: by place, without file meta information and bulk data."""
    for one in parent.findall("DicomAttribute"):
        tag, vr, creator = one.attrib["tag"], one.attrib["vr"], one.attrib.get("privateCreator")
        name = f"{path}{tag.upper()}"
        if creator is not None:  # what VR it has depends on who looks it up
            yield f"{name} {creator}", None
            continue
        if tag.startswith("0002") or one.find("BulkData") is not None:
            continue
        yield name, (vr, one.attrib.get("keyword"))
        for value in one:
            place = f"{name} {value.tag} {value.attrib.get('number')}"
            text = (value.text or "").strip()
            if value.tag == "Item":
                yield from facts(value, f"{place} ")
            elif value.tag == "PersonName":
                yield place, [(part.tag, part.text) for part in value.iter() if part.text]
            else:
                yield place, float(text) if vr in NUMBERS else text


def same(sent: ET.Element, path: Path) -> None:
    told = dcmtk("dcm2xml", "--native-format", "+U8", "--load-all", path)
    expected = parsed(told[told.index("<?xml") :].encode())
    for one in expected.iter():  # it is written with line ends between
        one.text = (one.text or "").strip()
    assert dict(facts(sent)) == dict(facts(expected))


def roots(answer: httpx.Response) -> list[ET.Element]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith(XML)
    parts = parts_of(answer)
    assert {head.get_content_type() for head, _ in parts} == {"application/dicom+xml"}
    assert all(f'xmlns="{SPACE[1:-1]}"'.encode() in data for _, data in parts)
    return [parsed(data) for _, data in parts]


def test_metadata__are_what_dcmtk_writes(client: httpx.Client, tmp_path: Path) -> None:
    if not (BIN / "dcm2xml").exists():
        missing("dcmtk")
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2", "1.2.3"
    data = ct(
        1,
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Yamada^Tarou^^Dr=\u5c71\u7530^\u592a\u90ce=",
        StudyDescription='a < b & "c"',
        SoftwareVersions=["A", "", "C"],
        ReferencedImageSequence=Sequence([item, item]),
        FrameIncrementPointer=0x00181063,
    )
    path = tmp_path / "one.dcm"
    path.write_bytes(data)
    image = pydicom.dcmread(path)
    block = image.private_block(0x0009, "ACME 1", create=True)
    block.add_new(0x02, "LO", "private")
    image.save_as(path)
    assert stow(client, path.read_bytes()).status_code == 200
    (root,) = roots(client.get(f"{instance(1)}/metadata", headers={"Accept": XML}))
    same(root, path)
    private = root.find("DicomAttribute[@privateCreator='ACME 1']")
    assert private is not None
    assert (private.attrib["tag"], private[0].text) == ("00090002", "private")
    bulk = root.find(".//BulkData")
    assert bulk is not None
    octets = {"Accept": "application/octet-stream"}
    assert client.get(bulk.attrib["uri"], headers=octets).content == image.PixelData


def test_public_metadata__are_what_dcmtk_writes(client: httpx.Client, shared_data: Path) -> None:
    folder = shared_data / "dicom" / "cornerstone-transfer-syntaxes" / "testImages"
    (path,) = folder.glob("CTImage.dcm_LittleEndianExplicit*.dcm")
    assert stow(client, path.read_bytes()).status_code == 200
    (row,) = client.get("/dicom-web/instances").json()
    url = row["00081190"]["Value"][0]
    (root,) = roots(client.get(f"{url}/metadata", headers={"Accept": XML}))
    same(root, path)


@pytest.mark.parametrize("path", ["/dicom-web/studies", f"{STUDY}/series", f"{SERIES}/instances"])
def test_answers__are_a_part_each(filled: httpx.Client, path: str) -> None:
    found = roots(filled.get(path, headers={"Accept": XML}))
    assert len(found) == (3 if path.endswith("instances") else 1)
    for one in found:
        uid = one.find("DicomAttribute[@tag='0020000D']/Value")
        assert uid is not None
        assert uid.text == STUDY_UID


def test_json__is_given_where_both_are_taken(filled: httpx.Client) -> None:
    for accept in ("*/*", f"{XML};q=0.5, application/dicom+json", f"application/json, {XML}"):
        answer = filled.get("/dicom-web/studies", headers={"Accept": accept})
        assert "json" in answer.headers["content-type"]
    single = filled.get("/dicom-web/studies", headers={"Accept": "application/dicom+xml"})
    assert single.status_code == 406
