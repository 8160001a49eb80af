"""The page's routes. None takes a path or a file name; images are known by random ids."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from qmamba.errors import DataError, QMambaError
from qmamba.web import bundle
from qmamba.web.server.security import Guard, cookie_name, trusted_hosts
from qmamba.web.server.session import Session

NAME_HEADER = "x-name"
"""The name of an uploaded file, as percent-encoded UTF-8."""

_TYPES = {".js": "text/javascript", ".css": "text/css"}
_PING_SECONDS = 5.0
_QUEUED_EVENTS = 100_000
_SMALL_BODY = 4096
_DECODERS = 2


def make_app(
    session: Session,
    token: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    names: Iterable[str] = (),
) -> Starlette:
    """The application that serves a session; the session is closed with it.

    Args:
        session: what the page shows.
        token: the secret of the page's address.
        host, port: where the page is served.
        names: further host names under which it may be asked for.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(session.close)

    return Starlette(
        routes=Routes(session, token, port).table_of_routes(),
        lifespan=lifespan,
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=trusted_hosts(host, names)),
            Middleware(Guard, token=token, port=port),
        ],
        exception_handlers={KeyError: _unknown, QMambaError: _refused},
    )


class Routes:
    """What answers the requests that have passed the guard.

    Args:
        session: what the page shows.
        token: the secret of the page's address.
        port: of the page.
    """

    def __init__(self, session: Session, token: str, port: int) -> None:
        self._session, self._token, self._cookie = session, token, cookie_name(port)
        self._guard = Guard(_nothing, token, port)
        self._decoders = anyio.CapacityLimiter(_DECODERS)
        self._page = bundle.page().replace(
            'name="token" content=""', f'name="token" content="{token}"'
        )

    def table_of_routes(self) -> list[Route]:
        """Addresses, methods and what answers them."""
        return [
            Route("/", self.index),
            Route("/static/{name}", self.static),
            Route("/api/state", self.state),
            Route("/api/images", self.upload, methods=["POST"]),
            Route("/api/images/{id}", self.remove, methods=["DELETE"]),
            Route("/api/images/{id}/thumb", self.thumb),
            Route("/api/images/{id}/full", self.full),
            Route("/api/images/{id}/mark", self.mark, methods=["POST"]),
            Route("/api/images/{id}/restore", self.restore, methods=["POST"]),
            Route("/api/images/{id}/versions/{version}", self.full),
            Route("/api/images/{id}/versions/{version}/file", self.restored),
            Route("/api/queue", self.queue, methods=["POST"]),
            Route("/api/export.{kind}", self.table),
            Route("/api/events", self.events),
        ]

    async def index(self, request: Request) -> Response:
        given = request.query_params.get("token")
        if given is not None and self._guard.fits(given):
            # The token leaves the address bar, so that no screenshot or history shows it.
            answer: Response = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return answer
        if self._guard.fits(request.cookies.get(self._cookie, "")):
            return Response(self._page, media_type="text/html")
        return PlainTextResponse(
            "Open the address that `qmamba serve` has printed; it holds the key.", 403
        )

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in (*bundle.MODULES, *bundle.LIVE_MODULES, "style.css"):
            return PlainTextResponse("There is no such file.", 404)
        return Response(bundle.asset(name), media_type=_TYPES[Path(name).suffix])

    async def state(self, request: Request) -> Response:
        return JSONResponse(self._session.state())

    async def upload(self, request: Request) -> Response:
        limit = self._session.limits.image_bytes
        too_large = JSONResponse({"error": f"larger than {limit / 2**20:.3g} MiB"}, 413)
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            return too_large
        name = unquote(request.headers.get(NAME_HEADER, ""), errors="replace")
        path = self._session.begin_upload()
        kept = False
        try:
            size = 0
            with open(path, "wb") as stream:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        return too_large
                    stream.write(chunk)
            if not size:
                return JSONResponse({"error": "the file is empty"}, 400)
            item = self._session.finish_upload(path, name)
            kept = True
            return JSONResponse(item.record(), 201)
        except ClientDisconnect:
            return Response(status_code=400)
        except OSError as error:
            return JSONResponse({"error": f"cannot be stored ({error.strerror})"}, 507)
        finally:
            if not kept:
                path.unlink(missing_ok=True)

    async def thumb(self, request: Request) -> Response:
        image = request.path_params["id"]
        content = await anyio.to_thread.run_sync(
            self._session.thumbnail, image, limiter=self._decoders
        )
        return _image(content, "image/webp")

    async def full(self, request: Request) -> Response:
        work = partial(
            self._session.full, request.path_params["id"], request.path_params.get("version")
        )
        content = await anyio.to_thread.run_sync(work, limiter=self._decoders)
        return _image(content, "image/png" if content.startswith(b"\x89PNG") else "image/jpeg")

    async def restored(self, request: Request) -> Response:
        version = self._session.items[request.path_params["id"]].versions[
            request.path_params["version"]
        ]
        if version.file is None:
            raise KeyError
        return FileResponse(
            version.file, filename=version.download, media_type="application/octet-stream"
        )

    async def mark(self, request: Request) -> Response:
        values = await _values(request)
        return JSONResponse(
            self._session.mark(request.path_params["id"], values.get("mark")).record()
        )

    async def restore(self, request: Request) -> Response:
        values = await _values(request)
        item = self._session.restore(request.path_params["id"], str(values.get("choice")))
        return JSONResponse(item.record(), 202)

    async def remove(self, request: Request) -> Response:
        self._session.remove(request.path_params["id"])
        return Response(status_code=204)

    async def queue(self, request: Request) -> Response:
        values = await _values(request)
        action = {"cancel": self._session.cancel, "resume": self._session.resume}.get(
            str(values.get("action"))
        )
        if action is None:
            return JSONResponse({"error": "the action is cancel or resume"}, 400)
        action()
        return Response(status_code=204)

    async def table(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in ("csv", "jsonl"):
            raise KeyError(kind)
        content = await anyio.to_thread.run_sync(self._session.table, f".{kind}")
        return Response(
            content,
            media_type="text/csv" if kind == "csv" else "application/jsonl",
            headers={"content-disposition": f'attachment; filename="scores.{kind}"'},
        )

    async def events(self, request: Request) -> Response:
        return StreamingResponse(_events(self._session), media_type="text/event-stream")


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands behind a guard that is only asked whether a token fits."""


async def _events(session: Session) -> AsyncIterator[str]:
    """Every change of the session, and a sign of life where there is none."""
    loop = asyncio.get_running_loop()
    changes: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_QUEUED_EVENTS)

    def put(event: dict[str, Any]) -> None:
        # A page that does not read is not waited for; it asks for the whole state when it returns.
        with suppress(asyncio.QueueFull):
            changes.put_nowait(event)

    def listener(event: dict[str, Any]) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(put, event)

    session.listeners.add(listener)
    try:
        yield "retry: 1000\n\n"
        while True:
            try:
                event = await asyncio.wait_for(changes.get(), _PING_SECONDS)
            except TimeoutError:
                yield ": here\n\n"
                continue
            yield f"data: {json.dumps(event)}\n\n"
    finally:
        session.listeners.discard(listener)


async def _values(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _SMALL_BODY:
            raise DataError("The request is too large.")
    try:
        values = json.loads(body)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise DataError("The request must be a JSON object.")
    return values


async def _unknown(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "There is no such image or version."}, 404)


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _image(content: bytes, kind: str) -> Response:
    headers = {"cache-control": "private, max-age=3600"}
    return Response(content, media_type=kind, headers=headers)
