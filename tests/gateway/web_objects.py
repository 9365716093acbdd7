"""Three images that tests of DICOMweb store, and where they are."""

from typing import Any

import numpy as np

from tests.ct_objects import SERIES_UID, STUDY_UID, ct_image, encoded

PIXELS = np.arange(24, dtype=np.int16).reshape(4, 6)
STUDY = f"/dicom-web/studies/{STUDY_UID}"
SERIES = f"{STUDY}/series/{SERIES_UID}"
JSON = "application/dicom+json"
NAMED = {"PatientName": "Doe^Jane", "StudyDate": "20240229"}


def ct(number: int, **more: Any) -> bytes:
    """Give one of the images."""
    return encoded(ct_image(PIXELS + number, number, (0.0, 0.0, float(number)), **more))


def instance(number: int) -> str:
    """Tell where one is."""
    return f"{SERIES}/instances/{SERIES_UID}.{number}"
