"""DICOMweb on the wire: storing, finding and reading over HTTP."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from pacspark.dicom.decode import data_set_start
from pacspark.gateway.server import Gateway
from pacspark.gateway.storing import Store
from pacspark.gateway.web_config import WebConfig, WebLimits
from pacspark.tables.catalog import Catalog
from tests.ct_objects import SERIES_UID, STUDY_UID, ct_image, encoded
from tests.gateway.conftest import LIMITS
from tests.gateway.http import body_of, client_of, parts_of, stow, values
from tests.gateway.web_objects import JSON, NAMED, PIXELS, SERIES, STUDY, ct, instance


@pytest.mark.parametrize("flushed", [False, True])
def test_stow__is_read_back_byte_for_byte(
    gateway: Gateway, client: httpx.Client, flushed: bool
) -> None:
    assert stow(client, ct(1), ct(2), ct(3)).status_code == 200
    if flushed:
        gateway.store.flush()
    for path, numbers in ((STUDY, (1, 2, 3)), (SERIES, (1, 2, 3)), (instance(2), (2,))):
        parts = parts_of(client.get(path))
        assert [data for _, data in parts] == [ct(number) for number in numbers]
        assert {head.get_content_type() for head, _ in parts} == {"application/dicom"}
    single = client.get(instance(2), headers={"Accept": "application/dicom"})
    assert single.content == ct(2)
    assert single.headers["content-type"].startswith("application/dicom; transfer-syntax=1.2.840")


def test_stow__answers_for_each_instance(client: httpx.Client) -> None:
    first = stow(client, ct(1), ct(1))
    assert first.status_code == 200
    told = first.json()
    assert [values(one, "00081155") for one in values(told, "00081199")] == [
        [f"{SERIES_UID}.1"]
    ] * 2
    (url,) = values(told, "00081190")
    assert url == str(client.base_url.join(STUDY))
    some = stow(client, ct(1, SeriesDescription="another"), ct(2), b"no DICOM")
    assert some.status_code == 202
    told = some.json()
    (failed,) = values(told, "00081198")
    assert (values(failed, "00081155"), values(failed, "00081197")) == (
        [f"{SERIES_UID}.1"],
        [0x111],
    )
    assert [values(one, "00081197") for one in values(told, "0008119A")] == [[0xC000]]
    none = stow(client, ct(5), path="/dicom-web/studies/1.2.3")
    assert none.status_code == 409
    assert values(values(none.json(), "00081198")[0], "00081197") == [0xA900]
    assert client.get(instance(5)).status_code == 404


def test_stow__takes_one_object_as_the_body(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/dicom"}
    assert client.post("/dicom-web/studies", content=ct(1), headers=headers).status_code == 200
    assert parts_of(client.get(instance(1)))[0][1] == ct(1)


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ('multipart/related; type="application/dicom"', b"", 415),
        ('multipart/related; type="application/dicom+xml"; boundary=x', b"", 415),
        ('multipart/related; type="application/dicom"; boundary=x', b"no boundary at all", 400),
        ('multipart/related; type="application/dicom"; boundary=x', b"", 400),
    ],
)
def test_stow__of_what_is_no_parts_is_refused(
    client: httpx.Client, content_type: str, body: bytes, status: int
) -> None:
    answer = client.post("/dicom-web/studies", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, list(answer.json())) == (status, ["status", "error"])


def test_stow__keeps_to_its_limits(start_gateway: Callable[..., Gateway]) -> None:
    limits = WebLimits(body_bytes=100_000, parts=3)
    with client_of(start_gateway(web=WebConfig(limits=limits))) as client:
        assert stow(client, bytes(200_000)).status_code == 413
        assert stow(client, *[ct(1)] * 4).status_code == 413
        assert stow(client, *[ct(1)] * 3).status_code == 200


def test_stow__of_a_truncated_body_stores_whole_parts_alone(client: httpx.Client) -> None:
    body = body_of([ct(1), ct(2)])
    answer = client.post(
        "/dicom-web/studies",
        content=body[: len(body) - 200],
        headers={
            "Content-Type": 'multipart/related; type="application/dicom"; boundary=a-boundary'
        },
    )
    assert answer.status_code == 400
    assert client.get(instance(2)).status_code == 404


def test_stow__of_a_large_object_goes_through_a_file(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacspark.gateway.web.store.LARGE_BYTES", 500)
    assert stow(client, ct(1), ct(2)).status_code == 200
    assert [data for _, data in parts_of(client.get(STUDY))] == [ct(1), ct(2)]


def test_retrieve__by_range_and_by_tag(filled: httpx.Client) -> None:
    headers = {"Accept": "application/dicom"}
    whole = filled.get(instance(1), headers=headers)
    data, size = ct(1, **NAMED), len(ct(1, **NAMED))
    for asked, start, end in (("128-131", 128, 132), ("-4", size - 4, None), ("5-", 5, None)):
        part = filled.get(instance(1), headers=headers | {"Range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, data[start:end])
    beyond = filled.get(instance(1), headers=headers | {"Range": f"bytes={size}-"})
    assert beyond.status_code == 416
    etag = whole.headers["etag"]
    assert filled.get(instance(1), headers=headers | {"If-None-Match": etag}).status_code == 304
    for path in (STUDY, f"{SERIES}/metadata", f"{instance(1)}/frames/1"):
        told = filled.get(path).headers["etag"]
        again = filled.get(path, headers={"If-None-Match": f'"x", {told}'})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/dicom-web/studies/1.2.3", 404),
        ("/dicom-web/studies/..%2f..%2fetc", 404),
        ("/dicom-web/studies/1.2.3/series/x/metadata", 400),
        (f"/dicom-web/studies/1.2.3/series/{SERIES_UID}", 404),
        (f"/dicom-web/studies/1.2.3/series/{SERIES_UID}/instances/{SERIES_UID}.1", 404),
        (f"{instance(1)}/frames/2", 400),
        (f"{instance(1)}/frames/0", 400),
        (f"{instance(1)}/frames/1;drop", 400),
        (f"{instance(1)}/bulkdata/0-999999999", 400),
        (f"{instance(1)}/bulkdata/passwd", 400),
        (f"{instance(1)}/rendered?viewport=1", 400),
        (f"{instance(1)}/rendered?viewport=99999,99999", 400),
        (f"{instance(1)}/rendered?viewport=1,1,1e308,1e308,1e308,1e308", 400),
        (f"{instance(1)}/rendered?window=a,b", 400),
        ("/dicom-web/nothing", 404),
        ("/wado?requestType=NONE", 400),
        (f"/wado?requestType=WADO&studyUID=1.2&seriesUID=1.2&objectUID={SERIES_UID}.1", 404),
        ("/dicom-web/studies?limit=-1", 400),
        ("/dicom-web/studies?fuzzymatching=perhaps", 400),
        ("/dicom-web/studies?NoSuchKeyword=1", 400),
        ("/dicom-web/studies?StudyDate=yesterday", 400),
        ("/dicom-web/studies?StudyInstanceUID=x", 400),
        ("/dicom-web/studies?PatientID=1&PatientID=2", 400),
    ],
)
def test_request__that_cannot_be_answered_has_a_status(
    filled: httpx.Client, path: str, status: int
) -> None:
    answer = filled.get(path)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert "/archive" not in answer.text  # no path of this machine


@pytest.mark.parametrize("accept", ["image/png", "application/dicom; transfer-syntax=1.2.3", "x/y"])
def test_retrieve__of_a_form_that_is_not_there_is_406(filled: httpx.Client, accept: str) -> None:
    for path in (STUDY, f"{SERIES}/metadata", f"{instance(1)}/frames/1"):
        assert filled.get(path, headers={"Accept": accept}).status_code == 406


def test_object_by_uri__is_read_as_it_is_taken(
    filled: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Store, "read")  # nobody has all of it in memory
    asked = f"/wado?requestType=WADO&studyUID={STUDY_UID}&seriesUID={SERIES_UID}"
    asked += f"&objectUID={SERIES_UID}.1&contentType=application/dicom"
    assert filled.get(asked).content == ct(1, **NAMED)
    assert filled.get(asked, headers={"Range": "bytes=128-131"}).content == b"DICM"


def test_metadata__has_all_but_bulk_data(filled: httpx.Client) -> None:
    answer = filled.get(f"{SERIES}/metadata", headers={"Accept": JSON, "Accept-Encoding": "gzip"})
    assert (answer.headers["content-type"], answer.headers["content-encoding"]) == (JSON, "gzip")
    told = answer.json()
    assert [values(one, "00080018") for one in told] == [[f"{SERIES_UID}.{n}"] for n in (1, 2, 3)]
    assert all(list(one["7FE00010"]) == ["vr", "BulkDataURI"] for one in told)
    with filled.stream("GET", f"{SERIES}/metadata", headers={"Accept-Encoding": "gzip"}) as raw:
        assert json.loads(gzip.decompress(b"".join(raw.iter_raw()))) == told
    plain = filled.get(f"{SERIES}/metadata", headers={"Accept-Encoding": "identity"})
    assert plain.json() == told
    assert "content-encoding" not in plain.headers


@pytest.mark.parametrize("flushed", [False, True])
def test_metadata__names_bulk_data_that_can_be_had(
    gateway: Gateway, client: httpx.Client, flushed: bool
) -> None:
    pixels = np.arange(64 * 64, dtype=np.int16).reshape(64, 64)
    assert stow(client, encoded(ct_image(pixels, 1, (0.0, 0.0, 0.0)))).status_code == 200
    if flushed:
        gateway.store.flush()
    (told,) = client.get(f"{instance(1)}/metadata").json()
    url = told["7FE00010"]["BulkDataURI"]
    assert url.startswith(str(client.base_url.join(instance(1))))
    ((_, data),) = parts_of(client.get(url, headers={"Accept": "multipart/related"}))
    assert data == pixels.tobytes()
    headers = {"Accept": "application/octet-stream"}
    assert client.get(url, headers=headers).content == data
    part = client.get(url, headers=headers | {"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, data[2:6])


PLAIN = "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"


OHIF = "multipart/related; type=application/octet-stream; transfer-syntax=*"


def test_frames__are_plain_pixels(filled: httpx.Client) -> None:
    for accept in (OHIF, 'multipart/related; type="application/octet-stream"', "*/*", ""):
        answer = filled.get(f"{instance(2)}/frames/1", headers={"Accept": accept})
        assert answer.status_code == 200, accept
        ((head, data),) = parts_of(answer)
        assert data == (PIXELS + 2).tobytes()
        assert (
            head["content-type"] == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
        )
    single = filled.get(f"{instance(2)}/frames/1", headers={"Accept": "application/octet-stream"})
    assert single.content == (PIXELS + 2).tobytes()


def test_frames__of_a_series_are_located_together(
    gateway: Gateway, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stow(client, *map(ct, range(1, 9))).status_code == 200
    gateway.store.flush()
    located: list[int] = []
    locate = gateway.store.locate

    def counted(instances: Any) -> Any:
        located.append(len(instances))
        return locate(instances)

    monkeypatch.setattr(gateway.store, "locate", counted)
    for number in (1, 2, 3, 8, 1):
        ((_, data),) = parts_of(client.get(f"{instance(number)}/frames/1"))
        assert data == (PIXELS + number).tobytes()
    assert located == [1, 7]


# queries


def test_query__tells_what_a_study_list_shows(filled: httpx.Client) -> None:
    answer = filled.get("/dicom-web/studies?limit=101&offset=0&fuzzymatching=false"
                        "&includefield=00081030%2C00080060,00080061")  # fmt: skip
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
    (study,) = answer.json()
    assert values(study, "0020000D") == [STUDY_UID]
    assert values(study, "00080061") == ["CT"]
    assert values(study, "00201208") == [3]
    assert values(study, "00081190") == [str(filled.base_url.join(STUDY))]
    assert list(study) == sorted(study)
    (series,) = filled.get(f"{STUDY}/series").json()
    assert (values(series, "0020000E"), values(series, "00201209")) == ([SERIES_UID], [3])
    rows = filled.get(f"{SERIES}/instances").json()
    assert [values(row, "00200013") for row in rows] == [[1], [2], [3]]
    assert values(rows[0], "00280010") == [4]
    assert values(rows[0], "00081190") == [str(filled.base_url.join(instance(1)))]


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("/studies?PatientName=*DOE*", 1),
        ("/studies?00100010=doe^j*", 1),
        ("/studies?PatientName=jane%20doe&fuzzymatching=true", 1),
        ("/studies?PatientName=ane&fuzzymatching=true", 0),
        ("/studies?StudyDate=20200101-20301231", 1),
        ("/studies?StudyDate=-20200101", 0),
        (f"/studies?StudyInstanceUID=1.2.3,{STUDY_UID}", 1),
        (f"/studies?0020000D=1.2.3%5C{STUDY_UID}", 1),
        ("/studies?ModalitiesInStudy=MR", 0),
        ("/studies?ModalitiesInStudy=CT&PatientID=*", 1),
        ("/studies?PatientName=%25", 0),
        ("/studies?PatientName=D_e*", 0),
        (f"/studies/{STUDY_UID}/series?StudyInstanceUID=1.2.3", 0),
        (f"/studies/{STUDY_UID}/series?Modality=ct", 1),
        (f"/studies/{STUDY_UID}/instances?InstanceNumber=2", 1),
        ("/series?Modality=CT", 1),
        ("/instances?InstanceNumber=3", 1),
        (f"/studies/{STUDY_UID}/series/1.2.3/instances", 0),
        ("/studies?offset=1", 0),
        ("/instances?limit=0", 0),
    ],
)
def test_query__matches(filled: httpx.Client, path: str, count: int) -> None:
    answer = filled.get(f"/dicom-web{path}")
    assert answer.status_code == (200 if count else 204)
    assert len(answer.json() if count else []) == count


def test_query__pages_in_one_order(client: httpx.Client) -> None:
    objects = [ct(n, SOPInstanceUID=f"1.2.{n}", InstanceNumber=1000 - n) for n in range(1, 12)]
    assert stow(client, *objects).status_code == 200
    whole = client.get("/dicom-web/instances").json()
    pages = []
    for offset in range(0, 11, 4):
        page = client.get(f"/dicom-web/instances?limit=4&offset={offset}").json()
        assert len(page) <= 4
        pages += page
    assert pages == whole
    assert len(whole) == 11


def test_query__of_all_attributes_has_them(filled: httpx.Client) -> None:
    rows = filled.get(f"{SERIES}/instances?includefield=all").json()
    assert values(rows[1], "00280101") == [16]
    assert values(rows[1], "00280002") == [1]
    assert rows[1]["7FE00010"]["BulkDataURI"].startswith("http://")
    (study,) = filled.get("/dicom-web/studies?includefield=all").json()
    assert values(study, "00080062") == ["1.2.840.10008.5.1.4.1.1.2"]


def test_query__reaches_into_sequences(client: httpx.Client) -> None:
    item = Dataset()
    item.ScheduledProcedureStepID, item.RequestedProcedureID = "STEP-7", "R-1"
    assert stow(client, ct(1, RequestAttributesSequence=[item]), ct(2)).status_code == 200
    for name in ("RequestAttributesSequence.ScheduledProcedureStepID", "00400275.00400009"):
        (row,) = client.get(f"/dicom-web/instances?{name}=STEP-*").json()
        assert values(row, "00080018") == [f"{SERIES_UID}.1"]
        (told,) = values(row, "00400275")
        assert values(told, "00401001") == ["R-1"]
        assert client.get(f"/dicom-web/instances?{name}=STEP-8").status_code == 204
    (series,) = client.get(f"{STUDY}/series").json()
    assert "00400275" in series


def test_query__beyond_the_limit_says_what_is_left(start_gateway: Callable[..., Gateway]) -> None:
    with client_of(start_gateway(limits=replace(LIMITS, answers=2))) as client:
        stow(client, ct(1), ct(2), ct(3))
        answer = client.get("/dicom-web/instances")
        assert len(answer.json()) == 2
        assert answer.headers["warning"].startswith('299 pacspark "There are 1 additional')
        assert "warning" not in client.get("/dicom-web/instances?limit=2").headers


# pictures


def test_rendered__has_window_and_viewport(client: httpx.Client) -> None:
    ramp = np.tile(np.arange(256, dtype=np.int16) * 4, (64, 1))
    data = encoded(ct_image(ramp, 1, (0.0, 0.0, 0.0)))
    assert stow(client, data).status_code == 200

    def picture(query: str, path: str = f"{instance(1)}/rendered") -> NDArray[np.uint8]:
        answer = client.get(f"{path}{query}", headers={"Accept": "image/png"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        return np.asarray(Image.open(io.BytesIO(answer.content)))

    hounsfield = picture("?window=512,1024,linear-exact")
    assert hounsfield.shape == (64, 256)
    assert np.all(np.diff(hounsfield[0].astype(int)) >= 0)
    narrow = picture("?window=512,2,linear")
    assert narrow[0, 0] == 0
    assert narrow[0, -1] == 255
    assert picture("?viewport=128,128").shape == (32, 128)
    assert picture("?viewport=64,64,0,0,64,64").shape == (64, 64)
    assert picture("?viewport=128,128", f"{SERIES}/thumbnail").shape == (32, 128)
    jpeg = client.get(f"{instance(1)}/frames/1/rendered")
    assert (jpeg.headers["content-type"], jpeg.content[:2]) == ("image/jpeg", b"\xff\xd8")
    names = f"studyUID={STUDY_UID}&seriesUID={SERIES_UID}&objectUID={SERIES_UID}.1"
    wado = f"/wado?requestType=WADO&{names}"
    assert client.get(wado).content == jpeg.content
    assert client.get(f"{wado}&contentType=application/dicom").content == data


def test_transcoding__of_a_bare_data_set(client: httpx.Client) -> None:
    bare = ct(1)[data_set_start(ct(1)) :]
    assert stow(client, bare).status_code == 200
    assert parts_of(client.get(instance(1)))[0][1] == bare
    implicit = "application/dicom; transfer-syntax=1.2.840.10008.1.2"
    answer = client.get(instance(1), headers={"Accept": implicit})
    assert answer.headers["content-type"] == implicit
    image = dcmread(io.BytesIO(answer.content))
    assert image.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert image.PixelData == (PIXELS + 1).tobytes()


# deletes, rights, limits


@pytest.mark.parametrize("edge", [6, 1000])
def test_retrieve__of_a_damaged_object_never_looks_whole(
    gateway: Gateway, client: httpx.Client, caplog: pytest.LogCaptureFixture, edge: int
) -> None:
    image = encoded(ct_image(np.zeros((edge, edge), np.int16), 1, (0.0, 0.0, 0.0)))
    assert stow(client, image).status_code == 200
    gateway.store.flush()
    (row,) = Catalog(gateway.storage).table("instances").to_pylist()
    path = Path(gateway.storage.path("objects", row["object_file"]))
    data = bytearray(path.read_bytes())
    data[row["object_offsets"][-1] + 400] ^= 1
    path.write_bytes(data)
    if edge == 6:  # nothing has been sent yet
        assert client.get(instance(1)).status_code == 503
        return
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(instance(1))
    assert "cut off" in caplog.text
    assert "Traceback" not in caplog.text


def test_head__reads_nothing_of_the_body(
    filled: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {"Accept": "application/dicom; transfer-syntax=*"}
    whole = filled.get(instance(1), headers=form)
    assert whole.status_code == 200
    read: list[int] = []

    def stream(*_: object) -> Iterator[bytes]:
        read.append(1)
        yield b"x"

    monkeypatch.setattr(Store, "stream", stream)
    head = filled.head(instance(1), headers=form)
    assert filled.get("/healthz").status_code == 200  # the same connection: the head is over
    assert (head.status_code, head.content, read) == (200, b"", [])
    assert head.headers["etag"] == whole.headers["etag"]
    assert int(head.headers["content-length"]) == len(whole.content)
