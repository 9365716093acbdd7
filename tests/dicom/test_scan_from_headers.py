"""Stored scans: rebuilt from headers alone, or refused with what is wrong."""

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pydicom
import pytest

from pacspark.ct.views import VECTORS
from pacspark.dicom import scan as scan_module
from pacspark.dicom.private import ELEMENTS, GROUP
from pacspark.dicom.scan import (
    EncodedInstance,
    encode_scan,
    scan_from_headers,
)
from pacspark.errors import (
    PacsparkError,
    ProjectionDataError,
    SeriesNotFoundError,
)
from tests.dicom.scans import (
    ONES,
    Memory,
    cone,
    decoded,
    described,
    rows_of,
    tilted,
    wobbling,
)


def flats_and_darks(monkeypatch: pytest.MonkeyPatch) -> tuple[list[EncodedInstance], Memory]:
    """Encode 2 darks, 5 flats and 7 views as 1 + 3 + 4 instances of at most 2 frames."""
    monkeypatch.setattr(scan_module, "INSTANCE_FRAMES", 2)
    counts = np.random.default_rng(6).integers(0, 65535, (1, 14, 4, 6), np.uint16)
    source = Memory(counts[:, :7], counts[:, 7:12], counts[:, 12:])
    encoded = list(encode_scan(described(cone(), kind="counts"), source))
    assert len(encoded) == 8
    return encoded, source


def test_scan_from_headers__does_not_depend_on_the_order_of_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded, source = flats_and_darks(monkeypatch)
    rows = rows_of(encoded)
    scan = scan_from_headers(rows)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(rows))
        assert scan_from_headers([rows[number] for number in order]) == scan
    np.testing.assert_array_equal(decoded(encoded, scan, "flats"), source.flats())
    np.testing.assert_array_equal(decoded(encoded, scan, "darks"), source.darks())
    np.testing.assert_array_equal(decoded(encoded, scan, "projections"), source.read(0, 7))


@pytest.mark.parametrize(
    ("missing", "found"),
    [
        (0, "every dark of energy bin 0, found none for 2 of them, the first at index 0"),
        (2, "every flat of energy bin 0, found none for 2 of them, the first at index 2"),
        (7, "every view of energy bin 0, found none for 1 of them, the first at index 6"),
    ],
)
def test_scan_from_headers__names_what_is_missing(
    missing: int, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(flats_and_darks(monkeypatch)[0])
    with pytest.raises(ProjectionDataError, match=found):
        scan_from_headers(rows[:missing] + rows[missing + 1 :])


def test_scan_from_headers__refuses_a_view_that_is_there_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_of(flats_and_darks(monkeypatch)[0])
    with pytest.raises(ProjectionDataError, match="every view of energy bin 0 once"):
        scan_from_headers([*rows, rows[5] | {"sop_instance_uid": "1.2.3"}])


def test_scan_from_headers__needs_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(flats_and_darks(monkeypatch)[0])
    with pytest.raises(ProjectionDataError, match="found only flats and darks"):
        scan_from_headers(rows[:4])


def edited(row: dict[str, Any], name: str, value: list[Any] | None) -> dict[str, Any]:
    """Return a row whose private block says something else; None takes the element away."""
    header = json.loads(row["dicom_json"])
    tag = f"001910{ELEMENTS[name][0]:02X}"
    if value is None:
        del header[tag]
    else:
        header[tag]["Value"] = value
    return row | {"dicom_json": json.dumps(header)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("detector_spacing_mm", [0.3, 0.8]),
        ("source_to_isocenter_mm", [100.0]),
        ("kind", ["TRANSMISSION"]),
        ("rescale", [2.0, 0.0]),
        ("n_angles", [8]),
        ("row_order", ["BOTTOM_UP"]),
    ],
)
def test_scan_from_headers__refuses_instances_that_contradict_each_other(
    name: str, value: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(flats_and_darks(monkeypatch)[0])
    rows[6] = edited(rows[6], name, value)
    with pytest.raises(ProjectionDataError, match=f"{name}: expected .* in every instance"):
        scan_from_headers(rows)


@pytest.mark.parametrize("value", [None, [], ["?"], [-1], [4_000_000_000], [1.5], [None]])
@pytest.mark.parametrize(
    "name", sorted(ELEMENTS.keys() - {"unattenuated_counts", "energy_bin_edges_kev"})
)
def test_scan_from_headers__takes_any_private_block_or_ends_in_one_line(
    name: str, value: list[Any] | None
) -> None:
    plain = wobbling() if name == "source_shifts_mm" else cone()
    description = described(tilted() if name in VECTORS else plain, water_mu_per_mm=0.02)
    rows = rows_of(list(encode_scan(description, ONES)))
    try:
        told = str(scan_from_headers([edited(rows[0], name, value)]).geometry.n_angles)
    except PacsparkError as error:
        told = str(error)
    assert told == "7" or ("expected" in told and len(told.splitlines()) == 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"frame_kind": "encapsulated"},
        {"frame_size_bits": 8 * 4 * 6},
        {"frame_count": 0},
        {"transfer_syntax_uid": "1.2.840.10008.1.2.2"},
        {"transfer_syntax_uid": "1.2.840.113619.5.2"},
    ],
)
def test_scan_from_headers__refuses_pixels_that_others_stored_anew(changed: dict[str, Any]) -> None:
    rows = rows_of(list(encode_scan(described(cone()), ONES)))
    assert scan_from_headers(rows).geometry.n_angles == 7
    with pytest.raises(ProjectionDataError, match=r"expected .* as pacspark wrote it"):
        scan_from_headers([rows[0] | changed])


