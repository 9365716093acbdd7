"""Whatever a client sends is answered with a status below 500, and memory stays bounded."""

import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacspark.errors import QueryError
from pacspark.gateway.config import GatewayConfig
from pacspark.gateway.server import Gateway
from pacspark.gateway.web.media import read_accept
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage
from tests.ct_objects import SERIES_UID, STUDY_UID, ct_image, encoded
from tests.gateway.conftest import LIMITS
from tests.gateway.http import BOUNDARY, STORE_TYPE, body_of, client_of, stow
from tests.gateway.web_objects import ct

EXAMPLES = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
WORDS = st.sampled_from(
    ["studies", "series", "instances", "frames", "metadata", "rendered", "thumbnail", "bulkdata",
     STUDY_UID, SERIES_UID, f"{SERIES_UID}.1", "1", "1,1", "0-10", "..", "%", "*"]
)  # fmt: skip
NAMES = st.sampled_from(
    ["PatientName", "StudyDate", "StudyTime", "ModalitiesInStudy", "00100020", "InstanceNumber",
     "StudyInstanceUID", "includefield", "limit", "offset", "fuzzymatching", "accept", "window",
     "viewport", "quality", "RequestAttributesSequence.ScheduledProcedureStepID"]
)  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    storage = open_storage(tmp_path_factory.mktemp("hostile") / "archive")
    create_tables(storage)
    config = GatewayConfig(dimse_port=0, http_port=0, limits=LIMITS)
    with Gateway(storage, config) as gateway, client_of(gateway) as client:
        assert stow(client, ct(1)).status_code == 200
        yield client
        assert client.get(f"/dicom-web/studies/{STUDY_UID}").status_code == 200


@EXAMPLES
@given(
    segments=st.lists(WORDS | TEXT, max_size=9),
    query=st.lists(st.tuples(NAMES | TEXT, TEXT), max_size=4),
    accept=TEXT | st.sampled_from(["*/*", "image/png", "application/dicom", "multipart/related"]),
)
def test_any_path_and_query__has_a_status(
    client: httpx.Client, segments: list[str], query: list[tuple[str, str]], accept: str
) -> None:
    path = "/".join(["/dicom-web", *(quote(one, safe="") for one in segments)])
    asked = "&".join(f"{quote(name)}={quote(value)}" for name, value in query)
    headers = {"Accept": accept.encode("ascii", "replace").decode().replace("\x7f", "")}
    headers = {
        name: "".join(c for c in text if c.isprintable()).strip() for name, text in headers.items()
    }
    answer = client.get(f"{path}?{asked}", headers=headers)
    assert answer.status_code < 500, answer.text


@EXAMPLES
@given(body=st.binary(max_size=400) | st.lists(
    st.sampled_from([f"--{BOUNDARY}".encode(), b"\r\n", b"--", b"Content-Type: x", b"\0", b"a"]),
    max_size=12,
).map(b"".join))  # fmt: skip
def test_any_body__has_a_status(client: httpx.Client, body: bytes) -> None:
    headers = {"Content-Type": STORE_TYPE}
    assert client.post("/dicom-web/studies", content=body, headers=headers).status_code < 500


@EXAMPLES
@given(text=TEXT | st.text('mu/;=," q.0*\\', max_size=60))
def test_any_accept_header__is_read_or_refused(text: str) -> None:
    try:
        forms = read_accept(text)
    except QueryError:
        return
    assert all(0 < form.weight <= 1 for form in forms)


PART_MIB = 192
SERVER = """
import resource, sys
from pathlib import Path
from pacspark.gateway.config import GatewayConfig
from pacspark.gateway.server import Gateway
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage
storage = open_storage(Path(sys.argv[1]))
create_tables(storage)
with Gateway(storage, GatewayConfig(dimse_port=0, http_port=0)) as gateway:
    print(gateway.web.port, flush=True)
    sys.stdin.readline()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
    sys.stdin.readline()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""


@pytest.mark.slow
def test_large_object__passes_through_in_bounded_memory(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("large") / "archive"
    pixels = np.zeros((2048, 2048), np.int16)  # 8 MiB
    image = ct_image(pixels, 1, (0.0, 0.0, 0.0), NumberOfFrames=PART_MIB // 8)
    body = body_of([encoded(image)])
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def peak_kib() -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    with process, httpx.Client(timeout=300, trust_env=False) as client:
        base = f"http://127.0.0.1:{int(process.stdout.readline())}/dicom-web"
        assert client.get(f"{base}/studies").status_code == 204
        before = peak_kib()
        headers = {"Content-Type": STORE_TYPE}
        assert client.post(f"{base}/studies", content=body, headers=headers).status_code == 200
        size = 0
        with client.stream("GET", f"{base}/studies/{STUDY_UID}") as answer:
            for piece in answer.iter_bytes():
                size += len(piece)
        assert size > PART_MIB << 20
        grown = peak_kib() - before
    assert grown < (PART_MIB << 10) // 2
