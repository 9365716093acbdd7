"""Reconstructions that a gateway was asked for: a queue, and a process for each that runs.

The gateway starts no JVM: ``pacspark reconstruct`` runs beside it, and its lines on standard error
are how far it is. The queue is in a journal beside the landing::

    queued ─▶ running ─▶ done │ failed │ cancelled
      ▲          │
      └──────────┘  the gateway ended meanwhile; asking again finds or finishes the work

A process that outlives its gateway holds a lock that it was born with; the next gateway waits for
it before it begins the same job.
"""

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Condition, Thread
from time import monotonic
from typing import Any, Final, Literal

from pacspark.errors import RunNotFoundError, StorageError
from pacspark.gateway.audit import AuditLog
from pacspark.gateway.config import ReconstructionConfig
from pacspark.gateway.storing import Store
from pacspark.progress import read_line
from pacspark.wholes import whole_file

LOGGER: Final = logging.getLogger(__name__)
_POLL_S: Final = 0.2
_GRACE_S: Final = 15.0
"""From an interrupt to a kill."""
_KEPT: Final = 100
"""Jobs that have ended and are still told of."""
_TAIL_BYTES: Final = 4096
_MOST_OUT_BYTES: Final = 4 << 20
_MOST_TEXT: Final = 500

State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(slots=True)
class Job:
    """One reconstruction that was asked for.

    Attributes
    ----------
    id
        made here
    series_uid
        the projections
    options
        that follow ``pacspark reconstruct ROOT SERIES_UID``
    user, address
        who asked, and from where
    results
        the CT series, one for each energy bin
    error
        why it failed
    """

    id: str
    series_uid: str
    options: list[str]
    user: str
    address: str
    submitted_at: str
    state: State = "queued"
    started_at: str | None = None
    ended_at: str | None = None
    error: str | None = None
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in {"queued", "running"}


@dataclass(slots=True)
class _Child:
    process: "subprocess.Popen[bytes]"
    killed_at_s: float | None = None
    cancelled: bool = False