@pytest.mark.parametrize("place", [0x11, 0x9F, 0xFF])
def test_scan_from_headers__finds_a_block_that_another_system_moved(place: int) -> None:
    encoded = list(encode_scan(described(cone()), ONES))
    image = pydicom.dcmread(io.BytesIO(encoded[0].data))
    elements = [element for element in image if element.tag.group == GROUP]
    for element in elements:
        del image[element.tag]
    image.add_new((GROUP, 0x10), "LO", "ACME 1.0")
    image.add_new((GROUP, 0x1005), "FD", [0.0] * 7)
    for element in elements:
        at = element.tag.element
        moved = place if at == 0x10 else place << 8 | at & 0xFF
        image.add_new((GROUP, moved), element.VR, element.value)
    buffer = io.BytesIO()
    image.save_as(buffer)

    moved_rows = rows_of([replace(encoded[0], data=buffer.getvalue())])

    assert replace(scan_from_headers(moved_rows), header="") == replace(
        scan_from_headers(rows_of(encoded)), header=""
    )


def test_scan_from_headers__says_what_a_series_is_instead() -> None:
    row = {"series_instance_uid": "1.2", "modality": "CT", "dicom_json": "{}"}
    with pytest.raises(SeriesNotFoundError, match=r"series 1\.2: expected projections .* found CT"):
        scan_from_headers([row | {"sop_instance_uid": "1.2.3"}])


@pytest.mark.parametrize("name", ["source_shifts_mm", *VECTORS])
def test_scan_from_headers__needs_as_many_numbers_as_views(name: str) -> None:
    geometry = wobbling() if name == "source_shifts_mm" else tilted()
    rows = rows_of(list(encode_scan(described(geometry), ONES)))
    count = 2 if name == "source_shifts_mm" else 3
    for value in ([1.0] * (7 * count - 1), [1.0] * 7 * (count + 1)):
        with pytest.raises(ProjectionDataError, match=f"{len(value)} {name} for 7 frames in"):
            scan_from_headers([edited(rows[0], name, value)])


def test_scan_from_headers__refuses_bins_whose_panels_stood_elsewhere() -> None:
    description = described(tilted(), energy_bin_edges_kev=(20.0, 45.0, 80.0))
    encoded = list(encode_scan(description, Memory(np.ones((2, 7, 4, 6)))))
    rows = rows_of(encoded)
    assert scan_from_headers(rows).views == tilted()
    sources = tilted().sources_mm.ravel() + 1
    rows[1] = edited(rows[1], "sources_mm", sources.tolist())
    with pytest.raises(ProjectionDataError, match="the same sources_mm in every energy bin"):
        scan_from_headers(rows)


@pytest.mark.parametrize("name", VECTORS)
def test_scan_from_headers__does_not_take_half_of_the_views(name: str) -> None:
    rows = rows_of(list(encode_scan(described(tilted()), ONES)))
    with pytest.raises(ProjectionDataError, match=f"private block .* KeyError: '{name}'"):
        scan_from_headers([edited(rows[0], name, None)])


def test_scan_from_headers__of_views_is_nothing_to_those_who_do_not_know_them() -> None:
    """A reader that knows no views misses the distances, and does not reconstruct wrongly."""
    row = rows_of(list(encode_scan(described(tilted()), ONES)))[0]
    for name in VECTORS:
        row = edited(row, name, None)
    with pytest.raises(ProjectionDataError, match="KeyError: 'source_to_isocenter_mm'"):
        scan_from_headers([row])
