"""STOW-RS of DICOM JSON and bulk data: what is written of them, and what is refused."""

import base64
import io
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import RLELossless

from pacspark.dicom.decode import index_instance
from pacspark.errors import DicomDecodeError
from pacspark.gateway.config import GatewayConfig
from pacspark.gateway.server import Gateway
from pacspark.gateway.web import store
from pacspark.gateway.web.store_json import MetadataParts
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage
from tests.ct_objects import SERIES_UID, STUDY_UID, ct_image, encoded
from tests.gateway.conftest import LIMITS
from tests.gateway.http import BOUNDARY, client_of, parts_of, values
from tests.gateway.peers import dcmtk

JSON = "application/dicom+json"
TYPE = f'multipart/related; type="{JSON}"; boundary={BOUNDARY}'
STUDIES = "/dicom-web/studies"
SERIES = f"{STUDIES}/{STUDY_UID}/series/{SERIES_UID}"
PIXELS = np.arange(24, dtype=np.int16).reshape(4, 6)
OCTETS = "application/octet-stream"


def ct(number: int, **more: Any) -> Dataset:
    return ct_image(PIXELS + number, number, (0.0, 0.0, float(number)), **more)


def metadata_of(image: Dataset, location: str) -> dict[str, Any]:
    """Give the DICOM JSON of an image whose pixels are a part of the request."""
    told: dict[str, Any] = image.to_json_dict()
    pixels = told["7FE00010"]
    told["7FE00010"] = {"vr": pixels["vr"], "BulkDataURI": location}
    return told


