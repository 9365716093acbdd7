"""In which form DICOMweb gives what it has: transfer syntaxes, ranges, pictures of WADO-URI."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, RLELossless

from tests.ct_objects import SERIES_UID, STUDY_UID, ct_image, encoded
from tests.gateway.http import parts_of, stow
from tests.gateway.web_objects import PIXELS, STUDY, ct, instance

LITTLE = "1.2.840.10008.1.2.1"
STORED = {"Accept": "application/dicom; transfer-syntax=*"}
OBJECT = {"Accept": "application/dicom"}
URI = f"/wado?requestType=WADO&studyUID={STUDY_UID}&seriesUID={SERIES_UID}&objectUID={SERIES_UID}"


def compressed(number: int) -> bytes:
    image = ct_image(PIXELS + number, number, (0.0, 0.0, float(number)))
    image.compress(RLELossless, generate_instance_uid=False)
    return encoded(image)


def lossy(number: int) -> bytes:
    image = ct_image(PIXELS.astype(np.uint8), number, (0.0, 0.0, float(number)))
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    image.PixelData = encapsulate([b"\xff\xd8 nobody looks at this"])
    image["PixelData"].VR = "OB"
    return encoded(image)


def test_object__is_plain_for_who_names_no_transfer_syntax(client: httpx.Client) -> None:
    given = compressed(1)
    assert stow(client, given, lossy(2), ct(3)).status_code == 200
    assert client.get(instance(1), headers=STORED).content == given
    answer = client.get(instance(1), headers=OBJECT)
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={LITTLE}"
    whole = [answer.content, client.get(f"{URI}.1&contentType=application/dicom").content]
    parts = dict(zip("123", parts_of(client.get(STUDY)), strict=True))
    for data in [*whole, parts["1"][1]]:
        image = dcmread(io.BytesIO(data))
        assert image.file_meta.TransferSyntaxUID == LITTLE
        assert np.array_equal(image.pixel_array, PIXELS + 1)
    # what has lost something is not made larger, what is plain stays as it is
    assert parts["2"][1] == lossy(2)
    assert parts["2"][0]["Content-Type"].endswith(JPEGBaseline8Bit)
    assert parts["3"][1] == ct(3)
    wildcard = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    stored = parts_of(client.get(STUDY, headers={"Accept": wildcard}))
    assert [data for _, data in stored] == [given, lossy(2), ct(3)]
    etags = {client.get(instance(1), headers=one).headers["etag"] for one in (STORED, OBJECT)}
    assert len(etags) == 2


def bulk_of(client: httpx.Client, number: int) -> str:
    (metadata,) = client.get(f"{instance(number)}/metadata").json()
    return str(metadata["7FE00010"]["BulkDataURI"])


def test_bulk_data__of_compressed_pixels_comes_as_it_is_taken(client: httpx.Client) -> None:
    assert stow(client, compressed(1)).status_code == 200
    url = bulk_of(client, 1)
    plain = client.get(url, headers={"Accept": "application/octet-stream"})
    assert plain.content == (PIXELS + 1).tobytes()
    ((head, _),) = parts_of(client.get(url))
    assert head.get_content_type() == "image/dicom-rle"
    assert client.get(url, headers={"Accept": "image/png"}).status_code == 406


def test_range__is_given_to_clients_that_take_anything(client: httpx.Client) -> None:
    assert stow(client, ct(1)).status_code == 200
    url, data = bulk_of(client, 1), (PIXELS + 1).tobytes()
    part = client.get(url, headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, data[2:6])
    etag = part.headers["etag"]
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
    for path, headers in ((url, {}), (instance(1), OBJECT)):
        whole = client.get(path, headers=headers)
        asked = headers | {"Range": "bytes=2-5"}
        other = client.get(path, headers=asked | {"If-Range": '"another version"'})
        assert (other.status_code, other.content) == (200, whole.content)
        same = client.get(path, headers=asked | {"If-Range": whole.headers["etag"]})
        assert (same.status_code, same.content) == (206, whole.content[2:6])


@pytest.mark.parametrize(
    ("told", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.0, br", None),
    ],
)
def test_json__is_compressed_where_that_is_taken(
    filled: httpx.Client, told: str, encoding: str | None
) -> None:
    answer = filled.get("/dicom-web/studies", headers={"Accept-Encoding": told})
    assert answer.headers.get("content-encoding") == encoding


def test_wildcard__is_nothing_that_is_refused_by_name(filled: httpx.Client) -> None:
    accept = {"Accept": "application/dicom+json;q=0, */*"}
    answer = filled.get("/dicom-web/studies", headers=accept)
    assert answer.headers["content-type"] == "application/json"
    nothing = {"Accept": "*/*, image/jpeg;q=0, image/png;q=0, image/gif;q=0"}
    assert filled.get(f"{instance(1)}/rendered", headers=nothing).status_code == 406


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ("rows=2&columns=3", (3, 2)),
        ("region=0,0,0.5,0.5", (3, 2)),
        ("region=0.5,0,1,1&rows=8&columns=6", (6, 8)),
        ("viewport=3,2", (3, 2)),
    ],
)
def test_wado_uri__has_region_and_viewport(
    filled: httpx.Client, asked: str, size: tuple[int, int]
) -> None:
    answer = filled.get(f"{URI}.1&contentType=image/png&{asked}")
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(answer.content)).size == size


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("anonymize=yes&contentType=application/dicom", 406),
        ("anonymize=yes", 406),
        ("rows=4", 400),
        ("windowCenter=40", 400),
        ("region=0,0,2,2", 400),
        ("region=0.5,0,0.2,1", 400),
        ("window=40,400,curved", 400),
        ("window=40,0,linear", 400),
    ],
)
def test_wado_uri__that_cannot_be_is_refused(filled: httpx.Client, asked: str, status: int) -> None:
    assert filled.get(f"{URI}.1&{asked}").status_code == status


def test_picture__says_what_it_does_not_show(filled: httpx.Client) -> None:
    answer = filled.get(f"{instance(1)}/rendered?annotation=patient&iccprofile=no")
    assert answer.headers["warning"] == '299 pacspark "Not supported: annotation"'
    assert "warning" not in filled.get(f"{instance(1)}/rendered").headers
