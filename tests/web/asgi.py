"""Requests to an application without a server or a client library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

from qmamba.web.server.security import TOKEN_HEADER

TOKEN = "the-right-token"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    app: ASGIApp,
    method: str,
    address: str,
    *,
    chunks: Iterable[bytes] = (b"",),
    token: str | None = TOKEN,
    host: str = "127.0.0.1:8765",
    headers: dict[str, str] | None = None,
    hang_up: bool = False,
) -> Answer:
    """Send a request whose body comes in chunks; `hang_up` breaks it off after them."""
    path, _, query = address.partition("?")
    given = {"host": host, **({TOKEN_HEADER: token} if token else {}), **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(key.encode(), value.encode()) for key, value in given.items()],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8765),
    }
    bodies: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    if hang_up:
        bodies.append({"type": "http.disconnect"})
    else:
        bodies[-1]["more_body"] = False
    sent: list[Message] = []

    async def receive() -> Message:
        if bodies:
            return bodies.pop(0)
        await asyncio.sleep(3600)
        raise AssertionError("nobody waits that long")

    async def send(message: Message) -> None:
        sent.append(message)

    async def call() -> None:
        await app(scope, receive, send)

    asyncio.run(call())
    start = sent[0]
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(
        start["status"], {key.decode(): value.decode() for key, value in start["headers"]}, body
    )
