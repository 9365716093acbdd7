"""Who may do what over HTTP: the Host header, rates, credentials and their scopes.

Plain ASGI around the application, so that nothing of a request is read before it may be answered.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from threading import Lock
from typing import Final
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pacspark.gateway.audit import AuditLog
from pacspark.gateway.config import GatewayConfig, is_loopback
from pacspark.gateway.limits import Rates
from pacspark.gateway.web.call import problem
from pacspark.gateway.web_config import WebUser

ANYBODY: Final = "anonymous"
OPEN_PATHS: Final = frozenset({"/healthz"})
"""What is answered to everybody."""
_MOST_NAME_CHARACTERS: Final = 128
_KEPT_PROOFS: Final = 1024
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "testserver"})
_MINUTE_S: Final = 60.0
_FAILURES_PER_MINUTE: Final = 30


def hashed_password(password: str) -> str:
    """Give what a configuration holds of a password."""
    salt = secrets.token_bytes(16)
    return f"scrypt:{salt.hex()}:{_scrypt(password, salt).hex()}"


def hashed_token(token: str) -> str:
    """Give what a configuration holds of a token."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=32)


class Credentials:
    """Tells users by what they send; what was proven once is known for as long as it is used.

    Parameters
    ----------
    users
        of the configuration
    """

    def __init__(self, users: tuple[WebUser, ...]) -> None:
        self._by_token = {user.token: user for user in users if user.token}
        self._by_name = {user.name: user for user in users if user.password}
        self._key = secrets.token_bytes(32)
        self._lock = Lock()
        self._proven: OrderedDict[bytes, WebUser] = OrderedDict()

    def known(self, authorization: str) -> WebUser | None:
        """Give the user of a token, or of a password that was proven before; None for all else."""
        scheme, proof = _parts(authorization)
        if scheme == "bearer":
            return self._by_token.get(hashed_token(proof))
        with self._lock:
            return self._proven.get(self._seen(proof)) if scheme == "basic" else None

    def proven(self, authorization: str) -> WebUser | None:
        """Give the user whose password an Authorization header has; that takes 50 ms."""
        scheme, proof = _parts(authorization)
        user = self._user_of_basic(proof) if scheme == "basic" else None
        if user is not None:  # once for each password, not once for each frame
            with self._lock:
                self._proven[self._seen(proof)] = user
                while len(self._proven) > _KEPT_PROOFS:
                    self._proven.popitem(last=False)
        return user

    def _seen(self, proof: str) -> bytes:
        return hmac.digest(self._key, proof.encode(), "sha256")

    def _user_of_basic(self, proof: str) -> WebUser | None:
        try:
            name, _, password = base64.b64decode(proof, validate=True).decode().partition(":")
        except ValueError:  # no base64, or no text in it
            return None
        user = self._by_name.get(name)
        # unknown names take as long as known ones
        kept = user.password if user is not None and user.password else f"scrypt:{'00' * 16}:"
        _, salt, digest = kept.split(":")
        found = _scrypt(password[:1024], bytes.fromhex(salt)).hex()
        return user if user is not None and hmac.compare_digest(found, digest) else None


class Access:
    """ASGI middleware that answers 400, 401, 429 itself and tells the rest who asks.

    Parameters
    ----------
    app
        that answers
    config
        what the gateway was told
    audit
        takes a row for credentials that are refused
    """

    def __init__(self, app: ASGIApp, config: GatewayConfig, audit: AuditLog) -> None:
        self._app, self._config, self._audit = app, config, audit
        self._rates, self._failures = (
            Rates(per_minute / _MINUTE_S, max(per_minute / 3, 1.0))
            for per_minute in (config.web.limits.requests_per_minute, _FAILURES_PER_MINUTE)
        )
        self._credentials = Credentials(config.web.users)
        self._names = _names(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin_1") for name, value in scope["headers"]}
        address = (scope.get("client") or ("", 0))[0]
        host = headers.get(b"host", "")
        if self._names is not None and _name_of(host) not in self._names:
            # a page of somebody else whose name was turned to this address (DNS rebinding)
            await problem(400, "this host name is none of hosts under [web]")(scope, receive, send)
            return
        if not self._rates.takes(address):
            await too_many()(scope, receive, send)
            return
        user, scopes = ANYBODY, self._config.web.anonymous_scopes
        authorization = headers.get(b"authorization")
        if authorization is not None and self._config.web.users:
            known = self._credentials.known(authorization)
            if known is None:
                # who guesses may not go on, right or wrong, and has no more time of a processor
                if not self._failures.takes(address):
                    await too_many()(scope, receive, send)
                    return
                known = await run_in_threadpool(self._credentials.proven, authorization)
                if known is None:
                    self._audit.record(ANYBODY, address, "sign in", "failed: unknown credentials")
                    await unauthorized("these credentials are nobody's")(scope, receive, send)
                    return
                self._failures.takes(address, -1.0)
            person = _person(known, headers)
            if person is None:
                if self._failures.takes(address):
                    why = f"failed: no usable header {known.user_header}"
                    self._audit.record(known.name, address, "sign in", why)
                await unauthorized()(scope, receive, send)
                return
            user, scopes = person, frozenset(known.scopes)
        scope.setdefault("state", {})
        scope["state"] |= {"user": user, "scopes": scopes, "address": address}
        await self._app(scope, receive, send)


def _parts(authorization: str) -> tuple[str, str]:
    scheme, _, proof = authorization.partition(" ")
    return scheme.lower(), proof.strip()


def _person(user: WebUser, headers: dict[bytes, str]) -> str | None:
    """Give who asks: the user, or for whom a proxy says that it asks; None where it does not."""
    if user.user_header is None:
        return user.name
    told = headers.get(user.user_header.lower().encode(), "").strip()
    return told if 0 < len(told) <= _MOST_NAME_CHARACTERS and told.isprintable() else None


def too_many() -> Response:
    """Answer that an address asks, or guesses, too often."""
    return problem(429, "too many requests", {"Retry-After": "5"})


def unauthorized(why: str = "credentials are needed") -> Response:
    """Answer that credentials are needed, or others."""
    told = {"WWW-Authenticate": 'Basic realm="pacspark", charset="UTF-8", Bearer realm="pacspark"'}
    return problem(401, why, told)


def refusal(scope: Scope, right: str, config: GatewayConfig) -> Response | None:
    """Give the answer to somebody who has not a right; None where he has."""
    state = scope.get("state", {})
    if right in state.get("scopes", ()):
        return None
    if state.get("user") == ANYBODY and config.web.users:
        return unauthorized()
    return problem(403, f"this needs the scope {right}")


def _names(config: GatewayConfig) -> frozenset[str] | None:
    """Give the host names that are answered; None for all."""
    own = {urlsplit(config.web.public_url).hostname or ""} if config.web.public_url else set()
    if config.web.hosts:
        return frozenset(config.web.hosts) | _LOCAL_NAMES | own
    if is_loopback(config.host) and not config.web.users:
        return _LOCAL_NAMES | {config.host} | own
    return None


def _name_of(host: str) -> str:
    return re.sub(r":[0-9]*$", "", host).lower()
