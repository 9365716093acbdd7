"""What a fault campaign does to an archive, and what it holds the archive to.

As a program (``python -m tests.faults OPERATION ...``) it is the victim: it says "ready" when all
is imported, does one thing, and notes in a journal what it was told is stored. `Campaign` kills
it at a random moment, looks whether all that was acknowledged is there, gives the same command
again, and verifies everything. No Spark: what tasks do is the same, and a JVM takes ten times as
long to start as what is to be killed.
"""

import hashlib
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.instances import SLICES_PER_SERIES, instance, made_uid
from pacspark.errors import NotInArchiveError
from pacspark.spark.replicate import replicate
from pacspark.spark.verify import VerifyReport, VerifyRequest, verify
from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import compact, in_threads
from pacspark.tables.creating import create_tables
from pacspark.tables.deletion import delete
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.storage import open_storage

BATCH: Final = 8
"""Instances of one commit: several commits lie in the way of a kill."""
OPERATIONS: Final = ("ingest", "delete", "compact", "replicate")


def ingest(root: str, journal: str, start: str, stop: str) -> None:
    """Store instances in small batches, and note each batch when it is acknowledged."""
    storage = open_storage(root)
    with Path(journal).open("a", encoding="ascii") as acknowledged:
        for first in range(int(start), int(stop), BATCH):
            numbers = range(first, min(first + BATCH, int(stop)))
            run_id = uuid.uuid4().hex
            with Intake(storage, run_id) as intake:
                for number in numbers:
                    intake.add(f"instance:{number}", instance(number))
                taken = intake.finish()
            report = commit_intake(storage, [taken], run_id)
            assert report.stored + report.duplicate == len(numbers)
            acknowledged.write("".join(f"{number}\n" for number in numbers))
            acknowledged.flush()
            os.fsync(acknowledged.fileno())


def remove(root: str, series_uid: str) -> None:
    """Delete a series, unless a run that was killed has."""
    with suppress(NotInArchiveError):
        delete(open_storage(root), "series", series_uid)


def tidy(root: str) -> None:
    """Compact without mercy: nothing is kept for readers of older versions."""
    compact(open_storage(root), retain_days=0, min_age_hours=0)


def copy(root: str, other: str) -> None:
    """Bring a replica up to date."""
    assert not replicate(in_threads, open_storage(root), open_storage(other)).findings


VICTIMS: Final[dict[str, Callable[..., None]]] = {
    "ingest": ingest,
    "delete": remove,
    "compact": tidy,
    "replicate": copy,
}


def series_of(number: int) -> str:
    """Give the UID of an instance's series."""
    return made_uid("series", number // SLICES_PER_SERIES)


class Victim:
    """A process that does one thing; a context manager that ends it."""

    def __init__(self, operation: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "tests.faults", operation, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Victim":
        stdout: IO[str] | None = self.process.stdout
        assert stdout is not None
        assert stdout.readline() == "ready\n", self.process.communicate()[1]
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def finish(self) -> tuple[int, str]:
        """Wait for its end; give its exit status and what it said last."""
        _, errors = self.process.communicate(timeout=300)
        return self.process.returncode, errors


class Campaign:
    """Faults in one archive and its replica, one after another, each from a seeded generator."""

    edge = 4
    """Instances have so many pixels along each edge."""

    def __init__(self, root: str, other: str, journal: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.root, self.other, self.journal = root, other, journal
        self.storage = open_storage(root)
        create_tables(self.storage)
        create_tables(open_storage(other))
        self.next = 0
        self.present: set[int] = set()
        """Numbers of the instances that are to be there."""
        self.seconds: dict[str, float] = {}
        """How long an operation takes that is left alone: kills fall within."""
        self.killed = 0

    def arguments(self, operation: str) -> tuple[Any, ...]:
        """Choose what an operation is to do now."""
        if operation == "ingest":
            start = SLICES_PER_SERIES * -(-self.next // SLICES_PER_SERIES)  # a series of its own
            self.next = start + self.random.randrange(3, 5 * BATCH)
            return self.root, self.journal, start, self.next
        if operation == "delete":  # mostly one that is there
            return self.root, series_of(self.random.choice([*sorted(self.present), 0]))
        return (self.root,) if operation == "compact" else (self.root, self.other)

    def run(self, operation: str, arguments: Sequence[Any], kill_after_s: float | None) -> bool:
        """Let a victim work; tell whether it was killed before it was done."""
        with Victim(operation, *arguments) as victim:
            began = time.monotonic()
            if kill_after_s is not None:
                with suppress(subprocess.TimeoutExpired):
                    victim.process.wait(kill_after_s)
                if victim.process.poll() is None:
                    return True
            status, errors = victim.finish()
            assert status == 0, errors
            if kill_after_s is None:
                self.seconds.setdefault(operation, time.monotonic() - began)
        return False

    def fault(self, operation: str) -> None:
        """Kill an operation at a random moment, look, repeat it, and verify all."""
        if operation not in self.seconds:
            self.done(operation, arguments := self.arguments(operation))
            self.run(operation, arguments, None)
        arguments = self.arguments(operation)
        before = set(self.present)
        kill_after_s = self.random.uniform(0, 1.05 * self.seconds[operation])
        self.killed += self.run(operation, arguments, kill_after_s)
        there = self.stored()
        if operation == "ingest":
            assert self.acknowledged() <= there <= before | set(range(*arguments[2:]))
        elif operation == "delete":
            self.done(operation, arguments)
            assert there in (before, self.present)
        else:
            assert there == before
        self.run(operation, arguments, None)
        self.done(operation, arguments)
        self.check()

    def done(self, operation: str, arguments: Sequence[Any]) -> None:
        """Note what an operation that came to its end promises."""
        if operation == "ingest":
            self.present |= set(range(*arguments[2:]))
        elif operation == "delete":
            gone = {
                n
                for n in self.present
                if made_uid("series", n // SLICES_PER_SERIES) == arguments[1]
            }
            self.present -= gone
            # what is deleted is no longer acknowledged
            self.journal.write_text("".join(f"{number}\n" for number in sorted(self.present)))

    def acknowledged(self) -> set[int]:
        """Give what the victim was told is stored."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return {int(line) for line in lines if line.isdigit()}

    def stored(self, root: str | None = None) -> set[int]:
        """Give the numbers that are there: each once, with the bytes that were given."""
        rows = Catalog(open_storage(root or self.root)).table(
            "instances", ["sop_instance_uid", "sha256"]
        )
        of_uid = {made_uid("instance", number): number for number in range(self.next)}
        found = [of_uid[uid] for uid in rows["sop_instance_uid"].to_pylist()]
        assert len(found) == len(set(found)), "an instance is there twice"
        for number, digest in zip(found, rows["sha256"].to_pylist(), strict=True):
            assert digest == hashlib.sha256(instance(number, self.edge)).hexdigest()
        return set(found)

    def verified(self, root: str | None = None) -> VerifyReport:
        """Read every byte and compare."""
        return verify(in_threads, open_storage(root or self.root), VerifyRequest())

    def check(self) -> None:
        """Verify that exactly what was promised is there, whole."""
        assert self.stored() == self.present
        report = self.verified()
        assert report.clean, [finding.line for finding in report.findings]


if __name__ == "__main__":
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    VICTIMS[sys.argv[1]](*sys.argv[2:])
