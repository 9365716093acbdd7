"""dcmjs-dimse, a DIMSE stack of its own in JavaScript, as a peer."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacspark.gateway.config import Destination
from pacspark.gateway.server import Gateway
from tests.conftest import missing
from tests.ct_objects import STUDY_UID
from tests.gateway.test_dimse import written
from tests.servers import cache_folder, free_port

SCRIPT = Path(__file__).with_name("dimse_peer.mjs")


def test_dcmjs__stores_finds_gets_and_moves(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    package = cache_folder() / "node" / "node_modules" / "dcmjs-dimse"
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is missing")  # which a machine for Python need not have
    if not package.is_dir():
        missing("dcmjs-dimse")
    own_port = free_port()
    gateway = start_gateway(destinations={"DCMJS": Destination("DCMJS", "127.0.0.1", own_port)})
    paths = written(tmp_path / "in")
    done = subprocess.run(
        [str(node), str(SCRIPT), str(package), str(gateway.dimse.port), str(own_port), STUDY_UID,
         *map(str, paths)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    assert seen["errors"] == []
    assert seen["statuses"] == {
        "echo": [0], "store": [0, 0, 0], "find": [0], "get": [0], "move": [0],
    }  # fmt: skip
    (study,) = seen["found"]
    assert (study["PatientID"], study["StudyInstanceUID"]) == ("P1", STUDY_UID)
    images = [pydicom.dcmread(path) for path in paths]
    pixels = {str(one.SOPInstanceUID): hashlib.sha256(one.PixelData).hexdigest() for one in images}
    for way in ("got", "moved"):
        assert {uid: digest for uid, (_, digest) in seen[way].items()} == pixels
        syntaxes = {syntax for syntax, _ in seen[way].values()}
        assert syntaxes <= {ExplicitVRLittleEndian, ImplicitVRLittleEndian}
    for image in images:
        kept = gateway.store.read(gateway.store.instance(str(image.SOPInstanceUID)))
        assert image.PixelData in kept
