"""The gateway as a process: what it loads, says, refuses, and how it ends."""

import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from pacspark.cli.serving import OneLine
from pacspark.errors import AssociationEndedError
from pacspark.gateway.config import Destination, GatewayConfig, cannot_listen
from pacspark.gateway.dimse.negotiation import request
from pacspark.gateway.dimse.services import VERIFICATION
from pacspark.gateway.server import Gateway
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.landing import Landing
from pacspark.tables.storage import open_storage
from tests.gateway.conftest import LIMITS
from tests.gateway.peers import dcmtk
from tests.gateway.test_dimse import written


def test_import__loads_no_spark() -> None:
    code = "import sys, pacspark.gateway.server; print('pyspark' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def serve(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "pacspark", "serve", str(root), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip


def test_log__shows_what_a_peer_wrote_as_one_line() -> None:
    told = ("A\nERROR \x1b[31mfake", "Jürgen")
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s %s", told, None)
    assert OneLine("%(message)s").format(record) == r"A\nERROR \x1b[31mfake Jürgen"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve__says_where_it_is_and_ends_cleanly(tmp_path: Path, number: int) -> None:
    root = tmp_path / "archive"
    create_tables(open_storage(root))
    process = serve(root, "--dimse-port", "0", "--http-port", "0", "--ae-title", "TEST", "--json")
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    assert (told["ae_title"], told["host"], told["instances"]) == ("TEST", "127.0.0.1", 0)
    dcmtk("storescu", "127.0.0.1", told["dimse_port"], *written(tmp_path / "in"))
    with urllib.request.urlopen(
        f"http://127.0.0.1:{told['http_port']}/dicom-web/instances"
    ) as page:
        assert len(json.load(page)) == 3
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert Catalog(open_storage(root)).table("instances", ["sop_instance_uid"]).num_rows == 3
    assert not list(root.glob("_landing/TEST/*.landing"))
    (run,) = Catalog(open_storage(root)).runs().to_pylist()
    assert run["operation"] == "serve"
    assert sum("3 store in" in line for line in said.splitlines()) == 1
    assert "uvicorn" not in said


def test_gateway__ends_at_once_where_associations_are_idle(gateway: Gateway) -> None:
    here = Destination("PACSPARK", "127.0.0.1", gateway.dimse.port)
    association = request(here, "TEST", [(VERIFICATION, ["1.2.840.10008.1.2"])], LIMITS)
    started = time.monotonic()
    gateway.dimse.close(drain_s=60)
    assert time.monotonic() - started < 30
    with pytest.raises(AssociationEndedError):
        association.link.receive()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--host", "0.0.0.0"], 2, "allow_unencrypted"),
        (["--config", "none.toml"], 2, "none.toml: expected a gateway's configuration"),
        (["--ae-title", "SEVENTEEN LETTERS"], 2, "ae_title: expected an AE title"),
        (["--dimse-port", "70000"], 2, "dimse_port: expected a port"),
    ],
)
def test_serve__refuses_in_one_line(
    tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    create_tables(open_storage(tmp_path / "archive"))
    process = serve(tmp_path / "archive", *arguments)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert said in error
    assert len(error.splitlines()) == 1


def test_serve__of_no_archive_is_one_line(tmp_path: Path) -> None:
    process = serve(tmp_path / "none")
    _, error = process.communicate(timeout=60)
    assert (process.returncode, len(error.splitlines())) == (1, 1)
    assert "no archive here" in error


def test_serve__on_a_port_that_is_taken_names_the_option(tmp_path: Path, gateway: Gateway) -> None:
    create_tables(open_storage(tmp_path / "other"))
    port = gateway.dimse.port
    process = serve(tmp_path / "other", "--dimse-port", str(port))
    _, said = process.communicate(timeout=60)
    line = said.splitlines()[-1]
    assert f"dimse_port {port}: cannot listen on 127.0.0.1: Address already in use" in line
    assert "--dimse-port takes another" in line


@pytest.mark.parametrize(("key", "port"), [("dimse_port", "--dimse-port"), ("http_port", None)])
def test_cannot_listen__names_what_mends_it(key: str, port: str | None) -> None:
    elsewhere = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    assert "--host takes an address" in str(cannot_listen(key, 0, "192.0.2.1", elsewhere))
    unknown = OSError(socket.EAI_NONAME, "Name or service not known")
    assert "Name or service not known; --host" in str(cannot_listen(key, 0, "none", unknown))
    taken = str(cannot_listen(key, 104, "127.0.0.1", OSError(errno.EADDRINUSE, "")))
    assert f"{port or '--http-port'} takes another" in taken


def test_start__tells_of_objects_that_another_ae_title_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage(tmp_path / "archive")
    create_tables(storage)
    told = GatewayConfig(ae_title="BEFORE", dimse_port=0, http_port=0, limits=LIMITS)
    with Landing(told.landing_folder(storage)) as landing:
        landing.append(b"an object", "CT1")
    with Gateway(storage, told):
        pass
    assert "were acknowledged" not in caplog.text
    with Landing(told.landing_folder(storage)) as landing:
        landing.append(b"another object", "CT1")
    with Gateway(storage, replace(told, ae_title="AFTER")):
        pass
    assert f"`pacspark ingest {storage.root} {landing.folder}` takes them" in caplog.text
