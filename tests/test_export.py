"""Files out of the archive: the same bytes, whole, at the right place in the room."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacspark.errors import InstanceNotFoundError, NotInArchiveError, StorageError, UsageError
from pacspark.export import FORMATS, export, file_name
from pacspark.progress import LineProgress, Progress
from pacspark.tables.catalog import Catalog
from pacspark.volume import Volume
from tests.ct_objects import (
    SERIES_UID,
    STUDY_UID,
    archive_of,
    ct_image,
    encoded,
    steps,
    steps_archive,
)
from tests.itk_images import read_with_itk

OTHER_SERIES_UID = f"{STUDY_UID}.2"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return steps_archive(tmp_path / "archive")


def study_objects() -> list[bytes]:
    """Two series of one study: three slices and one image without a place."""
    slices = [encoded(ct_image(steps()[z], z, (0, 0, z))) for z in range(3)]
    lone = ct_image(
        steps()[0], 1, (0, 0, 0), series_uid=OTHER_SERIES_UID, ImagePositionPatient=None
    )
    return [*slices, encoded(lone)]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_dicom__comes_out_byte_for_byte(tmp_path: Path) -> None:
    objects = study_objects()
    catalog = archive_of(tmp_path / "archive", objects)
    target = tmp_path / "out"
    written = export(catalog, target, "study", STUDY_UID)
    assert files_below(target) == {
        *(f"{SERIES_UID}/{SERIES_UID}.{z}.dcm" for z in range(3)),
        f"{OTHER_SERIES_UID}/{OTHER_SERIES_UID}.1.dcm",
    }
    assert {path.read_bytes() for path in written} == set(objects)
    assert all(pydicom.dcmread(path).SOPInstanceUID == path.stem for path in written)


@pytest.mark.parametrize("level", ["study", "series", "instance"])
@pytest.mark.parametrize(
    "uid", ["", "*", "?", f"{STUDY_UID[:-1]}*", f"{STUDY_UID},1", "1\\2", '""']
)
def test_what_is_no_single_uid__exports_nothing(
    catalog: Catalog, tmp_path: Path, level: str, uid: str
) -> None:
    for file_format in FORMATS:
        with pytest.raises(UsageError, match=f"^{level}: expected a UID"):
            export(catalog, tmp_path / "out", level, uid, file_format)
    assert not (tmp_path / "out").exists()


def test_a_folder__has_a_name_that_can_be(catalog: Catalog) -> None:
    with pytest.raises(UsageError, match="directory: expected the name of a folder"):
        export(catalog, Path("a\0b"), "series", SERIES_UID)


def test_series_and_instance__lie_flat(catalog: Catalog, tmp_path: Path) -> None:
    export(catalog, tmp_path / "series", "series", SERIES_UID)
    export(catalog, tmp_path / "one", "instance", f"{SERIES_UID}.8")
    assert files_below(tmp_path / "series") == {f"{SERIES_UID}.{n}.dcm" for n in range(6, 11)}
    assert files_below(tmp_path / "one") == {f"{SERIES_UID}.8.dcm"}


def test_files_that_are_there__stay_and_are_counted(catalog: Catalog, tmp_path: Path) -> None:
    first = export(catalog, tmp_path / "out", "series", SERIES_UID)
    first[0].unlink()
    times = {path: path.stat().st_mtime_ns for path in first[1:]}
    assert export(catalog, tmp_path / "out", "series", SERIES_UID) == first
    assert {path: path.stat().st_mtime_ns for path in first[1:]} == times
    assert first[0].exists()


@pytest.mark.parametrize("kind", ["longer", "as long", "folder", "dangling link"])
def test_other_files__are_never_overwritten(catalog: Catalog, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    path = target / f"{SERIES_UID}.8.dcm"
    target.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        size = catalog.instance(f"{SERIES_UID}.8")["size_bytes"]
        path.write_bytes(b"x" * (size + (kind == "longer")))
    with pytest.raises(UsageError, match="nothing was written"):
        export(catalog, target, "series", SERIES_UID)
    assert len(list(target.iterdir())) == 1


class DyingCatalog(Catalog):
    """Loses the disk in the middle of the second object."""

    def stream_object(self, row: Mapping[str, Any]) -> Iterator[bytes]:
        yield self.read_range(row, 0, 100)
        if row["sop_instance_uid"] == f"{SERIES_UID}.8":
            message = "objects: the disk is gone"
            raise StorageError(message)
        yield self.read_range(row, 100, row["size_bytes"] - 100)


def test_a_failure__leaves_only_whole_files(catalog: Catalog, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(StorageError, match="the disk is gone"):
        export(DyingCatalog(catalog.storage), target, "series", SERIES_UID)
    written = list(target.iterdir())
    assert f"{SERIES_UID}.8" not in {path.stem for path in written}
    for whole in written:
        assert whole.read_bytes() == catalog.read_object(catalog.instance(whole.stem))


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_archive_itself__takes_no_files(
    catalog: Catalog, tmp_path: Path, file_format: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "archive")
    for folder in (tmp_path / "archive", tmp_path / "archive" / "objects", tmp_path / "link" / "x"):
        with pytest.raises(UsageError, match="expected a folder outside the archive"):
            export(catalog, folder, "series", SERIES_UID, file_format)


def test_a_file_instead_of_the_folder__is_one_line(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("here")
    with pytest.raises(StorageError, match="cannot write") as caught:
        export(catalog, tmp_path / "out" / "deep", "series", SERIES_UID)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=70))
def test_file_names__are_uids_or_refused(uid: str) -> None:
    try:
        name = file_name(uid, ".dcm")
    except UsageError:
        return
    assert set(name.removesuffix(".dcm")) <= set("0123456789.")
    assert ".." not in name
    assert Path(name).name == name
    assert not name.startswith(".")


@pytest.mark.parametrize(
    "uid", ["../1.2", "1.2/3", "", "1..2", ".", "1.2.", "1" * 65, "1.2\n", "\uff11.2"]
)
def test_file_names__are_no_paths(uid: str) -> None:
    with pytest.raises(UsageError, match="expected a UID"):
        file_name(uid, ".dcm")


def test_exported_files__have_ordinary_permissions(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    (path,) = export(catalog, tmp_path / "out", "instance", f"{SERIES_UID}.8")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("level", "uid", "file_format", "error"),
    [
        ("series", SERIES_UID, "jpeg", UsageError),
        ("instance", f"{SERIES_UID}.8", "zarr", UsageError),
        ("series", "1.2.3", "parquet", NotInArchiveError),
        ("study", "1.2.3", "tiff", NotInArchiveError),
        ("patient", "x", "dicom", UsageError),
        ("instance", f"{SERIES_UID}.8", "nifti", UsageError),
        ("series", "1.2.3", "dicom", NotInArchiveError),
        ("study", "1.2.3", "dicom", NotInArchiveError),
        ("instance", "1.2.3", "dicom", InstanceNotFoundError),
        ("series", "1.2.3", "nifti", NotInArchiveError),
    ],
)
def test_what_cannot_be_exported__is_one_error(
    catalog: Catalog, tmp_path: Path, level: str, uid: str, file_format: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        export(catalog, tmp_path / "out", level, uid, file_format)
    assert not (tmp_path / "out").exists()


class CountingProgress(Progress):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.done = 0

    def stage(self, label: str, total: int | None = None, unit: str = "") -> Any:
        from contextlib import nullcontext

        outer = self

        class Counting:
            def advance(self, amount: int = 1) -> None:
                outer.done += amount

        assert (label, unit) == ("export", "objects")
        assert total == 5
        return nullcontext(Counting())


def test_progress__is_told_of_every_object(catalog: Catalog, tmp_path: Path) -> None:
    progress = CountingProgress()
    export(catalog, tmp_path / "out", "series", SERIES_UID, "dicom", progress)
    assert progress.done == 5


ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, -0.6, 0.8, 0),
    "twice oblique": (0.8, 0.48, 0.36, -0.6, 0.64, 0.48),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_nifti__has_every_voxel_at_its_place_in_the_room(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    corners = [np.array([-5.0, 3.0, 11.0]) + z * 2.5 * normal for z in range(5)]
    images = [
        ct_image(pixels, z, corners[z].tolist(), orientation=orientation)
        for z, pixels in enumerate(steps())
    ]
    catalog = archive_of(tmp_path / "archive", map(encoded, images))
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "nifti")
    assert path.name == f"{SERIES_UID}.nii.gz"
    image: Any = nibabel.load(path)
    values = image.get_fdata()
    assert values.shape == (6, 4, 5)
    for x, y, z in ((0, 0, 0), (5, 0, 0), (0, 3, 0), (0, 0, 4), (2, 1, 3)):
        assert values[x, y, z] == steps()[z, y, x] * 2 - 1000
        lps = corners[z] + x * 0.25 * row + y * 0.5 * column
        np.testing.assert_allclose(
            image.affine @ [x, y, z, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-5
        )
    assert image.header.get_xyzt_units()[0] == "mm"
    # ITK has the axes of DICOM, and turns NIfTI's by itself
    found = read_with_itk(path)
    np.testing.assert_array_equal(found.values, steps() * 2.0 - 1000)
    np.testing.assert_allclose(found.spacing_mm, [0.25, 0.5, 2.5], rtol=1e-6)
    expected = np.column_stack([row * 0.25, column * 0.5, normal * 2.5, corners[0]])
    np.testing.assert_allclose(found.affine_lps_mm[:3], expected, atol=1e-4)


def test_nifti__is_the_same_file_again_and_never_another(catalog: Catalog, tmp_path: Path) -> None:
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "nifti")
    before = path.read_bytes()
    assert export(catalog, tmp_path / "out", "series", SERIES_UID, "nifti") == [path]
    assert path.read_bytes() == before
    for other in (before[:-20], b"not gzip", b""):
        path.write_bytes(other)
        with pytest.raises(UsageError, match="something else"):
            export(catalog, tmp_path / "out", "series", SERIES_UID, "nifti")
        assert path.read_bytes() == other


def test_nifti__refuses_uneven_slices(tmp_path: Path) -> None:
    objects = [encoded(ct_image(steps()[0], n, (0, 0, z))) for n, z in enumerate((0, 1, 5))]
    catalog = archive_of(tmp_path / "archive", objects)
    with pytest.raises(UsageError, match=r"evenly spaced slices.* found uneven slices: 1 to 4 mm"):
        export(catalog, tmp_path / "out", "series", SERIES_UID, "nifti")


def test_nifti_of_a_study__has_its_volumes(tmp_path: Path) -> None:
    catalog = archive_of(tmp_path / "archive", study_objects())
    told = io.StringIO()
    (path,) = export(catalog, tmp_path / "out", "study", STUDY_UID, "nifti", LineProgress(told))
    assert f"left out: series {OTHER_SERIES_UID}: expected 3 numbers" in told.getvalue()
    assert path.name == f"{SERIES_UID}.nii.gz"
    image: Any = nibabel.load(path)
    expected = Volume(catalog, SERIES_UID).to_numpy()
    np.testing.assert_array_equal(image.get_fdata().transpose(2, 1, 0), expected)
