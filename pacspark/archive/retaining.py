"""What leaves an archive, what has to stay, and how long."""

from datetime import datetime
from functools import partial

from pacspark.archive.opened import OpenedArchive, one_of
from pacspark.dicom.uids import require_uid
from pacspark.tables.compaction import (
    MIN_AGE_HOURS,
    CompactionReport,
    Run,
    compact,
    in_threads,
)
from pacspark.tables.deletion import Deletion, Restoration, delete, undelete
from pacspark.tables.holds import Hold, set_hold


class Retaining(OpenedArchive):
    """Deletes, brings back, holds, and tidies up."""

    def delete(
        self,
        *,
        study: str | None = None,
        series: str | None = None,
        instance: str | None = None,
        reason: str = "",
    ) -> Deletion:
        """Delete a study, a series or an instance in one commit.

        Its bytes stay until `compact` finds that their retention has ended; `undelete` brings it
        back until then.

        Raises
        ------
        HeldError
            When a legal hold keeps its study.
        NotInArchiveError
            When there is no such thing.
        """
        self._require_now()
        level, uid = one_of("delete", study=study, series=series, instance=instance)
        return delete(self._storage, level, uid, reason=reason)

    def undelete(
        self,
        *,
        study: str | None = None,
        series: str | None = None,
        instance: str | None = None,
        as_of: int | datetime | None = None,
    ) -> Restoration:
        """Bring back what the last commit took away of a study, a series or an instance.

        Parameters
        ----------
        study, series, instance
            One of them.
        as_of
            The version of `instances` or the time whose rows are wanted instead.

        Raises
        ------
        NotInArchiveError
            When no version that is kept has it.
        """
        self._require_now()
        level, uid = one_of("undelete", study=study, series=series, instance=instance)
        return undelete(self._storage, level, uid, as_of=as_of)

    def compact(
        self,
        *,
        retain_days: float | None = None,
        min_age_hours: float = MIN_AGE_HOURS,
        dry_run: bool = False,
    ) -> CompactionReport:
        """Merge small files, and delete what no version needs that is still kept.

        Readers and writers go on meanwhile; it may be killed and repeated. It runs in this process,
        or as Spark tasks where the archive was opened with a session.

        Parameters
        ----------
        retain_days
            For so long versions stay whole after they were replaced. None: as the table says, 30
            days.
        min_age_hours
            Younger files may be those of a job that still runs, and are not touched.
        dry_run
            Only tell what would be done.
        """
        self._require_now()
        run: Run = in_threads
        if self._spark is not None:
            from pacspark.spark.jobs import run_tasks

            run = partial(run_tasks, self._spark)
        return compact(
            self._storage,
            retain_days=retain_days,
            min_age_hours=min_age_hours,
            dry_run=dry_run,
            run=run,
            progress=self.progress,
        )

    def hold(self, study: str, *, release: bool = False, reason: str = "") -> Hold:
        """Set a legal hold on a study, or release it: nothing of it can be deleted meanwhile."""
        self._require_now()
        study = require_uid("study", study)
        return set_hold(self._storage, study, release=release, reason=reason)
