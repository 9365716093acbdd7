"""Public files of many transfer syntaxes through DICOMweb, against an independent client."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from numpy.typing import NDArray
from PIL import Image
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from pacspark.dicom import codecs
from pacspark.gateway.server import Gateway
from tests.gateway.http import client_of, parts_of, stow, values

SYNTAXES = "dicom/cornerstone-transfer-syntaxes/testImages"
PLAIN = 'multipart/related; type="application/octet-stream"'
STORED = "multipart/related; type=application/octet-stream; transfer-syntax=*"
AS_IT_IS = 'multipart/related; type="application/dicom"; transfer-syntax=*'
LITTLE = "1.2.840.10008.1.2.1"
JPEG_LS = "1.2.840.10008.1.2.4.80"


def own_uid(path: Path, number: int) -> tuple[bytes, str]:
    """Give one of many forms of one image a UID of its own: the archive has each UID once."""
    image = pydicom.dcmread(path)
    uid = UID(f"1.2.826.0.1.3680043.8.498.77.{number}")
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid
    buffer = BytesIO()
    image.save_as(buffer)
    return buffer.getvalue(), uid


def pixels_of(data: bytes) -> NDArray[Any]:
    codecs.register()
    return np.asarray(pydicom.dcmread(BytesIO(data)).pixel_array)


def test_frames__of_every_transfer_syntax_are_pydicoms(
    start_gateway: Callable[..., Gateway], shared_data: Path
) -> None:
    files = sorted((shared_data / SYNTAXES).glob("CTImage.dcm_*.dcm"))
    assert len(files) >= 14
    stored = [own_uid(path, number) for number, path in enumerate(files, start=1)]
    gateway = start_gateway()
    checked = 0
    with client_of(gateway) as client:
        assert stow(client, *(data for data, _ in stored)).status_code == 200
        gateway.store.flush()
        for path, (data, uid) in zip(files, stored, strict=True):
            (row,) = client.get(f"/dicom-web/instances?SOPInstanceUID={uid}").json()
            (url,) = values(row, "00081190")
            ((_, whole),) = parts_of(client.get(url, headers={"Accept": AS_IT_IS}))
            assert whole == data, path.name
            image = pydicom.dcmread(BytesIO(data))
            syntax = image.file_meta.TransferSyntaxUID
            answer = client.get(f"{url}/frames/1", headers={"Accept": PLAIN})
            try:
                expected = pixels_of(data)
            except (RuntimeError, NotImplementedError, AttributeError):
                assert answer.status_code == 406, path.name  # nobody decodes it here
                continue
            assert answer.status_code == 200, (path.name, answer.text)
            ((head, plain),) = parts_of(answer)
            assert head["content-type"].endswith(LITTLE)
            assert np.array_equal(
                np.frombuffer(plain, expected.dtype.newbyteorder("<")).reshape(expected.shape),
                expected,
            ), path.name
            ((head, frame),) = parts_of(client.get(f"{url}/frames/1", headers={"Accept": STORED}))
            if syntax.is_encapsulated:
                assert head["content-type"].endswith(f"transfer-syntax={syntax}")
                assert frame in data
            picture = client.get(f"{url}/rendered", headers={"Accept": "image/png"})
            grey = np.asarray(Image.open(BytesIO(picture.content)))
            assert grey.shape == expected.shape[:2]
            assert len(np.unique(grey)) > 8
            asked = f'multipart/related; type="application/dicom"; transfer-syntax={LITTLE}'
            ((_, decoded),) = parts_of(client.get(url, headers={"Accept": asked}))
            assert pydicom.dcmread(BytesIO(decoded)).file_meta.TransferSyntaxUID == LITTLE
            assert np.array_equal(pixels_of(decoded), expected), path.name
            checked += 1
    assert checked == len(files)


def test_transcoding__into_a_compressed_syntax_is_lossless(
    gateway: Gateway, shared_data: Path
) -> None:
    (path,) = (shared_data / SYNTAXES).glob("CTImage.dcm_LittleEndianExplicit*.dcm")
    image = pydicom.dcmread(path)
    with client_of(gateway) as client:
        assert stow(client, path.read_bytes()).status_code == 200
        url = f"/dicom-web/instances?SOPInstanceUID={image.SOPInstanceUID}"
        (address,) = values(client.get(url).json()[0], "00081190")
        asked = f"application/dicom; transfer-syntax={JPEG_LS}"
        answer = client.get(address, headers={"Accept": asked})
        assert answer.headers["content-type"] == asked
        made = pydicom.dcmread(BytesIO(answer.content))
        assert made.file_meta.TransferSyntaxUID == JPEG_LS
        assert made.SOPInstanceUID == image.SOPInstanceUID
        assert len(answer.content) < path.stat().st_size
        assert np.array_equal(made.pixel_array, image.pixel_array)


def test_dicomweb_client__stores_finds_and_reads_back(gateway: Gateway, shared_data: Path) -> None:
    folder = shared_data / "dicom/dcm_qa_ct-philips-S21570-S2010/In"
    images = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            images.append(pydicom.dcmread(path))
        except pydicom.errors.InvalidDicomError:
            continue
    images = [image for image in images if "PixelData" in image]
    assert len(images) > 20
    assert gateway.web is not None
    client = DICOMwebClient(f"http://127.0.0.1:{gateway.web.port}/dicom-web")
    client.store_instances(images)
    study, series = images[0].StudyInstanceUID, images[0].SeriesInstanceUID
    (found,) = client.search_for_studies(search_filters={"PatientID": images[0].PatientID})
    assert values(found, "0020000D") == [study]
    assert len(client.search_for_instances(study, series)) == len(images)
    assert len(client.search_for_instances(study, series, limit=5, offset=3)) == 5
    metadata = client.retrieve_series_metadata(study, series)
    assert len(metadata) == len(images)
    read = {one.SOPInstanceUID: one for one in client.retrieve_series(study, series)}
    for image in images[:5]:
        assert read[image.SOPInstanceUID] == image
        (frame,) = client.retrieve_instance_frames(study, series, image.SOPInstanceUID, [1])
        assert frame == image.PixelData
    (bulk,) = client.retrieve_bulkdata(metadata[0]["7FE00010"]["BulkDataURI"])
    assert any(bulk == image.PixelData for image in images)
    picture = client.retrieve_instance_rendered(study, series, images[0].SOPInstanceUID)
    assert Image.open(BytesIO(picture)).size == (images[0].Columns, images[0].Rows)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_frames__of_enhanced_objects_are_range_reads(
    gateway: Gateway, shared_data: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        path
        for path in (shared_data / "dicom/dcm_qa_enh").rglob("*.dcm")
        if int(pydicom.dcmread(path, stop_before_pixels=True).get("NumberOfFrames", 1)) >= 5
    ]
    path = min(paths, key=lambda one: one.stat().st_size)
    image = pydicom.dcmread(path)
    with client_of(gateway) as client:
        assert stow(client, path.read_bytes()).status_code == 200
        gateway.store.flush()
        (row,) = client.get(f"/dicom-web/instances?SOPInstanceUID={image.SOPInstanceUID}").json()
        (url,) = values(row, "00081190")
        monkeypatch.setattr(type(gateway.store), "stream", None)  # the whole is never read
        ((_, frame),) = parts_of(client.get(f"{url}/frames/{number}", headers={"Accept": STORED}))
        if image.file_meta.TransferSyntaxUID.is_encapsulated:
            assert frame in path.read_bytes()
        else:
            assert frame == image.pixel_array[number - 1].tobytes()
        both = parts_of(client.get(f"{url}/frames/{number},1", headers={"Accept": STORED}))
        assert next(data for _, data in both) == frame
        assert client.get(f"{url}/frames/{number}/rendered").headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize("form", ["j2k", "nonbyte_aligned_j2k"])
def test_pixels_of_one_bit__are_given_eight_to_a_byte(
    gateway: Gateway, shared_data: Path, form: str
) -> None:
    folder = shared_data / "dicom/pydicom-data/data_store/data"
    compressed = folder / f"liver_{form}.dcm"
    native = pydicom.dcmread(folder / f"liver{'_nonbyte_aligned' * ('aligned' in form)}.dcm")
    with client_of(gateway) as client:
        stow(client, compressed.read_bytes())
        (row,) = client.get("/dicom-web/instances").json()
        (url,) = values(row, "00081190")
        first = np.packbits(native.pixel_array[0], axis=None, bitorder="little").tobytes()
        ((_, frame),) = parts_of(client.get(f"{url}/frames/1", headers={"Accept": PLAIN}))
        assert frame == first
        asked = {"Accept": f"application/dicom; transfer-syntax={LITTLE}"}
        whole = pydicom.dcmread(BytesIO(client.get(url, headers=asked).content))
        assert whole.PixelData == native.PixelData


def is_decoded(own: bytes, plain: bytes) -> bool:
    """Hold a plain form against pydicom's decoding of the stored one; False where it has none."""
    if plain == own:  # some have no header; bytes out are bytes in
        return True
    assert pydicom.dcmread(BytesIO(plain)).file_meta.TransferSyntaxUID == LITTLE
    try:
        expected = pixels_of(own)
    except (RuntimeError, NotImplementedError, AttributeError, ValueError, InvalidDicomError):
        return False
    assert np.array_equal(pixels_of(plain), expected)
    return True


