"""DCMTK's other programs as peers: dcmrecv takes what is moved to it, termscu ends nothing."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from pacspark.dicom.decode import data_set_start
from pacspark.gateway.config import Destination
from pacspark.gateway.server import Gateway
from tests.conftest import missing
from tests.ct_objects import STUDY_UID
from tests.gateway.peers import BIN, dcmtk
from tests.gateway.test_dimse import written
from tests.servers import answers, free_port, wait_until


def test_dcmrecv__gets_the_bytes_that_were_stored(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    if not (BIN / "dcmrecv").exists():
        missing("dcmtk")
    port, out = free_port(), tmp_path / "out"
    out.mkdir()
    gateway = start_gateway(destinations={"RECEIVER": Destination("RECEIVER", "127.0.0.1", port)})
    paths = written(tmp_path / "in")
    for path in paths:
        gateway.store.store(path.read_bytes(), "x")
    receiver = subprocess.Popen(
        [
            str(BIN / "dcmrecv"),
            "-xf",
            "/etc/dcmtk/storescp.cfg",
            "Default",
            "+B",
            "-od",
            str(out),
            str(port),
        ]
    )
    try:
        wait_until(lambda: answers(port), "dcmrecv", [])
        said = dcmtk(
            "movescu", "-v", "-S", "-aem", "RECEIVER", "127.0.0.1", gateway.dimse.port,
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY_UID}",
        )  # fmt: skip
        assert "Success" in said
    finally:
        receiver.kill()
        receiver.wait()
    given, got = (
        sorted(data[data_set_start(data) :] for data in map(Path.read_bytes, some))
        for some in (paths, out.iterdir())
    )
    assert got == given


def test_termscu__does_not_end_the_gateway(gateway: Gateway) -> None:
    said = dcmtk("termscu", "-v", "127.0.0.1", gateway.dimse.port, fails=True)
    assert "No Acceptable Presentation Contexts" in said
    assert "Success" in dcmtk("echoscu", "-v", "127.0.0.1", gateway.dimse.port)
