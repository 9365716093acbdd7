"""What goes from an archive to people who may not know whose it is."""

import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pacspark.archive.opened import OpenedArchive
from pacspark.dicom.confidentiality import Profile
from pacspark.dicom.uids import require_uid
from pacspark.errors import UsageError
from pacspark.tables.creating import create_tables
from pacspark.tables.reports import IngestReport
from pacspark.tables.storage import Storage, open_storage


class Sharing(OpenedArchive):
    """Makes archives that identify nobody."""

    def anonymize(
        self,
        target: str | Path,
        *,
        study: str | None = None,
        series: str | None = None,
        patient: str | None = None,
        everything: bool = False,
        profile: Profile | str | Path | None = None,
        retain: Iterable[str] = (),
        clean: Iterable[str] = (),
        secret: bytes | str | Path | None = None,
        create_secret: bool = False,
    ) -> IngestReport:
        """De-identify a study, a series, a patient or everything into another archive.

        PS3.15 Annex E, Basic Profile; `docs/deidentification.md` says what happens to what, and
        what is not done.

        Parameters
        ----------
        target
            Root of the other archive; made where there is none.
        study, series, patient, everything
            One of them: a UID, a UID, a Patient ID, or True.
        profile
            A profile, or the TOML file of one; None: the Basic Profile without options.
        retain, clean
            Options, besides those of `profile`.
        secret
            What pseudonyms are made from: bytes, or the file that holds it. The same secret makes
            the same of the same in every run. None: a new one, which nobody keeps.
        create_secret
            Whether to make the file, which must not be there yet.

        Returns
        -------
        IngestReport
            What became of the objects in the target; what was refused is named by its original UID.
        """
        from pacspark.dicom.deidentify import Deidentifier
        from pacspark.dicom.profile_file import read_profile
        from pacspark.dicom.pseudonyms import SECRET_BYTES, Pseudonyms, make_secret, read_secret
        from pacspark.spark.anonymize import anonymize, require_any

        level, value = _chosen(study, series, patient, everything=everything)
        chosen = read_profile(Path(profile)) if isinstance(profile, str | Path) else profile
        chosen = chosen or Profile()
        chosen = replace(
            chosen, retain=chosen.retain | set(retain), clean=chosen.clean | set(clean)
        )
        storage = open_storage(target)
        if storage.is_same(self._storage):
            message = f"target: expected another archive, found {storage.root} itself"
            raise UsageError(message)
        require_any(self.catalog, level, value)  # before a secret or an archive is made
        if isinstance(secret, str | Path):
            path = Path(secret)
            _require_outside(path, self._storage, storage)
            secret = make_secret(path) if create_secret else read_secret(path)
        elif create_secret:
            message = "create_secret: expected the name of a file as secret, found none"
            raise UsageError(message)
        pseudonyms = Pseudonyms(secret or secrets.token_bytes(SECRET_BYTES))
        create_tables(storage)
        return anonymize(
            lambda: self.spark,
            self.catalog,
            storage,
            Deidentifier(chosen, pseudonyms),
            level,
            value,
            progress=self.progress,
        )


def _chosen(
    study: str | None, series: str | None, patient: str | None, *, everything: bool
) -> tuple[str | None, str | None]:
    given = {"study": study, "series": series, "patient": patient}
    chosen = [(level, value) for level, value in given.items() if value is not None]
    if len(chosen) + everything != 1:
        expected = "one of study, series, patient and everything"
        message = f"anonymize: expected {expected}, found {len(chosen) + everything}"
        raise UsageError(message)
    if everything:
        return None, None
    ((level, value),) = chosen
    if level != "patient":
        require_uid(level, value)
    elif not value:
        message = "patient: expected an ID, found an empty text"
        raise UsageError(message)
    return level, value


def _require_outside(path: Path, *archives: Storage) -> None:
    """Refuse a secret inside an archive: who gets the archive would get it too."""
    for storage in archives:
        if storage.kind == "local" and Path(storage.folder).resolve() in path.resolve().parents:
            message = f"secret: expected a file outside of archives, found it in {storage.root}"
            raise UsageError(message)
