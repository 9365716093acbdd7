"""Images whose headers contradict themselves: they are shown, or refused, and never an error."""

import random
from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from pydicom import config as pydicom_config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from pacspark.gateway.server import Gateway
from pacspark.gateway.web.media import DICOM
from tests.ct_objects import ct_image, encoded
from tests.gateway.http import client_of, stow

PIXELS = np.arange(64, dtype=np.int16).reshape(8, 8)
KINDS = {
    "US": "SamplesPerPixel PlanarConfiguration Rows Columns BitsAllocated BitsStored HighBit "
    "PixelRepresentation PixelPaddingValue RedPaletteColorLookupTableDescriptor "
    "GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor LUTDescriptor",
    "DS": "WindowCenter WindowWidth RescaleIntercept RescaleSlope",
    "IS": "NumberOfFrames",
    "CS": "PhotometricInterpretation VOILUTFunction",
    "SQ": "ModalityLUTSequence VOILUTSequence SharedFunctionalGroupsSequence "
    "PerFrameFunctionalGroupsSequence PixelValueTransformationSequence FrameVOILUTSequence",
    "OW": "RedPaletteColorLookupTableData GreenPaletteColorLookupTableData "
    "BluePaletteColorLookupTableData LUTData",
}
KEYWORDS = [(keyword, vr) for vr, keywords in KINDS.items() for keyword in keywords.split()]
VALUES: dict[str, list[Any]] = {
    "US": [0, 1, 2, 3, 7, 8, 12, 15, 16, 32, 64, 65535, [256, 0, 16], [0, 0, 8]],
    "DS": ["abc", "", "1\\2\\3", "-1", "0", "1e300", "nan", "inf", "9" * 16],
    "IS": ["", "0", "-1", "2", "999999", "x"],
    "CS": ["PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "MONOCHROME1", "", "XYZ", "SIGMOID"],
    "OW": [bytes(count) for count in (0, 2, 6, 512, 1024)],
}
FORMS = (
    "/rendered", "/thumbnail", "/frames/1", "/frames/1/rendered", "/metadata",
    "/rendered?window=40,400,sigmoid", f"?accept={DICOM};transfer-syntax={RLELossless}",
)  # fmt: skip


def spoil(image: Dataset, draw: random.Random) -> None:
    """Give an attribute that a picture depends on another value, or a VR that is not its own."""
    keyword, vr = draw.choice(KEYWORDS)
    if draw.random() < 0.2:
        vr = draw.choice(["CS", "DS", "SQ"])
    value: Any
    if vr == "SQ":
        value = Sequence([Dataset() for _ in range(draw.randrange(3))])
        for item in value:
            for _ in range(draw.randrange(4)):
                spoil(item, draw)
    else:
        value = draw.choice(VALUES[vr])
    with suppress(ValueError):  # pydicom makes no element of some
        image[keyword] = DataElement(keyword, vr, value, validation_mode=pydicom_config.IGNORE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_pictures__are_drawn_or_refused(
    gateway: Gateway, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydicom_config.settings, "_writing_validation_mode", pydicom_config.IGNORE)
    draw, seen = random.Random(count), Counter[int]()
    with client_of(gateway) as client:
        for number in range(count):
            image = ct_image(PIXELS, number, (0.0, 0.0, 0.0))
            for _ in range(draw.randint(1, 4)):
                spoil(image, draw)
            try:
                data = encoded(image)
            except Exception:  # noqa: BLE001 -- what pydicom cannot write is no matter here
                continue
            answer = stow(client, data)
            if answer.status_code == 409:
                continue
            (row,) = answer.json()["00081199"]["Value"]
            for form in FORMS:
                status = client.get(row["00081190"]["Value"][0] + form).status_code
                assert status < 500, (number, form)
                seen[status] += 1
    assert min(seen[200], seen[406]) > count


def test_picture__of_a_number_that_is_none_is_refused(gateway: Gateway) -> None:
    data = encoded(ct_image(PIXELS, 1, (0.0, 0.0, 0.0)))
    samples = b"\x28\x00\x02\x00US\x02\x00"
    assert samples in data
    with client_of(gateway) as client:
        answer = stow(client, data.replace(samples, samples.replace(b"US", b"FD")))
        (row,) = answer.json()["00081199"]["Value"]
        for form in ("/rendered", "/thumbnail", "/frames/1/rendered"):
            assert client.get(row["00081190"]["Value"][0] + form).status_code == 406
