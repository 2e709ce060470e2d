"""Who may use the page: checks of every request before it is looked at, and headers of every response.

Three checks.  Host: on loopback the name must be a loopback name, else a page elsewhere could have its own name resolve
to this machine.  Origin: what changes something must come from the page itself, else any page that the user has open
could send it.  Token: where the server listens to others, as a header, or as a cookie after the first visit with
?token=.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
UPLOADS = "/api/volumes"  # the one path whose bodies are large; they are written as they come
_MOST_BYTES = 2**20  # of any other body, which is held in memory
# NiiVue keeps its font in data: addresses, and makes WebAssembly and blob: addresses of what it holds itself
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; font-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Access:
    """ASGI middleware.  token: None where the server listens on loopback alone.  cookie: the name of the token's."""

    def __init__(self, app: ASGIApp, token: str | None, cookie: str) -> None:
        self.app, self.token, self.cookie = app, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":  # there is no websocket
                await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        await (refused or self.app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.token is None and _without_port(host) not in LOOPBACK_NAMES:
            return _line(403, f"this server is for its own machine; open it as http://localhost, not as {host[:80]!r}")
        if scope["path"] != UPLOADS and not _is_small(headers):
            return _line(413, f"the request's body must tell its length, of at most {_MOST_BYTES} bytes")
        if not _same_site(scope["method"], scope["path"], headers, host):
            return _line(403, "the request came from another page than this server's own")
        if self.token is None or self._is_known(headers):
            return None
        if scope["method"] == "GET" and scope["path"] == "/":
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if self._is_token(given):
                response = RedirectResponse("/", status_code=303)  # so that the token leaves the address bar
                response.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
                return response
        return _line(401, "open the address with ?token= that the server printed, or send Authorization: Bearer TOKEN")

    def _is_known(self, headers: Mapping[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, given: str) -> bool:
        """Compared in a time that does not tell how much of it is right."""
        return secrets.compare_digest(given.encode(), (self.token or "").encode())


def _same_site(method: str, path: str, headers: Mapping[str, str], host: str) -> bool:
    """Whether a request comes from the page itself, from an address bar, or from no browser at all."""
    site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
    if method in SAFE_METHODS:
        return not path.startswith("/api/") or site in ("same-origin", "none")
    if origin is not None:
        return origin.partition("://")[2].lower() == host.lower()
    return site in ("same-origin", "none")


def _is_small(headers: Mapping[str, str]) -> bool:
    """Whether a request has no body, or a short one by its own word, to which the server's parser holds it."""
    length = headers.get("content-length", "0")
    return "transfer-encoding" not in headers and length.isdigit() and int(length) <= _MOST_BYTES


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _line(status: int, message: str) -> Response:
    return JSONResponse({"detail": message}, status)