class Reconstructions:
    """The jobs of one gateway; safe for threads.

    Parameters
    ----------
    store
        the archive
    config
        how many at once, and by which command
    audit
        takes a row when a job ends
    folder
        of this gateway alone, on a local disk
    """

    def __init__(
        self, store: Store, config: ReconstructionConfig, audit: AuditLog, folder: Path
    ) -> None:
        self._store, self._config, self._audit, self._folder = store, config, audit, folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"{folder}: cannot keep reconstructions: {error.strerror}"
            raise StorageError(message) from error
        self._jobs = _read(folder / "jobs.json")
        self._children: dict[str, _Child] = {}
        self._changed = Condition()
        self._closing = False
        self._thread = Thread(target=self._work, name="pacspark-reconstructions", daemon=True)

    def start(self) -> None:
        """Begin with what waits, and with what an earlier gateway did not finish."""
        for job in self._jobs.values():
            if job.state == "running":
                job.state = "queued"
                LOGGER.info("reconstruction %s: taken up again", job.id)
        self._thread.start()

    def close(self) -> None:
        """Interrupt what runs; it waits for the next gateway."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def submit(
        self, series_uid: str, options: Sequence[str], user: str, address: str
    ) -> tuple[Job, bool] | None:
        """Take a job.

        Returns
        -------
        tuple
            the job, and whether it is new: who asks for what waits or runs is told of that;
            None where too many wait
        """
        with self._changed:
            waiting = [job for job in self._jobs.values() if job.is_open]
            for job in waiting:
                if (job.series_uid, job.options) == (series_uid, list(options)):
                    return job, False
            if len(waiting) - len(self._children) >= self._config.waiting:
                return None
            job = Job(uuid.uuid4().hex, series_uid, list(options), user, address, _now())
            self._jobs[job.id] = job
            try:
                self._save()
            except StorageError:
                del self._jobs[job.id]
                raise
            self._changed.notify_all()
        return job, True

    def job(self, job_id: str) -> Job:
        """Give a job.

        Raises
        ------
        RunNotFoundError
            where there is none of this id
        """
        with self._changed:
            job = self._jobs.get(job_id)
        if job is None:
            message = f"no reconstruction {job_id[:64]!r}"
            raise RunNotFoundError(message)
        return job

    def jobs(self) -> list[Job]:
        """Give all jobs, the newest first."""
        with self._changed:
            return list(reversed(self._jobs.values()))

    def cancel(self, job_id: str) -> Job:
        """End a job that waits or runs; one that has ended stays as it is.

        Raises
        ------
        RunNotFoundError
            where there is none of this id
        """
        job = self.job(job_id)
        with self._changed:
            child = self._children.get(job_id)
            if child is not None:
                child.cancelled = True
                _interrupt(child)
            elif job.state == "queued":
                self._end(job, "cancelled")
        return job

    def told(self, job: Job) -> dict[str, Any]:
        """Tell all that is known of a job, for JSON."""
        line = self._last_line(job)
        progress = read_line(line) if job.state == "running" else None
        return {
            "id": job.id,
            "state": job.state,
            "SeriesInstanceUID": job.series_uid,
            "options": job.options,
            "user": job.user,
            "submitted_at": job.submitted_at,
            "started_at": job.started_at,
            "ended_at": job.ended_at,
            "stage": None if progress is None else progress[0],
            "fraction": 1.0 if job.state == "done" else None if progress is None else progress[1],
            "line": line,
            "error": job.error,
            "results": job.results,
        }

    def _last_line(self, job: Job) -> str:
        try:
            with (self._folder / f"{job.id}.log").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                lines = file.read(_TAIL_BYTES).decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        whole = [line for line in lines[:-1] if line.strip()] or [""]
        text = whole[-1].replace(f"{self._store.storage.root}: ", "")
        return "".join(letter if letter.isprintable() else " " for letter in text)[:_MOST_TEXT]

    # the thread

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._closing:
                    break
                busy = self._begin_some()
                self._changed.wait(_POLL_S if busy or self._children else None)
            self._collect()
        with self._changed:
            for child in self._children.values():
                _interrupt(child)
        while self._children:
            self._collect()
            with self._changed:
                self._changed.wait(_POLL_S)

    def _begin_some(self) -> bool:
        """Start what may run; tell whether something waits for a process of an earlier gateway."""
        waits = False
        # two of one scan would prepare the same line integrals twice
        series = {self._jobs[job_id].series_uid for job_id in self._children}
        for job in list(self._jobs.values()):
            if len(self._children) >= self._config.at_once:
                break
            if job.state == "queued" and job.series_uid not in series:
                series.add(job.series_uid)
                waits |= not self._begin(job)
        return waits

    def _begin(self, job: Job) -> bool:
        """Start a job's process; False where that of an earlier gateway still runs."""
        prefix = self._config.command or (sys.executable, "-m", "pacspark")
        command = [*prefix, "reconstruct", self._store.storage.root, job.series_uid, *job.options]
        try:
            with (self._folder / f"{job.id}.lock").open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                with (
                    (self._folder / f"{job.id}.out").open("wb") as out,
                    (self._folder / f"{job.id}.log").open("wb") as log,
                ):
                    process = subprocess.Popen(
                        [*command, "--json"], stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                        pass_fds=[lock.fileno()], start_new_session=True,
                    )  # fmt: skip
            self._children[job.id] = _Child(process)
            job.state, job.started_at = "running", _now()
            self._save()
        except StorageError as error:
            LOGGER.warning("reconstructions: %s", error)
        except OSError as error:
            job.error = f"cannot start {prefix[0]}: {error.strerror}"
            self._end(job, "failed")
        return True

    def _collect(self) -> None:
        """Look after processes: those that ended, those that do not end."""
        ended = []
        with self._changed:
            for job_id, child in list(self._children.items()):
                if child.process.poll() is not None:
                    ended.append((self._jobs[job_id], child))
                elif child.killed_at_s is not None and monotonic() > child.killed_at_s:
                    with suppress(ProcessLookupError):
                        os.killpg(child.process.pid, signal.SIGKILL)
        for job, child in ended:
            state = self._outcome(job, child)  # reads the tables
            with self._changed:
                del self._children[job.id]
                self._end(job, state)

    def _outcome(self, job: Job, child: _Child) -> State:
        if child.process.returncode == 0:
            try:  # who sees that it is done finds the series
                self._store.index.refresh()
            except Exception as error:  # noqa: BLE001 -- it is done all the same, and others wait
                LOGGER.warning("reconstruction %s: %s", job.id, error)
            job.results = self._results(job)
            return "done"
        if child.cancelled:
            return "cancelled"
        if self._closing:
            return "queued"
        job.error = self._last_line(job) or f"ended with {child.process.returncode}"
        return "failed"

    def _results(self, job: Job) -> list[dict[str, Any]]:
        with suppress(OSError, ValueError, TypeError, KeyError, IndexError):
            with (self._folder / f"{job.id}.out").open("rb") as file:
                reports = json.loads(file.read(_MOST_OUT_BYTES).splitlines()[-1])
            return [self._result(report) for report in reports]
        return []

    def _result(self, report: Mapping[str, Any]) -> dict[str, Any]:
        series_uid = report["series_instance_uid"]
        instances = self._store.index.instances("series", [series_uid])
        return {
            "StudyInstanceUID": instances[0].study_instance_uid if instances else None,
            "SeriesInstanceUID": series_uid,
            "slices": report["n_slices"],
            "found": report["found"],
        }

    def _end(self, job: Job, state: State) -> None:
        job.state = state
        if not job.is_open:
            job.ended_at = _now()
            LOGGER.info("reconstruction %s: %s", job.id, state)
            outcome = "success" if state == "done" else f"{state}: {job.error or 'as asked'}"
            made = [result["SeriesInstanceUID"] for result in job.results]
            self._audit.record(
                job.user, job.address, "reconstruct", outcome,
                level="series", uid=job.series_uid, detail={"job": job.id, "series": made},
            )  # fmt: skip
        ended = [one.id for one in self._jobs.values() if not one.is_open]
        for job_id in ended[:-_KEPT]:
            del self._jobs[job_id]
            for suffix in ("lock", "out", "log"):
                with suppress(OSError):
                    (self._folder / f"{job_id}.{suffix}").unlink()
        try:
            self._save()
        except StorageError as error:  # what is in memory is true; the next change is kept again
            LOGGER.warning("reconstructions: %s", error)

    def _save(self) -> None:
        with whole_file(self._folder / "jobs.json", replace=True) as temporary:
            temporary.write_text(json.dumps([asdict(job) for job in self._jobs.values()]))


def _interrupt(child: _Child) -> None:
    if child.killed_at_s is None:
        child.killed_at_s = monotonic() + _GRACE_S
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGINT)


def _read(path: Path) -> dict[str, Job]:
    try:
        jobs = [Job(**row) for row in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        LOGGER.warning("%s: expected the jobs of a gateway, found %s; it is set aside", path, error)
        with suppress(OSError):
            shutil.move(path, path.with_suffix(".unreadable"))
        return {}
    return {job.id: job for job in jobs}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
