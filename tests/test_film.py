"""Film sheets: every slice once, in its window, with who it is of unless that is left out."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pypdf
import pytest
from PIL import Image

from pacspark.cli import main
from pacspark.errors import StorageError, UsageError
from pacspark.film import Layout, draw_sheet, print_film
from pacspark.pictures import Picture, Window
from pacspark.tables.catalog import Catalog
from pacspark.volume import Volume
from tests.ct_objects import SERIES_UID, archive_of, ct_image, encoded, steps

WINDOW = Window(0.0, 2000.0)


def series(root: Path, **more: Any) -> tuple[Catalog, Volume]:
    common = {"PatientName": "Doe^Jane", "PatientID": "P-1", "PatientBirthDate": "19700203", **more}
    images = [ct_image(pixels, z, (0, 0, 2.0 * z), **common) for z, pixels in enumerate(steps())]
    catalog = archive_of(root, map(encoded, images))
    return catalog, Volume(catalog, SERIES_UID)


def texts(picture: Picture) -> str:
    figure = picture.figure
    written = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return "\n".join(text.get_text() for text in written)


def test_sheets__have_every_slice_once_in_one_window(tmp_path: Path) -> None:
    _, volume = series(tmp_path)
    layout = Layout(1, 2)
    drawn = []
    for number in range(3):
        for axes in draw_sheet(volume, layout, number, WINDOW, []).figure.axes:
            (image,) = axes.images
            assert image.get_clim() == (-1000.0, 1000.0)
            drawn.append(np.asarray(image.get_array()))
    np.testing.assert_array_equal(drawn, volume.to_numpy())


@pytest.mark.parametrize(
    ("layout", "sheets"),
    [
        (Layout(2, 2), [[0, 1, 2, 3], [4, 5, 6, 7], [8]]),
        (Layout(2, 2, every=3), [[0, 3, 6]]),
        (Layout(1, 1, every=20), [[0]]),
    ],
)
def test_layout__fills_one_sheet_after_the_other(layout: Layout, sheets: list[list[int]]) -> None:
    assert [list(sheet) for sheet in layout.sheets(9)] == sheets


def test_pdf__has_a_page_for_each_sheet(tmp_path: Path) -> None:
    catalog, volume = series(tmp_path / "archive")
    path = tmp_path / "deep" / "film.pdf"
    assert print_film(catalog, volume, path, Layout(1, 2), WINDOW) == [path]
    pages = pypdf.PdfReader(path).pages
    assert [round(float(edge) / 72, 3) for edge in pages[0].mediabox[2:]] == [14.0, 17.0]
    assert len(pages) == 3
    assert len(pages[0].images) == 5  # matplotlib lists those of all pages
    for number, page in enumerate(pages, 1):
        assert f"sheet {number} of 3" in page.extract_text()
        assert "Doe Jane" in page.extract_text()
    before = path.read_bytes()
    print_film(catalog, volume, path, Layout(1, 2), WINDOW)
    assert path.read_bytes() == before  # no time inside
    assert list(path.parent.iterdir()) == [path]


def test_pngs__are_numbered(tmp_path: Path) -> None:
    catalog, volume = series(tmp_path / "archive")
    files = print_film(catalog, volume, tmp_path / "film.png", Layout(2, 2), WINDOW)
    assert [file.name for file in files] == ["film-1.png", "film-2.png"]
    with Image.open(files[0]) as sheet:
        assert sheet.size == (1540, 1870)
        assert sheet.convert("RGB").getpixel((2, 2)) == (0, 0, 0)
    (one,) = print_film(catalog, volume, tmp_path / "one.png", Layout(3, 3), WINDOW)
    assert one.name == "one.png"


def test_the_patient__is_left_out_when_asked(tmp_path: Path) -> None:
    catalog, volume = series(tmp_path / "archive", InstitutionName="Clinic")
    shown = tmp_path / "shown.pdf"
    hidden = tmp_path / "hidden.pdf"
    print_film(catalog, volume, shown, Layout(), WINDOW)
    print_film(catalog, volume, hidden, Layout(), WINDOW, with_patient=False)
    for word in ("Doe Jane", "P-1", "1970-02-03", "Clinic"):
        assert word in pypdf.PdfReader(shown).pages[0].extract_text()
        assert word not in pypdf.PdfReader(hidden).pages[0].extract_text()
    assert SERIES_UID in pypdf.PdfReader(hidden).pages[0].extract_text()


def test_what_others_wrote__is_no_formula_and_no_line(tmp_path: Path) -> None:
    catalog, volume = series(
        tmp_path / "archive", PatientName="$\\frac{1$^\x1bX", StudyDescription="x$" * 32
    )
    (file,) = print_film(catalog, volume, tmp_path / "film.png", Layout(), WINDOW)
    assert file.exists()


def test_tiles__say_where_they_are(tmp_path: Path) -> None:
    _, volume = series(tmp_path)
    written = texts(draw_sheet(volume, Layout(), 0, WINDOW, [("left", "right")]))
    for word in ("1/5", "5/5", "+0.0 mm", "+8.0 mm", "0.2 mm", "level 0, width 2000 HU", "R", "A"):
        assert word in written, word
    assert "sheet 1 of 1" in written


def test_large_slices__are_averaged_to_what_a_film_can_show(tmp_path: Path) -> None:
    pixels = np.arange(1500 * 1300).reshape(1500, 1300).astype(np.int16)
    catalog = archive_of(tmp_path, [encoded(ct_image(pixels, 1, (0, 0, 0), spacing_mm=(1, 1)))])
    volume = Volume(catalog, SERIES_UID)
    sheet = draw_sheet(volume, Layout(), 0, WINDOW, [])
    array = np.asarray(sheet.figure.axes[0].images[0].get_array())
    assert array.shape == (750, 650)
    assert array[3, 5] == pytest.approx(volume[0][6:8, 10:12].mean())


@pytest.mark.parametrize("name", ["film.jpg", "film", ".", ""])
def test_other_names__are_refused(tmp_path: Path, name: str) -> None:
    catalog, volume = series(tmp_path)
    with pytest.raises(UsageError, match=r"ends in \.pdf or \.png"):
        print_film(catalog, volume, Path(name), Layout())


@pytest.mark.parametrize("wrong", [(0, 4, 1), (4, 13, 1), (4, 4, 0)])
def test_layouts_that_cannot_be__are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="film: expected"):
        Layout(*wrong)


def test_a_film_that_cannot_be_written__is_one_line(tmp_path: Path) -> None:
    catalog, volume = series(tmp_path / "archive")
    (tmp_path / "file").write_text("")
    for name in ("film.pdf", "film.png"):
        with pytest.raises(StorageError, match="cannot write") as caught:
            print_film(catalog, volume, tmp_path / "file" / name, Layout())
        assert "\n" not in str(caught.value)


def test_command__prints_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "archive")
    root, film = str(tmp_path / "archive"), str(tmp_path / "film.pdf")
    assert main(["print", root, "--series", SERIES_UID, "--out", film, "--grid", "2", "3"]) == 0
    assert capsys.readouterr().out.strip() == film
    assert main(["print", root, "--series", SERIES_UID, "--out", film, "--json"]) == 0
    assert capsys.readouterr().out.strip() == f'["{film}"]'
    assert main(["print", root, "--series", SERIES_UID, "--out", "film.gif"]) == 2
    told = capsys.readouterr().err
    assert main(["print", root, "--series", SERIES_UID, "--out", "s3://bucket/film.pdf"]) == 2
    assert "on this machine, found 's3://bucket/film.pdf'" in capsys.readouterr().err
    assert "ends in .pdf or .png" in told
    assert len(io.StringIO(told).readlines()) == 1
