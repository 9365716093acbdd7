"""What keeps an archive whole: fixity and replicas."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pacspark.archive.opened import OpenedArchive
from pacspark.dicom.uids import require_uid
from pacspark.errors import NotInArchiveError
from pacspark.tables.storage import open_storage

if TYPE_CHECKING:
    from pathlib import Path

    from pacspark.spark.repair import RepairReport
    from pacspark.spark.replicate import ReplicateReport
    from pacspark.spark.verify import VerifyReport


class Guarding(OpenedArchive):
    """Finds out whether an archive is whole, and keeps another one like it."""

    def verify(
        self,
        *,
        sample: float | None = None,
        seed: str | None = None,
        study: str | None = None,
        series: str | None = None,
        deep: bool = False,
        resume: bool = False,
    ) -> "VerifyReport":
        """Read every stored object and compare its SHA-256; look for what is lost or left over.

        Parameters
        ----------
        sample, seed
            Per cent of the objects (None: all), and a word that says which ones; the same word
            draws the same objects.
        study, series
            Only the objects of one.
        deep
            Index every object again too, and compare its row.
        resume
            Go on with the newest verify of the same request that was killed.

        Returns
        -------
        VerifyReport
            Counts and findings; ``report.clean`` tells whether all is well, ``report.table()`` what
            is not.

        Raises
        ------
        NotInArchiveError
            When there is no such study or series: nothing was verified.
        """
        from pacspark.spark.verify import VerifyRequest, verify

        self._require_now()
        asked = {"study": study, "series": series}
        given = {level: require_uid(level, uid) for level, uid in asked.items() if uid is not None}
        request = VerifyRequest(sample, seed, study, series, deep)
        report = verify(self._run, self._storage, request, resume=resume, progress=self.progress)
        if given and sample is None and not report.objects and not report.findings:
            wanted = " of ".join(f"{level} {uid}" for level, uid in reversed(given.items()))
            message = f"{self.root}: expected objects to verify, found no {wanted}"
            raise NotInArchiveError(message)
        return report

    def replicate(self, other: "str | Path", *, mirror: bool = False) -> "ReplicateReport":
        """Bring to another root what it does not have yet, each object's SHA-256 compared there.

        Parameters
        ----------
        other
            The replica: a folder, ``hdfs://...``, ``s3a://...`` or ``s3://...``; made where it is
            missing. It may have objects of its own.
        mirror
            Remove from it, too, what came from here and is no longer here.

        Returns
        -------
        ReplicateReport
            Counts, and findings: objects that are damaged here and so did not come over.
        """
        from pacspark.spark.replicate import replicate

        self._require_now()
        target = open_storage(other)
        return replicate(self._run, self._storage, target, mirror=mirror, progress=self.progress)

    def repair(self, report: "VerifyReport", other: "str | Path") -> "RepairReport":
        """Mend from a replica what a verify found wrong; what cannot be mended stays as it is.

        Parameters
        ----------
        report
            Of `verify`.
        other
            The replica.

        Returns
        -------
        RepairReport
            ``repaired.clean`` tells whether nothing is left, ``repaired.left`` what is.
        """
        from pacspark.spark.repair import repair

        self._require_now()
        storage = open_storage(other)
        return repair(self._run, self._storage, storage, report, progress=self.progress)

    def _run(self, tasks: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
        """Run tasks in Spark; a single one here, unless there is a session already."""
        if self._spark is None and len(tasks) == 1:
            return [work(tasks[0])]
        from pacspark.spark.jobs import run_tasks

        return run_tasks(self.spark, tasks, work)
