"""Running the page until it is stopped."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterable

import uvicorn

from qmamba.errors import ConfigError
from qmamba.web.server.app import make_app
from qmamba.web.server.session import Session

_PORTS_TRIED = 20


def serve(
    session: Session,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    names: Iterable[str] = (),
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a session until the process is asked to end; then the session is closed.

    Args:
        session: what the page shows.
        host: address to bind to; another than that of this machine lets others in who know the
            token.
        port: to bind to; ``None`` takes the first free one from 8765 on.
        names: further host names under which the page may be asked for.
        ready: called with the page's address, which holds its token, when it can be opened.

    Raises:
        ConfigError: the address cannot be bound.
    """
    token = secrets.token_urlsafe(24)
    with _bound(host, port) as bound:
        port = int(bound.getsockname()[1])
        app = make_app(session, token, host=host, port=port, names=names)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            # Streams of events never end by themselves.
            timeout_graceful_shutdown=1,
        )
        shown = f"[{host}]" if ":" in host else host
        if ready is not None:
            # Requests wait in the socket until the server takes them.
            bound.listen(128)
            ready(f"http://{shown}:{port}/?token={token}")
        try:
            uvicorn.Server(config).run(sockets=[bound])
        finally:
            session.close()


def _bound(host: str, port: int | None) -> socket.socket:
    tried = range(8765, 8765 + _PORTS_TRIED) if port is None else (port,)
    reason = ""
    for number in tried:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            bound = socket.socket(family, socket.SOCK_STREAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, number))
        except OSError as error:
            bound.close()
            reason = error.strerror or str(error)
        else:
            return bound
    raise ConfigError(
        f"Cannot serve at {host}, port {port or f'{tried[0]} to {tried[-1]}'}: {reason}; choose "
        "another --port."
    )
