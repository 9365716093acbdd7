"""Film over DIMSE, with DCMTK's print server as the printer."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from pacspark.cli import main
from pacspark.errors import ProtocolError
from pacspark.gateway.dimse.client import parse_destination
from pacspark.gateway.dimse.film_printing import GRAYSCALE_PRINT, FilmJob, printing
from tests.conftest import missing
from tests.ct_objects import SERIES_UID, archive_of, ct_image, encoded, steps
from tests.gateway.peers import BIN
from tests.servers import free_port, wait_until

CONFIG = """
[[GENERAL]]
[PRINT]
Directory = {folder}
[DATABASE]
Directory = {folder}
[NETWORK]
aetitle = DCMTK
[[COMMUNICATION]]
[FILM]
Type = LOCALPRINTER
Hostname = localhost
Aetitle = FILM
Port = {port}
DisplayFormat = 1,1
FilmSizeID = 14INX17IN
MediumType = PAPER\\BLUE FILM
FilmDestination = MAGAZINE\\PROCESSOR
MagnificationType = REPLICATE\\BILINEAR\\CUBIC
MaxPDU = 32768
"""


@contextmanager
def printer(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run dcmprscp; give how it is called and where it keeps what it printed."""
    if not (BIN / "dcmprscp").exists():
        missing("dcmtk")
    folder.mkdir()
    port = free_port()
    config = folder / "print.cfg"
    config.write_text(CONFIG.format(folder=folder, port=port))
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [str(BIN / "dcmprscp"), "-d", "+d", "-c", str(config), "-p", "FILM"],
            cwd=folder, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_until(lambda: _listens(port), "dcmprscp", [process])
        yield f"FILM@127.0.0.1:{port}", folder
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive with five slices of somebody."""
    images = [
        ct_image(pixels, z, (0, 0, 2.0 * z), PatientName="Doe^Jane")
        for z, pixels in enumerate(steps())
    ]
    archive_of(tmp_path / "archive", map(encoded, images))
    return tmp_path / "archive"


def test_sheets__are_printed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with printer(tmp_path / "printer") as (address, folder):
        asked = [
            "print", str(root), "--series", SERIES_UID, "--to", address, "--grid", "2", "2",
            "--window", "0", "2000", "--medium", "PAPER", "--copies", "2", "--json",
        ]  # fmt: skip
        assert main(asked) == 0, capsys.readouterr().err + (folder / "said").read_text("latin_1")
        said = capsys.readouterr().out.splitlines()[-1]
        assert json.loads(said) == {"printed": 2, "warnings": []}
        found = [dcmread(path) for path in sorted(folder.rglob("*")) if path.suffix == ".dcm"]
    images = [one for one in found if "PixelData" in one]
    assert {(one.Rows, one.Columns, one.BitsAllocated) for one in images} == {(3400, 2800, 8)}
    assert len(images) == 2
    stored = [one for one in found if "FilmBoxContentSequence" in one]
    assert len(stored) == 2
    told = (tmp_path / "printer" / "said").read_text("latin_1")
    for value in ("[PAPER]", "[14INX17IN]", "[PORTRAIT]", "NumberOfCopies"):
        assert value in told
    # black paper, tiles in greys, and light letters
    assert all(np.ptp(one.pixel_array) > 200 for one in images)
    assert not np.array_equal(images[0].pixel_array, images[1].pixel_array)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ([], 2, "expected --out or --to, found neither"),
        (["--to", "X@127.0.0.1:1", "--out", "a.pdf"], 2, "expected --out or --to, found both"),
        (["--out", "a.pdf", "--copies", "2"], 2, "--copies and --medium together with --to"),
        (["--to", "X"], 2, "--to: expected AE@HOST:PORT"),
        (["--to", "X@127.0.0.1:1"], 1, "X@127.0.0.1:1: cannot connect"),
        (["--to", "X@127.0.0.1:1", "--copies", "0"], 2, "expected 1 to 100 copies, found 0"),
    ],
)
def test_print__says_in_one_line_what_is_wrong(
    root: Path, capsys: pytest.CaptureFixture[str], options: list[str], status: int, said: str
) -> None:
    assert main(["print", str(root), "--series", SERIES_UID, *options]) == status
    err = capsys.readouterr().err
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


@contextmanager
def answering(state: dict[str, str], create: int) -> Iterator[str]:
    """Run a printer that tells of a state, and answers N-CREATE with a status."""
    told = Dataset()
    for keyword, value in state.items():
        setattr(told, keyword, value)
    entity = AE("FILM")
    entity.add_supported_context(GRAYSCALE_PRINT)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False,
        evt_handlers=[
            (evt.EVT_N_GET, lambda _event: (0x0000, told)),
            (evt.EVT_N_CREATE, lambda _event: (create, Dataset())),
            (evt.EVT_N_DELETE, lambda _event: 0x0000),
        ],
    )  # fmt: skip
    assert server is not None
    assert server.socket is not None
    try:
        yield f"FILM@127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("state", "create", "said"),
    [
        ({"PrinterStatus": "FAILURE", "PrinterStatusInfo": "FILM JAM"}, 0, "FAILURE FILM JAM"),
        ({"PrinterStatus": "NORMAL"}, 0xC600, "create a film session, found status C600"),
        ({"PrinterStatus": "NORMAL"}, 0x0116, "expected a film box of one image, found 0"),
    ],
)
def test_printer__that_cannot_is_told_in_one_line(
    state: dict[str, str], create: int, said: str
) -> None:
    with answering(state, create) as address, pytest.raises(ProtocolError, match=said) as caught:
        print_one(address)
    assert "\n" not in str(caught.value)


def print_one(address: str) -> None:
    with printing(parse_destination(address), FilmJob()) as session:
        session.print_sheet(np.zeros((3, 3), np.uint8))
