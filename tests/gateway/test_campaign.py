"""A fault campaign: two gateways of one archive, killed under load; a disk that fills up."""

import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from pacspark.gateway.config import GatewayConfig
from pacspark.gateway.server import Gateway
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import Storage, open_storage
from tests.conftest import mounted
from tests.gateway.conftest import LIMITS
from tests.gateway.served import DimseSender, Sender, Served, WebSender, data_set_of, object_of

NAMES = ("first", "second")
CONFIG = """
[limits]
commit_objects = 7
commit_s = 0.2
follow_s = 0.1
reserve_bytes = 1000000
"""


def is_whole(data: bytes, uid: str) -> bool:
    return data_set_of(data) == data_set_of(object_of(uid))


class Campaign:
    """Two gateways that take in at once, and whose processes are killed at random moments."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.storage: Storage = open_storage(folder / "archive")
        create_tables(self.storage)
        self.gateways = {name: Served(folder, folder / "archive", CONFIG, name) for name in NAMES}
        self.acknowledged: dict[str, set[str]] = {name: set() for name in NAMES}
        self.begun: set[str] = set()

    def __enter__(self) -> "Campaign":
        with ExitStack() as stack:
            for served in self.gateways.values():
                stack.enter_context(served)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def senders(self, name: str, number: int, told: threading.Semaphore) -> list[Sender]:
        """Make the peers of one gateway; some objects are sent to both gateways."""
        served, own = self.gateways[name], NAMES.index(name)
        return [
            DimseSender(served, f"1.2.{number}.{own}.1", told.release),
            DimseSender(served, f"1.2.{number}.{own}.2", told.release),
            DimseSender(served, f"1.2.{number}.9.1", told.release),
            WebSender(served, f"1.2.{number}.{own}.3", told.release),
            WebSender(served, f"1.2.{number}.9.2", told.release, parts=1),
        ]

    def kill(self, number: int) -> None:
        """Kill one gateway at a random moment under load, start it again, and look."""
        victim = self.random.choice(NAMES)
        told = threading.Semaphore(0)
        senders = {name: self.senders(name, number, told) for name in NAMES}
        for sender in (one for several in senders.values() for one in several):
            sender.start()
        for _ in range(self.random.randint(1, 120)):
            assert told.acquire(timeout=60)
        self.gateways[victim].kill()
        for name, several in senders.items():
            for sender in several:
                sender.stopped.set()
            for sender in several:
                sender.join(60)
                assert not sender.refused
                self.acknowledged[name].update(sender.acknowledged)
                self.begun.update(sender.begun)
        self.gateways[victim].start()
        mine = [uid for sender in senders[victim] for uid in sender.acknowledged]
        assert sorted(self.gateways[victim].queried(mine)) == sorted(mine)
        sample = self.random.sample(mine, min(3, len(mine)))
        assert self.gateways[victim].found(sample) == sample
        with self.gateways[victim].client() as client:
            for uid in sample:
                assert is_whole(retrieved(client, uid), uid)

    def check(self) -> None:
        """End both gateways as a power cut would; all that was acknowledged is there, once."""
        for served in self.gateways.values():
            served.kill()
        for name, served in self.gateways.items():
            config = GatewayConfig(dimse_port=0, http_port=0, landing=served.landing, limits=LIMITS)
            with Gateway(self.storage, config) as gateway:
                for uid in self.acknowledged[name]:
                    assert is_whole(gateway.store.read(gateway.store.instance(uid)), uid), uid
                gateway.store.flush()
                assert len(gateway.store.landing.open()) == 0
        catalog = Catalog(self.storage)
        rows = catalog.table("instances").to_pylist()
        there = [row["sop_instance_uid"] for row in rows]
        assert len(there) == len(set(there))
        assert set().union(*self.acknowledged.values()) <= set(there) <= self.begun
        for row in rows:
            assert is_whole(catalog.read_object(row), row["sop_instance_uid"])
        assert catalog.rejects().num_rows == 0


def retrieved(client: httpx.Client, uid: str) -> bytes:
    (row,) = client.get("/instances", params={"SOPInstanceUID": uid}).json()
    (url,) = row["00081190"]["Value"]
    answer = client.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert answer.status_code == 200
    return answer.content


def test_two_gateways__lose_and_double_nothing_when_one_is_killed(tmp_path: Path) -> None:
    with Campaign(tmp_path, 1) as campaign:
        campaign.kill(1)
        campaign.check()
    assert campaign.begun


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_kills__at_random_moments_lose_nothing(tmp_path: Path, seed: int) -> None:
    with Campaign(tmp_path, seed) as campaign:
        for number in range(20):
            campaign.kill(number)
        campaign.check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 24 MB."""
    with mounted(tmp_path / "disk", "24m") as folder:
        yield folder


@pytest.mark.slow
def test_full_disk__is_told_to_every_peer_and_left_by_itself(small_disk: Path) -> None:
    root = small_disk / "archive"
    create_tables(open_storage(root))
    config = CONFIG.replace("1000000", "4000000")
    with Served(small_disk, root, config) as served:
        senders = [DimseSender(served, "1.2.1"), WebSender(served, "1.2.2", parts=1)]
        for sender in senders:
            sender.start()
        for sender in senders:
            while not sender.refused:
                sender.join(0.05)
                assert sender.is_alive()
        for sender in senders:
            sender.stopped.set()
            sender.join(60)
        dimse, web = senders
        assert set(dimse.refused) == {0xA700}
        assert set(web.refused) <= {503, 507}
        acknowledged = dimse.acknowledged + web.acknowledged
        assert len(acknowledged) > 50
        # what was acknowledged is found, and its bytes are given, while there is no room
        assert sorted(served.queried(acknowledged)) == sorted(acknowledged)

        subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
        later = [DimseSender(served, "1.2.3"), WebSender(served, "1.2.4")]
        for sender in later:
            sender.start()
            while len(sender.acknowledged) < 30:
                sender.join(0.05)
                assert sender.is_alive()
                assert not sender.refused
            sender.stopped.set()
            sender.join(60)
        acknowledged += [uid for sender in later for uid in sender.acknowledged]
        assert sorted(served.queried(acknowledged)) == sorted(acknowledged)
        served.terminate()
        assert "Traceback" not in served.log
    catalog = Catalog(open_storage(root))
    rows = catalog.table("instances").to_pylist()
    assert len(rows) == len({row["sop_instance_uid"] for row in rows})
    kept = {row["sop_instance_uid"]: catalog.read_object(row) for row in rows}
    assert all(is_whole(kept[uid], uid) for uid in acknowledged)
