"""Reconstructions over HTTP: what is taken, how the queue goes on, and one from end to end."""

import fcntl
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import dcmread

from pacspark.archive import create_archive
from pacspark.gateway.config import GatewayConfig, ReconstructionConfig
from pacspark.gateway.index import Index
from pacspark.gateway.server import Gateway
from pacspark.gateway.web.access import hashed_token
from pacspark.gateway.web_config import WebConfig, WebUser
from pacspark.progress import SILENT
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import Storage, open_storage
from tests.ct_objects import SERIES_UID, ct_image, encoded
from tests.gateway.conftest import LIMITS
from tests.gateway.http import client_of, parts_of, stow, values
from tests.gateway.peers import dcmtk
from tests.scan_files import write_phantom_scan

PATH = "/reconstructions"
JOB = """
import sys, time
from pathlib import Path
print("prepare: 1 of 4 blocks of frames, 0.5 s", file=sys.stderr, flush=True)
while not Path({there!r}).exists():
    time.sleep(0.02)
print('[{{"series_instance_uid": "1.2.3", "n_slices": 7, "found": false}}]')
"""
"""Stands for ``pacspark reconstruct`` where the queue is tested: ends when a file is there."""


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[bytes]]:
    """Give the UID of a small projection series, and its objects."""
    folder = tmp_path_factory.mktemp("scan")
    path, _ = write_phantom_scan(folder / "scan")
    archive = create_archive(folder / "archive", progress=SILENT)
    series_uid = archive.import_scan(path).series_instance_uid
    rows = archive.catalog.instances_of(series_uid).to_pylist()
    return series_uid, [archive.catalog.read_object(row) for row in rows]


def command(there: Path) -> ReconstructionConfig:
    return ReconstructionConfig(command=(sys.executable, "-c", JOB.format(there=str(there))))


def ask(client: httpx.Client, series_uid: str, **options: Any) -> httpx.Response:
    return client.post(PATH, json={"SeriesInstanceUID": series_uid} | options)


def wait(client: httpx.Client, job: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 500
    while True:
        told: dict[str, Any] = client.get(f"{PATH}/{job}").json()
        if is_so(told):
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def in_state(*states: str) -> Callable[[dict[str, Any]], bool]:
    return lambda told: told["state"] in states


@pytest.fixture
def client(
    start_gateway: Callable[..., Gateway], scan: tuple[str, list[bytes]], tmp_path: Path
) -> Iterator[httpx.Client]:
    """A gateway with a scan that has just come in, whose jobs end when the file ``go`` is there."""
    gateway = start_gateway(reconstructions=command(tmp_path / "go"))
    with client_of(gateway) as client:
        assert stow(client, *scan[1]).status_code == 200
        yield client


@pytest.fixture(scope="module")
def refusing(
    tmp_path_factory: pytest.TempPathFactory, scan: tuple[str, list[bytes]]
) -> Iterator[httpx.Client]:
    """A gateway with a scan, for what is refused."""
    storage = open_storage(tmp_path_factory.mktemp("refusing") / "archive")
    create_tables(storage)
    config = GatewayConfig(dimse_port=0, http_port=0, limits=LIMITS)
    with Gateway(storage, config) as gateway, client_of(gateway) as client:
        assert stow(client, *scan[1]).status_code == 200
        yield client


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "body: expected JSON"),
        (b"[]", 400, "expected a JSON object, found list"),
        (b"[" * 60_000, 400, "body: expected JSON"),
        (b" " * 70_000, 413, "expected at most 65536 bytes"),
        ({}, 400, "SeriesInstanceUID: expected a text, found nothing"),
        ({"SeriesInstanceUID": "../1"}, 400, "SeriesInstanceUID: expected a UID"),
        ({"SeriesInstanceUID": "1.2.3.4"}, 404, "1.2.3.4"),
        ({"sizes": [1, 2, 3]}, 400, "sizes: expected one of the keys"),
        ({"size": [8, 8]}, 400, "size: expected three numbers"),
        ({"size": [8, 0, 8]}, 400, r"size[1]: expected a whole number >= 1"),
        ({"size": ["8", 8, 8]}, 400, r"size[0]: expected a whole number >= 1"),
        ({"size": [100_000] * 3}, 400, "size: expected at most 68719476736 voxels, as reconstruct"),
        ({"voxel_mm": 1e-3}, 400, "voxel_mm: expected at most 68719476736 voxels, as reconstruct"),
        ({"voxel_mm": -1}, 400, "voxel_mm: expected a number > 0"),
        ({"voxel_mm": 1e400}, 400, "voxel_mm: expected a number"),
        ({"center": [0, 0, "--help"]}, 400, r"center[2]: expected a number"),
        ({"filter": "--memory"}, 400, "options.filter: expected one of"),
        ({"cutoff": 2}, 400, "options.cutoff"),
        ({"energy_bins": [3]}, 400, "energy bin: expected 0 to 0, found 3"),
        ({"energy_bins": []}, 400, "energy_bins: expected a list"),
        ({"water_mu_per_mm": True}, 400, "water_mu_per_mm: expected a number"),
    ],
)
def test_post__of_what_cannot_be_is_one_line(
    refusing: httpx.Client, scan: tuple[str, list[bytes]], body: Any, status: int, said: str
) -> None:
    if isinstance(body, dict) and body and "SeriesInstanceUID" not in body:
        body = {"SeriesInstanceUID": scan[0]} | body
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = refusing.post(PATH, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, "\n" in answer.json()["error"]) == (status, False)
    assert said in answer.json()["error"]
    assert refusing.get(PATH).json() == []


