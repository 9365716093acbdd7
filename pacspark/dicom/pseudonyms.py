"""Names, UIDs and dates that stand for others: all from one secret, so that they stay consistent.

The same secret makes the same of the same in every run, so series, references and frames of
reference fit together across objects and runs. Without the secret nobody can tell, or try out,
which original is behind a pseudonym.
"""

import hmac
import os
import secrets
import stat
from base64 import b32encode
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from pacspark.errors import UsageError

DICOM_ROOT: Final = "1.2.840.10008."
"""UIDs of the standard itself: classes, syntaxes, well-known frames of reference."""
SECRET_BYTES: Final = 32
_LEAST_BYTES: Final = 16
_MOST_BYTES: Final = 4096
_NEAREST_DAYS: Final = 365
_DAYS: Final = 3650


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Makes pseudonyms; its text form does not show the secret.

    Parameters
    ----------
    secret
        at least 16 bytes that nobody can guess
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < _LEAST_BYTES:
            message = f"secret: expected at least {_LEAST_BYTES} bytes, found {len(self.secret)}"
            raise UsageError(message)

    def uid(self, original: str) -> str:
        """Map a UID below ``2.25.`` (PS3.5 B.2); those of the standard stay.

        Examples
        --------
        >>> Pseudonyms(bytes(16)).uid("1.2.840.10008.1.2")
        '1.2.840.10008.1.2'
        """
        text = original.strip(" \0")
        if not text or text.startswith(DICOM_ROOT):
            return text
        return f"2.25.{int.from_bytes(self._digest('uid', text)[:16], 'big')}"

    def patient(self, identity: str) -> str:
        """Give the code of a patient, 16 letters and digits, good as ID and as name."""
        return b32encode(self._digest("patient", identity)).decode()[:16]

    def shift(self, identity: str) -> timedelta:
        """Give how far a patient's dates move: one to eleven years back, in whole days.

        Whole days, so a time of the day stays and no interval changes over midnight.
        """
        number = int.from_bytes(self._digest("shift", identity)[:8], "big")
        return timedelta(days=-(_NEAREST_DAYS + number % _DAYS))

    def _digest(self, purpose: str, text: str) -> bytes:
        return hmac.digest(self.secret, f"{purpose}\0{text}".encode("utf-8", "replace"), "sha256")


def read_secret(path: Path) -> bytes:
    """Read the secret of a file that only its owner can read.

    Raises
    ------
    UsageError
        where it is missing, open to others, or no secret; the message never shows its content
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                message = f"{path}: expected a file with a secret, found something else"
                raise UsageError(message)
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                message = (
                    f"{path}: expected a secret that its owner alone can read, found mode "
                    f"{stat.S_IMODE(mode):03o}; chmod 600 mends it"
                )
                raise UsageError(message)
            secret = file.read(_MOST_BYTES + 1).strip()
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "a name that no file can have"
        message = f"{path}: expected a file with a secret, found: {reason}"
        raise UsageError(message) from None
    if not _LEAST_BYTES <= len(secret) <= _MOST_BYTES:
        message = (
            f"{path}: expected a secret of {_LEAST_BYTES} to {_MOST_BYTES} bytes, found "
            f"{'more' if len(secret) > _MOST_BYTES else len(secret)}"
        )
        raise UsageError(message)
    return secret


def make_secret(path: Path) -> bytes:
    """Make a file with a new secret that only its owner can read.

    Raises
    ------
    UsageError
        where there is something already, or nothing can be written
    """
    secret = secrets.token_hex(SECRET_BYTES).encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secret + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        message = (
            f"{path}: expected no file yet for a new secret, found one; without --create-secret it "
            "is used"
        )
        raise UsageError(message) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "a name that no file can have"
        message = f"{path}: expected a place for a new secret, found: {reason}"
        raise UsageError(message) from None
    return secret
