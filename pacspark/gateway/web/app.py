"""The web door: DICOMweb, pictures, metrics and the viewer, as one ASGI application and its server.

::

    uvicorn (a thread) ── Access: host, rate, who ── routes: scope ── handlers in worker threads
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pacspark.errors import PacsparkError, StorageError
from pacspark.gateway.audit import AuditLog
from pacspark.gateway.config import GatewayConfig, cannot_listen
from pacspark.gateway.reconstructing import Reconstructions
from pacspark.gateway.statuses import http_status
from pacspark.gateway.storing import Store
from pacspark.gateway.web.access import Access, refusal
from pacspark.gateway.web.call import ROOT, Call, Door, problem
from pacspark.gateway.web.connections import Listener, connections
from pacspark.gateway.web.openapi import description
from pacspark.gateway.web.pages import status_page
from pacspark.gateway.web.query import query
from pacspark.gateway.web.reconstructions import cancel, job, jobs, submit
from pacspark.gateway.web.rendered import rendered, uri
from pacspark.gateway.web.retrieve import bulk_data, frames, metadata, objects
from pacspark.gateway.web.store import delete, store
from pacspark.gateway.web.viewer import Viewer, viewer_folder

LOGGER: Final = logging.getLogger(__name__)
_START_S: Final = 30.0
_DRAIN_S: Final = 10
_BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0)
_STUDY, _SERIES = "/studies/{study}", "/studies/{study}/series/{series}"
_INSTANCE: Final = _SERIES + "/instances/{instance}"
_LEVELS: Final = (_STUDY, _SERIES, _INSTANCE)
Handler = Callable[[Call], Response] | Callable[[Call], Awaitable[Response]]


Resource = tuple[Any, ...]
"""A path, its name, and for each method a handler and the scope that it needs."""


def _reading(path: str, name: str, handler: Handler) -> Resource:
    return (path, name, ("GET", handler, "read"))


DICOMWEB: Final[tuple[Resource, ...]] = (
    _reading(_INSTANCE + "/frames/{frames}", "frames", frames),  # routes are tried in this order
    ("/studies", "studies", ("GET", partial(query, level="study"), "read"),
     ("POST", store, "write")),
    _reading("/series", "series", partial(query, level="series")),
    _reading("/instances", "instances", partial(query, level="instance")),
    _reading(_STUDY + "/series", "series", partial(query, level="series")),
    _reading(_STUDY + "/instances", "instances", partial(query, level="instance")),
    _reading(_SERIES + "/instances", "instances", partial(query, level="instance")),
    *(_reading(path + "/metadata", "metadata", metadata) for path in _LEVELS),
    *(_reading(path + "/rendered", "rendered", rendered) for path in _LEVELS),
    *(_reading(path + "/thumbnail", "thumbnail", partial(rendered, thumbnail=True))
      for path in _LEVELS),
    _reading(_INSTANCE + "/frames/{frames}/rendered", "rendered", rendered),
    _reading(_INSTANCE + "/frames/{frames}/thumbnail", "thumbnail",
             partial(rendered, thumbnail=True)),
    _reading(_INSTANCE + "/bulkdata/{place}", "bulk data", bulk_data),
    (_STUDY, "study", ("GET", objects, "read"), ("POST", store, "write"),
     ("DELETE", delete, "delete")),
    (_SERIES, "series", ("GET", objects, "read"), ("DELETE", delete, "delete")),
    (_INSTANCE, "instance", ("GET", objects, "read"), ("DELETE", delete, "delete")),
)  # fmt: skip
"""Below :data:`ROOT`."""


class Metrics:
    """Figures for Prometheus, of one gateway."""

    def __init__(self, store: Store, audit: AuditLog) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self._requests = Counter(
            "pacspark_http_requests", "HTTP requests", labels, registry=self.registry
        )
        self._seconds = Histogram(
            "pacspark_http_seconds", "Seconds to the first byte of an answer", ["route"],
            buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._store, self._audit = store, audit
        self.registry.register(self)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Take one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def collect(self) -> list[Metric]:
        """Give what is true now."""
        accesses = CounterMetricFamily(
            "pacspark_accesses", "Rows of audit, of both doors", labels=["action", "outcome"]
        )
        for (action, is_well), count in list(self._audit.counts.items()):
            accesses.add_metric([action, "success" if is_well else "failure"], count)
        told = {
            "pacspark_instances": ("Instances that are found", len(self._store.index)),
            "pacspark_pending": ("Objects that the tables do not have yet", self._store.pending),
            "pacspark_landing_bytes": ("Size of the landing", self._store.landing.held_bytes),
            "pacspark_landing_free_bytes": (
                "What the landing's disk can still take in", self._store.landing.free_bytes,
            ),
            "pacspark_tables_fail": (
                "1 while the tables cannot be written or read", int(self._store.is_in_trouble),
            ),
            "pacspark_instances_version": (
                "Version of the table that is shown", self._store.index.version,
            ),
        }  # fmt: skip
        gauges = [GaugeMetricFamily(name, text, value) for name, (text, value) in told.items()]
        return [accesses, *gauges]


class _Endpoint:
    """An ASGI endpoint: checks the right, answers by a handler, turns errors into statuses."""

    def __init__(
        self, door: Door, metrics: Metrics, name: str, right: str | None, handler: Handler
    ) -> None:
        self._door, self._metrics, self._name = door, metrics, name
        self._right, self._handler = right, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = monotonic()
        self._door.pulse.beat()
        answer: Response | None = None
        if self._right is not None:
            answer = refusal(scope, self._right, self._door.config)
        if answer is None:
            answer = await self._answer(Request(scope, receive))
        seconds = monotonic() - began
        self._metrics.count(scope["method"], self._name, answer.status_code, seconds)
        try:
            await answer(scope, receive, send)
        except PacsparkError as error:  # the connection is closed, since the answer is not whole
            LOGGER.warning("%s: %s: cut off: %s", scope["state"]["address"], self._name, error)

    async def _answer(self, request: Request) -> Response:
        state = request.scope["state"]
        call = Call(request, self._door, state["user"], state["address"])
        try:
            if asyncio.iscoroutinefunction(self._handler):
                found: Response = await self._handler(call)
                return found
            return await call.work(self._handler, call)  # type: ignore[arg-type]
        except ClientDisconnect:  # nobody reads this, but it is counted
            return problem(400, "expected the whole request, found the connection closed")
        except PacsparkError as error:
            return _problem_of(error, self._door.store.storage.root)
        except Exception:
            LOGGER.exception("%s: an error of the gateway", call.source)
            return problem(500, "an error of the gateway; its log says more")


def _problem_of(error: PacsparkError, root: str) -> Response:
    status = http_status(error)
    told = " ".join(str(error).removeprefix(f"{root}: ").split())
    if isinstance(error, StorageError) or status == 500:
        LOGGER.warning("%s", error)
        told = "the archive cannot do this now"
    headers = {"Retry-After": "5"} if status in {503, 507} else {}
    return problem(status, told[:500], headers)


def application(
    store_: Store, config: GatewayConfig, audit: AuditLog, reconstructions: Reconstructions
) -> ASGIApp:
    """Make the ASGI application of a gateway.

    Parameters
    ----------
    store_
        the archive
    config
        what the gateway was told
    audit
        takes a row for each access
    reconstructions
        takes what is to be reconstructed
    """
    door, metrics = Door(store_, config, audit, reconstructions), Metrics(store_, audit)
    viewer = Viewer(viewer_folder())

    def route(path: str, name: str, *methods: tuple[str, Handler, str | None]) -> Route:
        made = {
            method: _Endpoint(
                door, metrics, name if len(methods) == 1 else f"{method.lower()} {name}",
                right, handler,
            )
            for method, handler, right in (*methods, ("OPTIONS", described, "read"))
        }  # fmt: skip
        return Route(path, _ByMethod(made), methods=list(made), name=name)

    def figures(_: Call) -> Response:
        told = generate_latest(metrics.registry)
        return Response(told, media_type="text/plain; version=0.0.4")

    def described(call: Call) -> Response:
        """Answer what can be asked for, and how: also a request for capabilities (PS3.18 8.9)."""
        allowed = ", ".join(sorted(call.request.scope["methods"]))
        return JSONResponse(description(routes), headers={"Allow": allowed})

    routes: list[BaseRoute] = [
        Mount(ROOT, routes=[route(*resource) for resource in DICOMWEB]),
        *(route(*resource) for resource in OTHERS),
        route("/metrics", "metrics", ("GET", figures, "read")),
        route("/openapi.json", "openapi", ("GET", described, "read")),
        route("/{path:path}", "viewer", ("GET", viewer.answer, None)),
    ]
    middleware = [Middleware(Access, config=config, audit=audit)]
    if config.web.cors_origins:
        middleware.insert(0, Middleware(
            CORSMiddleware, allow_origins=list(config.web.cors_origins),
            allow_methods=["GET", "POST", "DELETE"], allow_credentials=True,
            allow_headers=["Accept", "Authorization", "Content-Type", "If-None-Match", "Range"],
            expose_headers=["ETag", "Content-Range", "Warning"],
        ))  # fmt: skip
    app = Starlette(routes=routes, middleware=middleware,
                    exception_handlers={HTTPException: _http_error})  # fmt: skip
    app.router.redirect_slashes = False
    return app


class _ByMethod:
    """One path whose methods have handlers and rights of their own."""

    def __init__(self, endpoints: dict[str, _Endpoint]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope["methods"] = {*self._endpoints} | ({"HEAD"} if "GET" in self._endpoints else set())
        await self._endpoints[method](scope, receive, send)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 -- registered for it
    return problem(error.status_code, str(error.detail), error.headers)


def _health(_: Call) -> Response:
    """Say that the process answers; that needs a thread, so one that has none left does not."""
    return Response("ok\n", media_type="text/plain")


OTHERS: Final[tuple[Resource, ...]] = (
    _reading("/wado", "wado-uri", uri),
    ("/reconstructions", "reconstructions", ("GET", jobs, "read"),
     ("POST", submit, "reconstruct")),
    ("/reconstructions/{job}", "reconstruction", ("GET", job, "read"),
     ("DELETE", cancel, "reconstruct")),
    ("/healthz", "healthz", ("GET", _health, None)),
    _reading("/status", "status", status_page),
)  # fmt: skip


class WebServer:
    """The web door as a thread with an event loop of its own.

    Parameters
    ----------
    store
        the archive
    config
        what the gateway was told
    audit
        takes a row for each access
    reconstructions
        takes what is to be reconstructed
    """

    def __init__(
        self, store: Store, config: GatewayConfig, audit: AuditLog, reconstructions: Reconstructions
    ) -> None:
        self._socket = _listening(config)
        self.port: int = self._socket.getsockname()[1]
        limits, tls = config.web.limits, config.tls
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(store, config, audit, reconstructions),
                loop="asyncio",  # others take connections past what counts them
                http=connections(self._socket, limits.connections, limits.first_request_s),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",  # the gateway says itself where it is, and that it ends
                access_log=False,
                server_header=False,
                proxy_headers=False,  # anybody writes X-Forwarded-For, and a proxy passes it on
                timeout_keep_alive=30,
                timeout_graceful_shutdown=_DRAIN_S,
                ssl_certfile=None if tls is None else str(tls.certificate),
                ssl_keyfile=None if tls is None else str(tls.key),
                ssl_ca_certs=None if tls is None or tls.client_ca is None else str(tls.client_ca),
                ssl_cert_reqs=(
                    ssl.CERT_NONE if tls is None or tls.client_ca is None else ssl.CERT_REQUIRED
                ),
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="pacspark-http", daemon=True
        )

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()
        deadline = monotonic() + _START_S
        while not self._server.started:
            self._thread.join(0.01)
            if not self._thread.is_alive() or monotonic() > deadline:
                message = "the HTTP server did not start"
                raise StorageError(message)

    def close(self) -> None:
        """Answer what is being answered, and end."""
        self._server.should_exit = True
        self._thread.join(_DRAIN_S + 5)
        with suppress(OSError):
            self._socket.close()


def _listening(config: GatewayConfig) -> Listener:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    limits = config.web.limits
    listening = Listener(family, limits.first_request_s, limits.idle_s)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((config.host, config.http_port))
    except OSError as error:
        listening.close()
        raise cannot_listen("http_port", config.http_port, config.host, error) from error
    return listening
