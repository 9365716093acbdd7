"""Commands that work in Spark are killed in the middle, and given again: nothing acknowledged goes.

Killed is all of it, its JVM alone, or one of its Python workers alone: what is left then has to
end by itself, with one line. A delete has neither: all of it is killed.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from benchmarks.instances import SLICES_PER_SERIES, write_instances
from tests.faults import OPERATIONS, Campaign

Target = Literal["everything", "the JVM", "a Python worker"]
ROUNDS = 2
"""Three targets, two rounds of five operations: 30 kills are tried."""
END_SECONDS = 240


class Command:
    """A command of pacspark as people give it, and the processes that it begins."""

    def __init__(self, folder: Path, *words: object) -> None:
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        command = [sys.executable, "-m", "pacspark", *map(str, words), "--json"]
        with self.stdout.open("wb") as stdout, self.stderr.open("wb") as stderr:
            self.process = psutil.Popen(
                command, stdout=stdout, stderr=stderr, env=os.environ | {"TMPDIR": str(folder)}
            )

    def below(self, process: psutil.Process | None = None) -> list[psutil.Process]:
        """Give the processes that a process began, those that they began, and so on."""
        with suppress(psutil.NoSuchProcess):
            return list((process or self.process).children(recursive=True))
        return []

    def jvm(self) -> list[psutil.Process]:
        return [process for process in self.below() if _name(process) == "java"][:1]

    def workers(self) -> list[psutil.Process]:
        """Give the processes that run tasks; they are children of a daemon, the JVM's child."""
        below = [process for jvm in self.jvm() for process in self.below(jvm)]
        daemons = [process for process in below if "python" in _name(process)][:1]
        return [process for daemon in daemons for process in self.below(daemon)]

    def wait_for_work(self) -> None:
        """Wait until the first task runs, or all is over."""
        while self.process.poll() is None and not self.workers():
            time.sleep(0.02)

    def kill(self, target: Target, chance: float) -> bool:
        """Kill; tell whether there was something to kill."""
        victims = {"everything": [], "the JVM": self.jvm(), "a Python worker": self.workers()}
        chosen = victims[target][int(chance * len(victims[target])) :][:1]
        if target == "everything" and self.process.poll() is None:
            chosen = [self.process, *self.below()]
        for victim in chosen:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        return bool(chosen)

    def end(self) -> int:
        """Wait until it ends; give its exit status."""
        return int(self.process.wait(END_SECONDS))

    def said(self) -> list[str]:
        return self.stderr.read_text().splitlines()


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return str(process.name())
    return ""


@contextmanager
def begun(folder: Path, *words: object) -> Iterator[Command]:
    """Begin a command, and leave nothing of it behind."""
    command = Command(folder, *words)
    try:
        yield command
    finally:
        left = [command.process, *command.below()]
        command.kill("everything", 0)
        psutil.wait_procs(left, END_SECONDS)


class SparkCampaign(Campaign):
    """A campaign whose victims are commands.

    Each ingest is more than 256 MiB: less is one task for replicate and verify, which then need no
    Spark.
    """

    edge = 512

    def __init__(self, folder: Path, target: Target, seed: int) -> None:
        super().__init__(str(folder / "archive"), str(folder / "replica"), folder / "journal", seed)
        self.folder, self.target = folder, target

    def arguments(self, operation: str) -> tuple[Any, ...]:
        if operation != "ingest":
            return super().arguments(operation)
        start = SLICES_PER_SERIES * -(-self.next // SLICES_PER_SERIES)
        self.next = start + self.random.randrange(560, 640)
        write_instances(self.folder / f"from-{start}", range(start, self.next), self.edge)
        return self.root, self.journal, start, self.next

    def words(self, operation: str, arguments: Sequence[Any]) -> list[object]:
        """Give the words of a command."""
        match operation:
            case "ingest":
                return ["ingest", self.root, self.folder / f"from-{arguments[2]}"]
            case "delete":
                return ["delete", self.root, "--series", arguments[1]]
            case "compact":
                kept = ["--retain-days", 0, "--min-age-hours", 0]
                return ["compact", self.root, "--spark", *kept]
            case "replicate":
                return ["replicate", self.root, self.other]
            case _:
                return ["verify", self.root]

    def run(self, operation: str, arguments: Sequence[Any], kill_after_s: float | None) -> bool:
        # a delete needs no Spark: all of it is killed
        target: Target = "everything" if operation == "delete" else self.target
        with begun(self.folder, *self.words(operation, arguments)) as command:
            began = time.monotonic()
            if operation != "delete":
                command.wait_for_work()
                began = time.monotonic()
            killed = False
            if kill_after_s is not None:
                with suppress(psutil.TimeoutExpired):
                    command.process.wait(kill_after_s)
                killed = command.kill(target, self.random.random())
            status = command.end()
            said = command.said()
        assert not any("Traceback" in line for line in said), said
        if operation == "delete" and status == 1:
            assert killed or "to delete" in said[-1], said
            return killed
        if not killed:
            assert status == 0, said
        elif target != "everything" and status != 0:
            assert (status, bool(said)) == (1, True)
        if status == 0 and operation == "ingest":
            self.acknowledge(json.loads(command.stdout.read_text()), range(*arguments[2:]))
        if kill_after_s is None:
            self.seconds.setdefault(operation, time.monotonic() - began)
        return killed

    def acknowledge(self, report: dict[str, Any], numbers: range) -> None:
        """Note what an ingest said that it stored, or found stored."""
        assert report["stored"] + report["duplicate"] == len(numbers)
        with self.journal.open("a", encoding="ascii") as journal:
            journal.write("".join(f"{number}\n" for number in numbers))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("target", ["everything", "the JVM", "a Python worker"])
def test_kills__of_commands_in_spark_lose_nothing(tmp_path: Path, target: Target) -> None:
    faults = SparkCampaign(tmp_path, target, seed=len(target))
    for _ in range(ROUNDS):
        for operation in (*OPERATIONS, "verify"):
            faults.fault(operation)
    faults.run("replicate", faults.arguments("replicate"), None)
    assert faults.present <= faults.stored(faults.other)
    assert faults.verified(faults.other).clean
    assert faults.killed >= ROUNDS
    shutil.rmtree(tmp_path)  # gigabytes
