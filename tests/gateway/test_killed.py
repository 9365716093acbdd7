"""kill -9 under load: what was acknowledged is there afterwards, whole, and once."""

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pacspark.archive import create_archive
from pacspark.dicom.decode import data_set_start
from pacspark.errors import AssociationEndedError, ProtocolError
from pacspark.gateway.config import Destination, GatewayConfig, Limits
from pacspark.gateway.dimse.commands import C_STORE
from pacspark.gateway.dimse.negotiation import request
from pacspark.gateway.server import Gateway
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage
from tests.ct_objects import ct_image, encoded
from tests.gateway.conftest import LIMITS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CT = "1.2.840.10008.5.1.4.1.1.2"
LITTLE = "1.2.840.10008.1.2.1"
SENDERS = 3
CONFIG = """
landing = "landing"
[limits]
commit_objects = 7
commit_s = 0.2
reserve_bytes = 1000000
"""


def data_set(uid: str) -> bytes:
    draw = random.Random(uid)
    edge = draw.choice([4, 50, 200])
    pixels = np.frombuffer(draw.randbytes(edge * edge * 2), np.int16).reshape(edge, edge)
    data = encoded(ct_image(pixels, 1, (0.0, 0.0, 0.0), SOPInstanceUID=uid))
    return data[data_set_start(data) :]


class Sender(threading.Thread):
    """Sends objects one after another until the gateway is gone; notes what was acknowledged."""

    def __init__(self, port: int, prefix: str, enough: threading.Semaphore) -> None:
        super().__init__()
        self.acknowledged: list[str] = []
        self._port, self._prefix, self._enough = port, prefix, enough

    def run(self) -> None:
        here = Destination("PACSPARK", "127.0.0.1", self._port)
        try:
            association = request(here, "TEST", [(CT, [LITTLE])], LIMITS)
            for number in range(100_000):
                uid = f"{self._prefix}.{number}"
                command = {
                    "AffectedSOPClassUID": CT, "CommandField": C_STORE, "MessageID": 1,
                    "Priority": 0, "AffectedSOPInstanceUID": uid,
                }  # fmt: skip
                association.link.send(command, 1, data_set(uid))
                answer = association.link.receive()
                if answer is None or answer.command["Status"] != 0:
                    break
                self.acknowledged.append(uid)
                self._enough.release()
        except (AssociationEndedError, ProtocolError):
            pass


def killed_while_storing(folder: Path, round_number: int, acknowledgements: int) -> list[str]:
    """Start a gateway, store until so many are acknowledged, and kill it; give their UIDs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pacspark", "serve", str(folder / "archive"), "--json",
         "--config", str(folder / "gateway.toml"), "--dimse-port", "0", "--http-port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        port = json.loads(process.stdout.readline())["dimse_port"]
        enough = threading.Semaphore(0)
        senders = [Sender(port, f"1.2.{round_number}.{n}", enough) for n in range(SENDERS)]
        for sender in senders:
            sender.start()
        for _ in range(acknowledgements):
            assert enough.acquire(timeout=60)
        process.kill()
        process.wait(timeout=30)
        for sender in senders:
            sender.join(60)
    return [uid for sender in senders for uid in sender.acknowledged]


def check(folder: Path, uids: list[str]) -> None:
    """Start again, in this process, and hold everything against what was sent."""
    storage = open_storage(folder / "archive")
    limits = Limits(commit_s=3600, reserve_bytes=LIMITS.reserve_bytes)
    config = GatewayConfig(dimse_port=0, http_port=0, landing=folder / "landing", limits=limits)
    with Gateway(storage, config) as gateway:
        for uid in uids:
            kept = gateway.store.read(gateway.store.instance(uid))
            assert kept[data_set_start(kept) :] == data_set(uid), uid
        gateway.store.flush()
        rows = Catalog(storage).table("instances", ["sop_instance_uid"])["sop_instance_uid"]
        listed = rows.to_pylist()
        assert len(listed) == len(set(listed)) == len(gateway.store.index)
        assert set(uids) <= set(listed)
        # beyond those, at most what each sender had not been answered about
        assert len(listed) <= len(uids) + SENDERS * (
            1 + max(int(uid.split(".")[2]) for uid in uids)
        )
        for uid in uids:
            kept = gateway.store.read(gateway.store.instance(uid))
            assert kept[data_set_start(kept) :] == data_set(uid), uid
        assert Catalog(storage).rejects().num_rows == 0


def test_kill__for_good_leaves_a_landing_that_an_ingest_takes(
    spark: "SparkSession", tmp_path: Path
) -> None:
    archive = create_archive(tmp_path / "archive", spark)
    (tmp_path / "gateway.toml").write_text(CONFIG)
    uids = killed_while_storing(tmp_path, 0, 60)
    for times in range(2):
        report = archive.ingest(tmp_path / "landing")
        assert (report.conflict, report.rejected) == (0, 0)
        assert times == 0 or report.stored == 0
    rows = Catalog(archive.catalog.storage).table("instances").to_pylist()
    assert len(rows) == len({row["sop_instance_uid"] for row in rows})
    kept = {row["sop_instance_uid"]: archive.catalog.read_object(row) for row in rows}
    for uid in uids:
        assert kept[uid][data_set_start(kept[uid]) :] == data_set(uid)
    assert {row["source"].partition("@")[0] for row in rows} == {"dimse://TEST"}
    # and where the gateway comes back all the same
    check(tmp_path, uids)


@pytest.mark.parametrize("rounds", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_kill__loses_nothing_that_was_acknowledged(tmp_path: Path, rounds: int) -> None:
    create_tables(open_storage(tmp_path / "archive"))
    (tmp_path / "gateway.toml").write_text(CONFIG)
    draw, uids = random.Random(rounds), []
    for number in range(rounds):
        uids += killed_while_storing(tmp_path, number, draw.randint(5, 80))
        if number % 3 == 0 or number == rounds - 1:
            check(tmp_path, uids)
