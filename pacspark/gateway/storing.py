"""What both doors of a gateway share: storing, finding, reading; and one thread behind them.

::

    store ── landing (durable) ── index (visible) ── success
                 │
    background thread: by count, bytes or seconds ── Intake ── commit_intake ── index follows
                                                                   └── then the landing forgets
"""

import io
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Any, BinaryIO, Final, Literal, Self

from pacspark.dicom.decode import InstanceIndex, index_instance
from pacspark.errors import (
    DicomDecodeError,
    InstanceNotFoundError,
    LandingFullError,
    PacsparkError,
    StorageError,
)
from pacspark.gateway.config import Limits
from pacspark.gateway.digests import checked, data_set_digest, pieces_of, rewound, sha256_of
from pacspark.gateway.groups import StoredInstance
from pacspark.gateway.index import Index
from pacspark.gateway.limits import Rates
from pacspark.gateway.pulse import Pulse
from pacspark.tables.catalog import Catalog
from pacspark.tables.intake import Intake, IntakeResult, commit_intake
from pacspark.tables.landing import LARGE_BYTES, Landed, Landing
from pacspark.tables.schema import FRAME_COLUMNS, LOCATION_COLUMNS
from pacspark.tables.storage import Storage

LOGGER: Final = logging.getLogger(__name__)
_STRIPES: Final = 64
_KEPT_BYTES: Final = 64 << 20
"""DICOM JSON of objects in the landing that is kept until they are committed."""
_REFUSED_ROW_BYTES: Final = 4 << 10
"""What a refused object costs beside its bytes."""
_LONGEST_PAUSE_S: Final = 60.0

