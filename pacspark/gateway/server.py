"""The gateway: one process that holds a landing, an index and the doors, until it is told to end.

Importing this loads no Spark and starts no JVM.
"""

import gc
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

from pacspark.gateway.audit import AuditLog
from pacspark.gateway.config import GatewayConfig
from pacspark.gateway.dimse.serving import DimseServer
from pacspark.gateway.reconstructing import Reconstructions
from pacspark.gateway.storing import Store
from pacspark.gateway.web.app import WebServer
from pacspark.tables.creating import check_tables
from pacspark.tables.landing import Landing
from pacspark.tables.runs import recorded_run, versions_now
from pacspark.tables.storage import Storage

LOGGER: Final = logging.getLogger(__name__)
_AWAKE_S: Final = 1.0


class Gateway:
    """A running gateway; a context manager that starts it and ends it cleanly.

    Parameters
    ----------
    storage
        of an archive that exists
    config
        what it is told

    Attributes
    ----------
    store
        the archive, for the doors
    audit
        takes a row for each access
    dimse
        the DIMSE server
    web
        the HTTP server; None where the configuration has it off
    """

    def __init__(self, storage: Storage, config: GatewayConfig) -> None:
        self.storage, self.config = storage, config.checked()
        self._stack = ExitStack()
        self.web: WebServer | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            check_tables(self.storage)
            folder = self.config.landing_folder(self.storage)
            self._tell_of_landings_beside(folder)
            landing = Landing(folder, self.config.limits.reserve_bytes)
            stack.callback(landing.close)
            self.store = Store(self.storage, landing, self.config.limits)
            self.audit = AuditLog(self.storage, folder / "audit.jsonl", self.store.run_id)
            self.dimse = DimseServer(self.store, self.config, self.audit)
            stack.enter_context(
                recorded_run(
                    self.storage, self.store.run_id, "serve", versions_now(self.storage),
                    options={"ae_title": self.config.ae_title},
                )
            )  # fmt: skip
            stack.callback(self.audit.close)
            stack.enter_context(self.store)
            self.store.every_turn = self._every_turn
            self.dimse.start()
            stack.callback(self.dimse.close)
            if self.config.web.enabled:
                reconstructions = Reconstructions(
                    self.store, self.config.reconstructions, self.audit, folder / "reconstructions"
                )
                self.web = WebServer(self.store, self.config, self.audit, reconstructions)
                reconstructions.start()
                stack.callback(reconstructions.close)
                self.web.start()
                stack.callback(self.web.close)
            # what is here now lives as long as the process: the collector need not look at it again
            gc.collect()
            gc.freeze()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _tell_of_landings_beside(self, own: Path) -> None:
        """Tell of objects that a gateway with another AE title or landing has left."""
        usual = replace(self.config, landing=None).landing_folder(self.storage).parent
        for folder in sorted({path.parent for path in usual.glob("*/*.landing")} - {own}):
            LOGGER.warning(
                "%s: objects that were acknowledged are there, and are not found here; where no "
                "gateway runs with it, `pacspark ingest %s %s` takes them",
                folder, self.storage.root, folder,
            )  # fmt: skip

    def _every_turn(self) -> None:
        if self.audit.is_due:
            self.audit.flush()

    def addresses(self) -> dict[str, object]:
        """Give where the gateway is reached."""
        return {
            "ae_title": self.config.ae_title,
            "host": self.config.host,
            "dimse_port": self.dimse.port,
            "http_port": None if self.web is None else self.web.port,
            "tls": self.config.tls is not None,
            "instances": len(self.store.index),
        }

    def describe(self) -> str:
        """Say in one line where the gateway is reached."""
        secure = "s" if self.config.tls else ""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        web = "" if self.web is None else f"http{secure}://{host}:{self.web.port}/, "
        return (
            f"{web}dicom{secure}://{self.config.ae_title}@{host}:{self.dimse.port}, "
            f"{len(self.store.index)} instances of {self.storage.root}"
        )


def serve(storage: Storage, config: GatewayConfig, ready: Callable[[Gateway], None]) -> None:
    """Run a gateway until SIGTERM or SIGINT.

    Parameters
    ----------
    storage
        of an archive that exists
    config
        what it is told
    ready
        called once it listens
    """
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Gateway(storage, config) as gateway:
            ready(gateway)
            # a signal that another thread was given is seen when this one wakes
            while not ended.wait(_AWAKE_S):
                pass
            LOGGER.info("ending: running associations are drained")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
