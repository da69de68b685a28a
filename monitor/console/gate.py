"""Before every page: who asks, and did they mean it.

A session is a signed cookie (SameSite=Strict, HttpOnly) with an id and a name; roles are looked up with every request.
Every POST must carry the session's CSRF token, a MAC of its id, in a hidden field, and must not come from another site
(`Sec-Fetch-Site`). Whoever has logged in has another session id than before. Without a session that names a user, all
but the login, the static files and the help they need is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from monitor.console.users import Role, User, Users
from monitor.errors import ConfigurationError

COOKIE = "guardline_session"
CSRF_FIELD = "csrf"
#: Failed logins that one address may make in so many seconds.
_TRIES, _SECONDS = 10, 60.0
_ADDRESSES = 10_000
_CREDENTIAL_OF_PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Session:
    """What the cookie says; `name` and `credential` are empty before the login."""

    id: str
    name: str = ""
    credential: str = ""

    @classmethod
    def new(cls, user: User | None = None, *, by_proxy: bool = False) -> Session:
        """Return a session with an id of its own."""
        if user is None:
            return cls(secrets.token_urlsafe(16))
        return cls(secrets.token_urlsafe(16), user.name, _CREDENTIAL_OF_PROXY if by_proxy else user.credential)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks: a session, and a user where one has logged in."""

    session: Session
    user: User | None
    fresh: bool

    @property
    def reviews(self) -> bool:
        """Whether they may see texts and decide."""
        return self.user is not None and self.user.role is Role.REVIEWER


class Sessions:
    """Makes and reads the cookie."""

    def __init__(self, secret: str, *, seconds: float) -> None:
        """Sign with `secret`; sessions last `seconds` from the login."""
        self.seconds = seconds
        self._serializer = URLSafeTimedSerializer(
            secret, salt="guardline-session", signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        )
        self._csrf_key = hmac.digest(secret.encode(), b"guardline-csrf", "sha256")

    def write(self, session: Session) -> str:
        """Return the cookie's value."""
        return str(self._serializer.dumps([session.id, session.name, session.credential]))

    def read(self, value: str | None) -> Session | None:
        """Return the session in a cookie; none where it is not ours or has expired."""
        try:
            return Session(*self._serializer.loads(value or "", max_age=int(self.seconds)))
        except (BadSignature, TypeError):
            return None

    def csrf(self, session: Session) -> str:
        """Return the token that forms of this session carry."""
        return hmac.new(self._csrf_key, session.id.encode(), "sha256").hexdigest()

    def meant(self, session: Session, given: str, headers: Headers) -> bool:
        """Tell whether a POST came from a page of ours."""
        site = headers.get("sec-fetch-site", "same-origin")
        return site == "same-origin" and hmac.compare_digest(given.encode(), self.csrf(session).encode())


class Proxy:
    """A reverse proxy before the console: it may say who asks, from where, and whether over TLS."""

    def __init__(self, header: str | None, addresses: str) -> None:
        """Believe `header` of requests that come from `addresses`: IPs or networks, separated by commas.

        Raises:
            ConfigurationError: one of them is none.
        """
        self._header = header
        try:
            self._networks = [ipaddress.ip_network(a.strip()) for a in addresses.split(",") if a.strip()]
        except ValueError as error:
            raise ConfigurationError(f"GUARDLINE_CONSOLE_PROXY_ADDRESSES: {error}: give IPs or networks") from error

    def trusts(self, request: Request) -> bool:
        """Tell whether a request comes from the proxy's addresses."""
        try:
            address = ipaddress.ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def client(self, request: Request) -> str:
        """Return the address that a request comes from: what the proxy appended to `X-Forwarded-For`, or the peer."""
        forwarded = request.headers.get("x-forwarded-for", "") if self.trusts(request) else ""
        return forwarded.rpartition(",")[2].strip() or (request.client.host if request.client else "unknown")

    def name(self, request: Request) -> str | None:
        """Return who asks; none where the proxy does not say so, or says it twice."""
        if self._header is None or not self.trusts(request):
            return None
        names = request.headers.getlist(self._header)
        return names[0].strip() or None if len(names) == 1 else None


class Limiter:
    """Counts failed logins by address, in memory; forgets the address that failed longest ago when there are many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, deque[float]] = {}

    def wait(self, address: str) -> float:
        """Return for how many seconds this address has to wait, 0 for not at all."""
        failures = self._failures.get(address)
        if not failures or len(failures) < _TRIES:
            return 0.0
        return max(0.0, failures[0] + _SECONDS - self._clock())

    def failed(self, address: str) -> None:
        """Note a failure."""
        failures = self._failures.pop(address, None) or deque(maxlen=_TRIES)
        failures.append(self._clock())
        self._failures[address] = failures
        while len(self._failures) > _ADDRESSES:
            del self._failures[next(iter(self._failures))]

    def succeeded(self, address: str) -> None:
        """Forget failures."""
        self._failures.pop(address, None)


class Gate:
    """Tells visitors apart."""

    def __init__(self, sessions: Sessions, users: Users, proxy: Proxy, *, loopback: bool) -> None:
        """`loopback`: the console is served on the machine's own address, where browsers need no TLS."""
        self.sessions = sessions
        self.users = users
        self.proxy = proxy
        self._loopback = loopback

    def visitor(self, request: Request) -> Visitor:
        """Return who asks. Whether the session was ended is not looked at."""
        session = self.sessions.read(request.cookies.get(COOKIE))
        if (name := self.proxy.name(request)) is not None:
            user = self.users.by_name(name)
            known = session is not None and (session.name, session.credential) == (name, _CREDENTIAL_OF_PROXY)
            if user is None or (known and session):
                return Visitor(session or Session.new(), user, fresh=session is None)
            return Visitor(Session.new(user, by_proxy=True), user, fresh=True)
        if session is None:
            return Visitor(Session.new(), None, fresh=True)
        return Visitor(session, self.users.by_credential(session.name, session.credential), fresh=False)

    def remember(self, response: Response, request: Request, session: Session) -> None:
        """Set the session's cookie."""
        response.set_cookie(
            COOKIE,
            self.sessions.write(session),
            max_age=int(self.sessions.seconds),
            path="/",
            httponly=True,
            samesite="strict",
            secure=self.secure(request),
        )

    def secure(self, request: Request) -> bool:
        """Tell whether browsers reach us by TLS: always, but on loopback without a proxy that says so."""
        forwarded = request.headers.get("x-forwarded-proto") if self.proxy.trusts(request) else None
        return not self._loopback or "https" in (request.url.scheme, forwarded)


_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"content-security-policy", _CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)


class SecurityHeaders:
    """ASGI middleware: the same headers on every response, and no copy of a page in any cache."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, with headers added."""

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *_HEADERS]
                if not any(name.lower() == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