def test_job__ends_though_the_tables_cannot_be_followed(
    client: httpx.Client, scan: tuple[str, list[bytes]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(_: Index) -> bool:
        message = "an error of our own"
        raise RuntimeError(message)

    job = ask(client, scan[0]).json()["id"]
    with monkeypatch.context() as patch:
        patch.setattr(Index, "refresh", fail)
        (tmp_path / "go").touch()
        assert wait(client, job, in_state("done"))["results"][0]["SeriesInstanceUID"] == "1.2.3"
    job = ask(client, scan[0]).json()["id"]
    wait(client, job, in_state("done"))


def test_post__of_what_is_no_scan_or_no_json_is_refused(client: httpx.Client) -> None:
    image = encoded(ct_image(np.zeros((4, 4), np.int16), 1, (0.0, 0.0, 1.0)))
    assert stow(client, image).status_code == 200
    assert ask(client, SERIES_UID).status_code in {404, 409}
    form = {"Content-Type": "text/plain"}  # what a page of somebody else can send
    assert client.post(PATH, content=b"{}", headers=form).status_code == 415
    assert client.get(f"{PATH}/none").status_code == 404


def test_post__needs_its_scope(start_gateway: Callable[..., Gateway]) -> None:
    users = tuple(
        WebUser(name, token=hashed_token(name), scopes=(name,)) for name in ("read", "reconstruct")
    )
    with client_of(start_gateway(web=WebConfig(users=users))) as client:
        statuses = [
            client.request(method, path, headers={"Authorization": f"Bearer {user}"}).status_code
            for user in ("read", "reconstruct")
            for method, path in (("POST", PATH), ("GET", PATH), ("DELETE", f"{PATH}/x"))
        ]
    assert statuses == [403, 200, 403, 415, 403, 404]


def test_job__is_told_of_while_it_waits_runs_and_is_done(
    client: httpx.Client, gateway_of: Gateway, scan: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    first = ask(client, scan[0], size=[8, 9, 10], center=[-1.5, 0, 2], energy_bins=[0])
    assert first.status_code == 202
    assert first.headers["location"].endswith(f"{PATH}/{first.json()['id']}")
    again = ask(client, scan[0], size=[8, 9, 10], center=[-1.5, 0, 2], energy_bins=[0])
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    other = ask(client, scan[0], voxel_mm=2)
    told = wait(client, first.json()["id"], lambda told: told["stage"] is not None)
    assert (told["state"], told["stage"], told["fraction"]) == ("running", "prepare", 0.25)
    assert told["line"] == "prepare: 1 of 4 blocks of frames, 0.5 s"
    assert " ".join(told["options"]) == "--size 8 9 10 --center -1.5 0.0 2.0 --energy-bins 0"
    assert [job["state"] for job in client.get(PATH).json()] == ["queued", "running"]
    page = client.get("/status").text
    assert "25%" in page
    assert "blocks of frames" in page
    (tmp_path / "go").touch()
    told = wait(client, other.json()["id"], in_state("done"))
    assert told["results"] == [
        {"StudyInstanceUID": None, "SeriesInstanceUID": "1.2.3", "slices": 7, "found": False}
    ]
    status = client.get("/status", headers={"Accept": "application/json"}).json()
    assert [job["fraction"] for job in status["reconstructions"]] == [1.0, 1.0]
    gateway_of.audit.flush()
    rows = Catalog(gateway_of.storage).table("audit").to_pylist()
    asked = [row for row in rows if row["action"] == "reconstruct"]
    assert [row["outcome"] for row in asked] == ["queued", "queued", "success", "success"]
    assert {row["uid"] for row in asked} == {scan[0]}


@pytest.fixture
def gateway_of(gateways: list[Gateway]) -> Gateway:
    """The gateway behind the client."""
    return gateways[-1]


@pytest.fixture
def gateways() -> list[Gateway]:
    """Those that were started."""
    return []


@pytest.fixture
def start_gateway(
    start_gateway: Callable[..., Gateway], gateways: list[Gateway]
) -> Callable[..., Gateway]:
    """Start gateways, and keep them."""

    def start(**told: Any) -> Gateway:
        gateways.append(start_gateway(**told))
        return gateways[-1]

    return start


def test_delete__ends_a_job_that_waits_or_runs(
    client: httpx.Client, scan: tuple[str, list[bytes]]
) -> None:
    running = ask(client, scan[0]).json()["id"]
    waiting = ask(client, scan[0], voxel_mm=2).json()["id"]
    wait(client, running, lambda told: told["stage"] is not None)
    assert client.delete(f"{PATH}/{waiting}").json()["state"] == "cancelled"
    assert client.delete(f"{PATH}/{running}").status_code == 202
    told = wait(client, running, in_state("cancelled"))
    assert (told["results"], told["error"]) == ([], None)
    answer = client.delete(f"{PATH}/{running}")
    assert (answer.status_code, "cancelled" in answer.json()["error"]) == (409, True)


def test_queue__takes_so_many(
    start_gateway: Callable[..., Gateway], scan: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    told = ReconstructionConfig(waiting=1, command=command(tmp_path / "go").command)
    with client_of(start_gateway(reconstructions=told)) as client:
        stow(client, *scan[1])
        wait(client, ask(client, scan[0]).json()["id"], in_state("running"))
        assert ask(client, scan[0], voxel_mm=2).status_code == 202
        full = ask(client, scan[0], voxel_mm=3)
        assert (full.status_code, full.headers["retry-after"]) == (503, "60")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; sys.exit('GeometryError: grid: expected less')", "grid: expected less"),
        ("raise SystemExit(3)", "ended with 3"),
        (None, "cannot start /none: No such file or directory"),
    ],
)
def test_job__that_fails_says_why(
    start_gateway: Callable[..., Gateway],
    scan: tuple[str, list[bytes]],
    script: str | None,
    said: str,
) -> None:
    program = ("/none",) if script is None else (sys.executable, "-c", script)
    gateway = start_gateway(reconstructions=ReconstructionConfig(command=program))
    with client_of(gateway) as client:
        stow(client, *scan[1])
        told = wait(client, ask(client, scan[0]).json()["id"], in_state("failed"))
    assert said in told["error"]


def test_jobs__go_on_with_the_next_gateway(
    storage: Storage, scan: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    config = GatewayConfig(
        dimse_port=0, http_port=0, limits=LIMITS, reconstructions=command(tmp_path / "go")
    )
    with Gateway(storage, config) as gateway, client_of(gateway) as client:
        stow(client, *scan[1])
        job = ask(client, scan[0]).json()["id"]
        wait(client, job, in_state("running"))
    (tmp_path / "go").touch()
    folder = config.landing_folder(storage) / "reconstructions"
    assert [row["state"] for row in json.loads((folder / "jobs.json").read_text())] == ["queued"]
    with (folder / f"{job}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a process has it that outlived its gateway
        with Gateway(storage, config) as gateway, client_of(gateway) as client:
            time.sleep(1.0)
            assert client.get(f"{PATH}/{job}").json()["state"] == "queued"
            fcntl.flock(lock, fcntl.LOCK_UN)
            wait(client, job, in_state("done"))
    (folder / "jobs.json").write_text("[{}]")
    with Gateway(storage, config) as gateway, client_of(gateway) as client:
        assert client.get(PATH).json() == []
    assert (folder / "jobs.unreadable").exists()


@pytest.mark.slow
def test_scan_that_was_stored__is_reconstructed_and_found(
    gateway: Gateway, scan: tuple[str, list[bytes]]
) -> None:
    with client_of(gateway) as client:
        assert stow(client, *scan[1]).status_code == 200
        job = ask(client, scan[0], size=[24, 24, 20], voxel_mm=1, filter="hann").json()["id"]
        told = wait(client, job, in_state("done", "failed"))
        assert told["error"] is None
        (result,) = told["results"]
        study = f"/dicom-web/studies/{result['StudyInstanceUID']}"
        found = client.get(f"{study}/series", params={"Modality": "CT"}).json()
        assert [values(row, "0020000E") for row in found] == [[result["SeriesInstanceUID"]]]
        assert values(found[0], "00201209") == [20]
        parts = parts_of(client.get(f"{study}/series/{result['SeriesInstanceUID']}"))
        slices = [dcmread(io.BytesIO(data)).pixel_array for _, data in parts]
        assert {image.shape for image in slices} == {(24, 24)}
        assert np.ptp(slices[10]) > 100
        again = wait(
            client,
            ask(client, scan[0], size=[24, 24, 20], voxel_mm=1, filter="hann").json()["id"],
            in_state("done"),
        )
    assert [(one["SeriesInstanceUID"], one["found"]) for one in again["results"]] == [
        (result["SeriesInstanceUID"], True)
    ]


@contextmanager
def served(root: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client, int]]:
    """Run `pacspark serve`; give it, a client, and its DIMSE port."""
    command = [sys.executable, "-m", "pacspark", "serve", str(root), "--json"]
    ports = ["--dimse-port", "0", "--http-port", "0"]
    with subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            address = f"http://127.0.0.1:{told['http_port']}"
            with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
                yield process, client, told["dimse_port"]
        finally:
            process.terminate()


@pytest.mark.slow
def test_gateway_that_is_killed__leaves_a_job_that_the_next_one_finishes(
    storage: Storage, scan: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    root = Path(storage.root)
    paths = [tmp_path / f"{number}.dcm" for number in range(len(scan[1]))]
    for path, data in zip(paths, scan[1], strict=True):
        path.write_bytes(data)
    with served(root) as (process, client, port):
        dcmtk("storescu", "-xf", xf_config(tmp_path), "XA", "127.0.0.1", port, *paths)
        job = ask(client, scan[0], size=[24, 24, 20], voxel_mm=1).json()["id"]
        wait(client, job, lambda told: bool(told["line"]))
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    with served(root) as (_, client, _port):
        told = wait(client, job, in_state("done", "failed"))
        assert told["error"] is None
        found = client.get("/dicom-web/series", params={"Modality": "CT"}).json()
        assert [values(row, "00201209") for row in found] == [[20]]
    runs = Catalog(storage).runs().to_pylist()
    assert [run["outcome"] for run in runs if run["operation"] == "reconstruct"] == ["done"]


def xf_config(folder: Path) -> Path:
    """Write a configuration for storescu: Enhanced XA, which its own does not propose."""
    path = folder / "storescu.cfg"
    path.write_text(
        "[[TransferSyntaxes]]\n[Plain]\nTransferSyntax1 = LittleEndianExplicit\n"
        "[[PresentationContexts]]\n[XA]\n"
        "PresentationContext1 = EnhancedXAImageStorage\\Plain\n"
        "[[Profiles]]\n[XA]\nPresentationContexts = XA\n"
    )
    return path