Outcome = Literal["stored", "duplicate", "conflict"]


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one object that was handed in.

    Attributes
    ----------
    outcome
        ``stored``; ``duplicate``: the archive has the same object, or the same data set with other
        file meta information; or ``conflict``: it has another data set under this SOP Instance UID,
        which stays, and the newcomer goes to `rejects`
    instance
        what the archive has under the UID
    """

    outcome: Outcome
    instance: StoredInstance


@dataclass(frozen=True, slots=True)
class _Pending:
    landed: Landed
    uid: str | None
    index: InstanceIndex | None


class Store:
    """An archive as a gateway holds it; a context manager, safe for threads.

    Parameters
    ----------
    storage
        the archive, whose tables exist
    landing
        of this gateway alone
    limits
        when to commit and to look for new versions

    Attributes
    ----------
    index
        for :func:`pacspark.gateway.searching.search`
    received
        how many objects came in that the archive had not
    every_turn
        called by the background thread, about once a second
    """

    def __init__(self, storage: Storage, landing: Landing, limits: Limits) -> None:
        self.storage, self.landing, self.limits = storage, landing, limits
        self.run_id = uuid.uuid4().hex
        self.index, self.received = Index(storage, landing), Pulse()
        self._catalog = Catalog(storage)
        per_hour = float(limits.refused_bytes_per_hour)
        self._refused = Rates(per_hour / 3600, per_hour)
        self._stripes = [Lock() for _ in range(_STRIPES)]
        self._pending: list[_Pending] = []
        self._pending_bytes = self._kept_bytes = 0
        self._batch_objects = limits.commit_objects
        self._oldest_s = 0.0
        self._changed = Condition()
        self._committing = Lock()
        self._taking: list[_Pending] = []
        self._unfinished: tuple[list[_Pending], IntakeResult] | None = None
        self._committed: list[_Pending] = []
        self._closing = False
        self._pause_s = 0.0
        self.every_turn: Callable[[], None] = lambda: None
        for landed in landing.open(self.index.archive_id):
            self._take_up(landed)
        self._thread = Thread(target=self._work, name="pacspark-commit", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what has landed, if the tables can be written, and let go of the landing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        with suppress(PacsparkError):
            self.flush()
        self.landing.close()

    # storing

    def store(
        self,
        data: bytes | BinaryIO,
        source: str,
        check: Callable[[InstanceIndex], None] | None = None,
    ) -> Stored:
        """Store one object; when this returns, it is durable, found and retrievable.

        Parameters
        ----------
        data
            a whole Part 10 stream, or a seekable file of one that stands at its start
        source
            who sent it, for people and the tables
        check
            may refuse it, with an error, once its attributes are known; nothing is kept then

        Raises
        ------
        DicomDecodeError
            where it is no DICOM object; its bytes are durable all the same and go to `rejects`, as
            far as the limits allow
        LandingFullError
            where there is no room, or none in this hour for a conflict; nothing of it is kept
        StorageError
            where the disk fails otherwise
        """
        sha256 = sha256_of(data)
        try:
            index = index_instance(data)
        except DicomDecodeError as error:
            self._keep_refused(data, source, sha256, error)
            raise
        if check is not None:
            check(index)
        uid = index.sop_instance_uid
        with self._stripes[hash(uid) % _STRIPES]:
            known = self._known(uid)
            if known is not None and (
                known.sha256 == sha256 or self._is_same_data_set(known, index, data)
            ):
                return Stored("duplicate", known)
            if known is not None and not self._may_keep(data):
                message = (
                    f"{uid}: expected the data set that is stored, found another that is not kept: "
                    "limits.refused_bytes_per_hour is reached; send it again later"
                )
                raise LandingFullError(message)
            landed = self.landing.append(rewound(data), source, sha256=sha256)
            self.received.beat()
            if known is None:
                known = self.index.add_landed(landed, index)
                self._wait_for_commit(landed, uid, index)
                return Stored("stored", known)
        self._wait_for_commit(landed)
        return Stored("conflict", known)

    def _known(self, uid: str) -> StoredInstance | None:
        """Give what the archive has under a UID by now: another writer may just have deleted it."""
        known = self.index.lookup(uid)
        if known is None or known.landed is not None:
            return known
        if not self.is_in_trouble:  # or each object would wait a minute for a server that hangs
            with suppress(StorageError):  # the tables are away: what they had counts
                self.index.refresh()
        return self.index.lookup(uid)

    def _keep_refused(
        self, data: bytes | BinaryIO, source: str, sha256: str, error: DicomDecodeError
    ) -> None:
        if self._may_keep(data):
            self._wait_for_commit(self.landing.append(rewound(data), source, sha256=sha256))
        else:
            LOGGER.warning(
                "%s: refused %d bytes, SHA-256 %s, which are not kept: the limit of this hour is "
                "reached: %s", source, _size_bytes(data), sha256, error,
            )  # fmt: skip

    def _may_keep(self, data: bytes | BinaryIO) -> bool:
        """Tell whether `rejects` may have this too in this hour; nobody can delete it there."""
        return self._refused.takes("", _size_bytes(data) + _REFUSED_ROW_BYTES)

    def _is_same_data_set(
        self, known: StoredInstance, index: InstanceIndex, data: bytes | BinaryIO
    ) -> bool:
        """Tell whether only the file meta information differs, which is no part of an instance."""
        if known.transfer_syntax_uid != index.transfer_syntax_uid:
            return False
        try:
            return data_set_digest(pieces_of(data)) == data_set_digest(self.stream(known))
        except (DicomDecodeError, StorageError) as error:
            uid = index.sop_instance_uid
            LOGGER.warning("%s: cannot compare with what is stored: %s", uid, error)
            return False

    def _take_up(self, landed: Landed) -> None:
        """Go on with an object that an earlier process has left in the landing."""
        with self.landing.open_stream(landed) as stream:
            try:
                index = index_instance(stream)
            except DicomDecodeError:
                self._wait_for_commit(landed)
                return
        instance = self.index.add_landed(landed, index)
        is_own = instance.landed is landed
        self._wait_for_commit(landed, index.sop_instance_uid if is_own else None, index)

    def _wait_for_commit(
        self, landed: Landed, uid: str | None = None, index: InstanceIndex | None = None
    ) -> None:
        with self._changed:
            if index is not None:
                self._kept_bytes += len(index.dicom_json)
                if self._kept_bytes > _KEPT_BYTES:
                    self._kept_bytes -= len(index.dicom_json)
                    index = None  # it is made again when its turn comes
            if not self._pending:
                self._oldest_s = monotonic()
            self._pending.append(_Pending(landed, uid, index))
            self._pending_bytes += landed.size_bytes
            if self._is_due():
                self._changed.notify_all()

    # reading

    def instance(self, uid: str) -> StoredInstance:
        """Give an instance by its SOP Instance UID.

        Raises
        ------
        InstanceNotFoundError
            where the archive has none
        """
        found = self.index.lookup(uid)
        if found is None:
            message = f"{self.storage.root}: no instance with the SOP Instance UID {uid[:64]!r}"
            raise InstanceNotFoundError(message)
        return found

    def locate(self, instances: Sequence[StoredInstance]) -> dict[str, dict[str, Any]]:
        """Read where the bytes and frames of instances are: one read for all of them.

        Returns
        -------
        dict
            by SOP Instance UID, for :meth:`read_range` and
            :func:`pacspark.tables.schema.frame_index`
        """
        return self.index.rows(instances, (*LOCATION_COLUMNS, *FRAME_COLUMNS))

    def read(self, instance: StoredInstance, row: dict[str, Any] | None = None) -> bytes:
        """Read a whole object, as it was received, and check its digest.

        Parameters
        ----------
        instance
            from the index
        row
            of :meth:`locate`; None: looked up

        Raises
        ------
        StorageError
            where its bytes are gone or are not what was stored
        """
        return b"".join(self.stream(instance, row))

    def stream(
        self, instance: StoredInstance, row: dict[str, Any] | None = None
    ) -> Iterator[bytes]:
        """Read an object piece by piece; as :meth:`read`, the digest is checked at the end."""
        if instance.landed is not None:
            try:
                stream = self.landing.open_stream(instance.landed)
            except StorageError:
                instance = self._moved(instance)
            else:
                with stream:
                    yield from checked(instance, stream)
                return
        yield from self._catalog.stream_object(self._row(instance, row))

    def read_range(
        self, instance: StoredInstance, start: int, length: int, row: dict[str, Any] | None = None
    ) -> bytes:
        """Read a part of an object: one range read; parameters are those of :meth:`read`."""
        try:
            return self._read_range(instance, start, length, row)
        except StorageError:  # its bytes have moved, into the tables or within them
            now = self.instance(instance.sop_instance_uid)
            return self._read_range(now, start, length, None)

    def _read_range(
        self, instance: StoredInstance, start: int, length: int, row: dict[str, Any] | None
    ) -> bytes:
        if instance.landed is not None:
            return self.landing.read_range(instance.landed, start, length)
        return self._catalog.read_range(self._row(instance, row), start, length)

    def _moved(self, instance: StoredInstance) -> StoredInstance:
        """Find an object again that has left the landing."""
        moved = self.index.lookup(instance.sop_instance_uid)
        if moved is None or moved.landed is not None:
            message = f"{self.storage.root}: the bytes of {instance.sop_instance_uid} are gone"
            raise StorageError(message)
        return moved

    def _row(self, instance: StoredInstance, row: dict[str, Any] | None) -> dict[str, Any]:
        if row is not None and row.get("object_file") is not None:
            return row
        found = self.locate([instance]).get(instance.sop_instance_uid)
        if found is None:  # the tables went on: its row is in another file now
            now = self.instance(instance.sop_instance_uid)
            found = self.locate([now]).get(now.sop_instance_uid)
        if found is None:
            message = f"{self.storage.root}: the row of {instance.sop_instance_uid} is gone"
            raise StorageError(message)
        return found

    # committing

    @property
    def pending(self) -> int:
        """The number of objects that the tables do not have yet."""
        with self._changed:
            return len(self._pending) + len(self._taking)

    @property
    def is_in_trouble(self) -> bool:
        """Whether the tables could not be written or read when that was tried last."""
        return self._pause_s > 0

    def flush(self) -> None:
        """Commit all that has landed before this was called.

        Raises
        ------
        StorageError, CommitConflictError
            where the tables cannot be written now; nothing is lost
        """
        left = self.pending
        while left > 0:
            left -= self._commit() or left

    def _commit(self) -> int:
        """Commit what is next, after what another thread is committing; tell how many objects."""
        with self._committing:
            if self._unfinished is None:
                batch = self._next_batch()
                if not batch:
                    return 0
                try:
                    self._unfinished = (batch, self._taken_in(batch))
                except BaseException:
                    self._put_back(batch)
                    raise
            batch, result = self._unfinished
            report = commit_intake(self.storage, [result], self.run_id, "gateway")
            self._unfinished = None
            self._batch_objects = self.limits.commit_objects
            with self._changed:
                self._taking = []
                self._kept_bytes -= sum(
                    len(one.index.dicom_json) for one in batch if one.index is not None
                )
            LOGGER.info(
                "committed: stored %d, duplicate %d, conflict %d, rejected %d",
                report.stored, report.duplicate, report.conflict, report.rejected,
            )  # fmt: skip
            self._committed += batch
            self._follow()
            return len(batch)

    def _follow(self) -> None:
        """Show what the tables show now from there; only then the landing forgets it."""
        self.index.refresh()
        done, self._committed = self._committed, []
        self.index.forget_landed(one.uid for one in done if one.uid is not None)
        self.landing.remove([one.landed for one in done])

    def _put_back(self, batch: list[_Pending]) -> None:
        """Let a batch wait again that cannot be taken in, the next time in smaller parts.

        One object alone goes behind all others, so that it stops none of them.
        """
        with self._changed:
            place = len(self._pending) if len(batch) == 1 else 0
            self._pending[place:place], self._taking = batch, []
            self._pending_bytes += sum(one.landed.size_bytes for one in batch)
            self._batch_objects = max(1, len(batch) // 2)

    def _next_batch(self) -> list[_Pending]:
        with self._changed:
            count = size_bytes = 0
            for one in self._pending[: self._batch_objects]:
                if count and size_bytes + one.landed.size_bytes > self.limits.commit_bytes:
                    break
                count, size_bytes = count + 1, size_bytes + one.landed.size_bytes
            batch = self._pending[:count]
            del self._pending[:count]
            self._taking = batch
            self._pending_bytes -= size_bytes
            self._oldest_s = monotonic()
        return batch

    def _taken_in(self, batch: Sequence[_Pending]) -> IntakeResult:
        with Intake(self.storage, self.run_id) as intake:
            for one in batch:
                landed = one.landed
                if landed.size_bytes <= LARGE_BYTES:
                    data = self.landing.read(landed)
                    intake.add(
                        landed.source, data, index=one.index, received_at=landed.received_at,
                        sha256=landed.sha256,
                    )  # fmt: skip
                else:
                    with self.landing.open_stream(landed) as stream:
                        intake.add_stream(
                            landed.source,
                            stream,
                            landed.size_bytes,
                            received_at=landed.received_at,
                            sha256=landed.sha256,
                        )
            return intake.finish()

    def _is_due(self) -> bool:
        return bool(self._pending) and (
            len(self._pending) >= self.limits.commit_objects
            or self._pending_bytes >= self.limits.commit_bytes
            or monotonic() - self._oldest_s >= self.limits.commit_s
        )

    def _work(self) -> None:
        """Body of the background thread: commit what is due, and follow the tables."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or (self._is_due() and not self._pause_s),
                    timeout=self._pause_s or self.limits.follow_s,
                )
                if self._closing:
                    return
                due = self._is_due() or self._unfinished is not None
            try:
                if due:
                    self._commit()
                else:
                    with self._committing:
                        self._follow()
                self.every_turn()
                self._pause_s = 0.0
            except Exception as error:  # noqa: BLE001 -- tried again: nothing acknowledged is lost
                self._pause_s = min(max(1.0, 2 * self._pause_s), _LONGEST_PAUSE_S)
                LOGGER.warning("%s; trying again in %.0f s", error, self._pause_s)


def _size_bytes(data: bytes | BinaryIO) -> int:
    return len(data) if isinstance(data, bytes) else data.seek(0, io.SEEK_END)