def post(
    client: httpx.Client, metadata: Any, parts: Sequence[tuple[str, str, bytes]] = ()
) -> httpx.Response:
    """Store metadata and parts of bulk data: location, type, bytes."""
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    head = f"--{BOUNDARY}\r\nContent-Type: {JSON}\r\n\r\n".encode()
    body = head + text + b"\r\n"
    for location, kind, data in parts:
        place = f"Content-Location: {location}\r\n" if location else ""
        body += f"--{BOUNDARY}\r\nContent-Type: {kind}\r\n{place}\r\n".encode() + data + b"\r\n"
    body += f"--{BOUNDARY}--\r\n".encode()
    return client.post(STUDIES, content=body, headers={"Content-Type": TYPE})


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with client_of(gateway) as client:
        yield client


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A gateway for what is refused."""
    storage = open_storage(tmp_path_factory.mktemp("json") / "archive")
    create_tables(storage)
    config = GatewayConfig(dimse_port=0, http_port=0, limits=LIMITS)
    with Gateway(storage, config) as gateway, client_of(gateway) as client:
        yield client


def read_back(client: httpx.Client, path: str = SERIES) -> list[Dataset]:
    stored = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    answer = client.get(path, headers=stored)
    found = [dcmread(io.BytesIO(data)) for _, data in parts_of(answer)]
    return sorted(found, key=lambda one: int(one.InstanceNumber or 0))


def test_metadata_and_pixels__become_the_object(client: httpx.Client) -> None:
    images = [ct(1, PatientName="D\u00f6e^J\u00e4ne", SpecificCharacterSet="ISO_IR 100"), ct(2)]
    answer = post(
        client,
        [metadata_of(image, f"pixels/{n}") for n, image in enumerate(images)],
        [(f"pixels/{n}", OCTETS, images[n].PixelData) for n in (1, 0)],
    )
    assert answer.status_code == 200, answer.json()
    assert len(values(answer.json(), "00081199")) == 2
    first, second = read_back(client)
    assert first.SpecificCharacterSet == "ISO_IR 192"
    assert str(first.PatientName) == "D\u00f6e^J\u00e4ne"
    assert first.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    del first.SpecificCharacterSet, images[0].SpecificCharacterSet
    assert (Dataset(first), Dataset(second)) == (Dataset(images[0]), Dataset(images[1]))
    np.testing.assert_array_equal(second.pixel_array, PIXELS + 2)


def test_compressed_frames__are_a_part_each(client: httpx.Client) -> None:
    image = ct(1)
    image.NumberOfFrames = 3
    image.PixelData = np.stack([PIXELS, PIXELS + 1, PIXELS + 2]).tobytes()
    image.compress(RLELossless, generate_instance_uid=False)
    frames = list(generate_frames(image.PixelData, number_of_frames=3))
    told = metadata_of(image, "x")
    for kind in ("image/dicom-rle", f"{OCTETS}; transfer-syntax={RLELossless}"):
        answer = post(client, [told], [("x", kind, frame) for frame in frames])
        assert answer.status_code == 200, answer.json()
    (found,) = read_back(client)
    assert found.file_meta.TransferSyntaxUID == RLELossless
    np.testing.assert_array_equal(found.pixel_array[2], PIXELS + 2)
    few = post(client, [told], [("x", "image/dicom-rle", frames[0])])
    assert few.status_code == 409


def test_what_one_gateway_gives__another_takes(client: httpx.Client, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "other")
    create_tables(storage)
    config = GatewayConfig(dimse_port=0, http_port=0, limits=LIMITS)
    with Gateway(storage, config) as other, client_of(other) as source:
        image = ct(1, WindowCenter=["0.1234567890123", "2"], RescaleSlope="1.00000000000001")
        other.store.store(encoded(image), "x")
        told = source.get(f"{SERIES}/metadata").json()
        uri = told[0]["7FE00010"]["BulkDataURI"]
        bulk = source.get(uri, headers={"Accept": OCTETS}).content
    assert post(client, told, [(uri, OCTETS, bulk)]).status_code == 200
    (found,) = read_back(client)
    assert Dataset(found) == Dataset(image)


def bad(**elements: Any) -> dict[str, Any]:
    return metadata_of(ct(1), "x") | elements


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"00081140": {"vr": "SQ", "Value": [inner]}}
    return inner


@pytest.mark.parametrize(
    "elements",
    [
        {"7FE00010": {"vr": "OW", "BulkDataURI": "file:///etc/passwd"}},
        {"7FE00010": {"vr": "OW", "InlineBinary": "*"}},
        {"00080018": {"vr": "UI", "Value": ["../1"]}},
        {"00080018": {"vr": "UI"}},
        {"00100010": "Doe"},
        {"PatientName": {"vr": "PN"}},
        {"00100010": {"vr": "pn"}},
        {"00100010": {"vr": "XX", "Value": ["a"]}},
        {"00280010": {"vr": "US", "Value": ["many"]}},
        {"00280010": {"vr": "US", "Value": 7}},
        {"00280010": {"vr": "US", "Value": [10**9]}},
        {"00081140": {"vr": "SQ", "Value": ["a"]}},
        {"00081140": {"vr": "SQ", "BulkDataURI": "x"}},
        nested(40),
    ],
)
def test_data_set__that_is_none_is_a_failure_of_its_own(
    refusing: httpx.Client, elements: dict[str, Any]
) -> None:
    parts = [("x", OCTETS, PIXELS.tobytes()), ("y", OCTETS, PIXELS.tobytes())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = post(refusing, [bad(**elements), metadata_of(ct(2), "y")], parts)
    assert answer.status_code == 202, answer.text
    assert len(values(answer.json(), "00081199")) == 1
    assert [one.InstanceNumber for one in read_back(refusing)] == [2]


@pytest.mark.parametrize(
    ("metadata", "parts", "status", "said"),
    [
        (b"[", [], 400, "body: expected DICOM JSON"),
        (b"{}", [], 400, "expected an array of data sets"),
        (b"[]", [], 400, "expected an array of data sets"),
        (b"[" * 100_000, [], 400, "body: expected DICOM JSON"),
        ([{}] * 10_001, [], 413, "expected metadata of at most 10000 instances, found 10001"),
        ([{}], [("", OCTETS, b"x")], 400, "expected a Content-Location"),
        ([{}], [("x" * 2000, OCTETS, b"x")], 400, "expected a Content-Location"),
        ([{}], [("x" * 9000, OCTETS, b"x")], 400, "Maximum header size"),
    ],
)
def test_request__that_is_none_is_one_line(
    refusing: httpx.Client,
    metadata: Any,
    parts: list[tuple[str, str, bytes]],
    status: int,
    said: str,
) -> None:
    answer = post(refusing, metadata, parts)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize("kind", ["video/mpeg", f"{OCTETS}; transfer-syntax=1.2.840.10008.1.2.2"])
def test_pixels__in_another_form_are_taken_for_what_they_say(
    client: httpx.Client, kind: str
) -> None:
    answer = post(client, [metadata_of(ct(1), "x")], [("x", kind, PIXELS.tobytes())])
    assert answer.status_code == (409 if "1.2.2" in kind else 200)


def test_public_files__are_taken_as_dcmtk_writes_them(
    client: httpx.Client, gateway: Gateway, shared_data: Path, tmp_path: Path
) -> None:
    """DCMTK's dcm2json writes the metadata; pixels go in a part."""
    taken = 0
    for path in sorted((shared_data / "dicom").rglob("*.dcm"))[::6]:
        data = path.read_bytes()
        try:
            index = index_instance(data)
        except DicomDecodeError:
            continue
        if index.transfer_syntax_uid not in {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}:
            continue
        told = json.loads(dcmtk("dcm2json", "-q", path))
        pixels = told.get("7FE00010", {})
        parts = []
        if "InlineBinary" in pixels:
            told["7FE00010"] = {"vr": pixels["vr"], "BulkDataURI": "p"}
            parts = [("p", OCTETS, base64.b64decode(pixels["InlineBinary"]))]
        answer = post(client, [told], parts)
        assert answer.status_code == 200, (path, answer.text)
        found = dcmread(
            io.BytesIO(gateway.store.read(gateway.store.instance(index.sop_instance_uid)))
        )
        given = dcmread(io.BytesIO(data), force=True)
        assert found.get("PixelData") == given.get("PixelData"), path
        assert [str(one) for one in found.dir()] == [str(one) for one in given.dir()], path
        taken += 1
    assert taken > 10


@pytest.mark.parametrize(("large_bytes", "at_once"), [(1 << 20, 4), (0, 1)])
def test_requests__are_written_few_at_once(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, large_bytes: int, at_once: int
) -> None:
    monkeypatch.setattr(store, "_LARGE_METADATA_BYTES", large_bytes)
    running: list[int] = []
    most: list[int] = []
    instances = MetadataParts.instances

    def counted(parts: MetadataParts) -> list[Any]:
        running.append(1)
        most.append(len(running))
        time.sleep(0.1)
        running.pop()
        return instances(parts)

    monkeypatch.setattr(MetadataParts, "instances", counted)
    images = [ct(n) for n in range(1, 13)]
    with ThreadPoolExecutor(len(images)) as pool:
        told = pool.map(
            lambda image: post(client, [metadata_of(image, "x")], [("x", OCTETS, image.PixelData)]),
            images,
        )
        assert {answer.status_code for answer in told} == {200}
    assert max(most) == at_once