@pytest.mark.slow
def test_every_public_file__is_given_in_every_form(gateway: Gateway, shared_data: Path) -> None:
    files = [path for path in (shared_data / "dicom").rglob("*") if path.is_file()]
    asked = {
        "/rendered": "image/png",
        "/thumbnail": "*/*",
        "/frames/1": STORED,
        "/metadata": "application/dicom+json",
        "": f"application/dicom; transfer-syntax={LITTLE}",
    }
    images, decoded, refused = 0, 0, set()
    given = {path.read_bytes() for path in files}
    with client_of(gateway) as client:
        for path in files:
            assert stow(client, path.read_bytes()).status_code in {200, 409}, path
        gateway.store.flush()
        for row in client.get("/dicom-web/instances?limit=1000").json():
            (url,) = values(row, "00081190")
            own = client.get(
                url, headers={"Accept": "application/dicom; transfer-syntax=*"}
            ).content
            assert own in given, url
            if not values(row, "00280010"):
                assert client.get(f"{url}/rendered").status_code == 406
                continue
            images += 1
            for form, accept in asked.items():
                answer = client.get(url + form, headers={"Accept": accept})
                if answer.status_code == 406 and form not in {"/metadata", "/frames/1"}:
                    refused.add(url)
                else:
                    assert answer.status_code == 200, (url, form, answer.text[:200])
                    decoded += form == "" and is_decoded(own, answer.content)
            (told,) = client.get(f"{url}/metadata").json()
            for element in told.values():
                if "BulkDataURI" in element:
                    assert client.get(element["BulkDataURI"]).status_code == 200
    assert images >= 170
    assert decoded >= 150
    # deflated frames and RLE of single bits: nothing here decodes them
    assert len(refused) <= 4
