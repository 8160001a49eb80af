"""Who may ask the page for what.

Any page of the internet can send requests to this machine from a browser on it, and a name server
under foreign control can make such a page count as our own. So the host of a request is checked,
every request needs the token of the address that the command has printed, and one that changes
something needs it in a header, which a foreign page cannot send.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_HEADER = "x-qmamba-token"

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_READING = ("GET", "HEAD")
_WILDCARDS = ("0.0.0.0", "::", "")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def cookie_name(port: int) -> str:
    """Browsers send the cookies of a host to all of its ports, so the port is in the name."""
    return f"qmamba-{port}"


def trusted_hosts(host: str, more: Iterable[str] = ()) -> list[str]:
    """Names under which the page may be asked for.

    Args:
        host: address that it is bound to.
        more: further names.
    """
    names = {"127.0.0.1", "localhost", *more}
    if host in _WILDCARDS:
        own = socket.gethostname()
        names |= {own, socket.getfqdn()}
        # A machine that does not know its own name is asked for by a name that is given.
        with suppress(OSError):
            names |= {str(entry[4][0]) for entry in socket.getaddrinfo(own, None)}
    else:
        names.add(host)
    return sorted(names)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    return host in _LOOPBACK


class Guard:
    """Demands the token and sets the headers that keep a browser from doing more than it should.

    Args:
        app: what answers the requests that pass.
        token: the secret.
        port: of the page.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token, self._cookie = app, token, cookie_name(port)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # A lifespan; web sockets have no route.
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if self._may(scope):
            await self._app(scope, receive, guarded)
        else:
            answer = PlainTextResponse(
                "Open the address that `qmamba serve` has printed; it holds the key.", 403
            )
            await answer(scope, receive, guarded)

    def _may(self, scope: Scope) -> bool:
        # The page itself checks the token of its address.
        if scope["path"] == "/" and scope["method"] in _READING:
            return True
        headers = Headers(scope=scope)
        if self.fits(headers.get(TOKEN_HEADER, "")):
            return True
        cookies = cookie_parser(headers.get("cookie", ""))
        return scope["method"] in _READING and self.fits(cookies.get(self._cookie, ""))

    def fits(self, token: str) -> bool:
        """Whether a token is the right one."""
        return secrets.compare_digest(token.encode(), self._token.encode())
