"""What keeps an archive whole: fixity and replicas."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pacspark.archive.opened import OpenedArchive

if TYPE_CHECKING:
    from pacspark.spark.verify import VerifyReport


class Guarding(OpenedArchive):
    """Finds out whether an archive is whole."""

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
        """
        from pacspark.spark.verify import VerifyRequest, verify

        self._require_now()
        request = VerifyRequest(sample, seed, study, series, deep)
        return verify(self._run, self._storage, request, resume=resume, progress=self.progress)

    def _run(self, tasks: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
        """Run tasks in Spark; a single one here, unless there is a session already."""
        if self._spark is None and len(tasks) == 1:
            return [work(tasks[0])]
        from pacspark.spark.jobs import run_tasks

        return run_tasks(self.spark, tasks, work)
