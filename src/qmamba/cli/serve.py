"""`qmamba serve`: a page on this machine to score, cull and restore images."""

from __future__ import annotations

import importlib.util
import os
import webbrowser
from typing import TYPE_CHECKING, Annotated, cast

import typer

from qmamba.cli.common import counted, say, shown
from qmamba.cli.options.shared import DeviceOption, MaxPixelsOption, PrecisionOption, TunedOption
from qmamba.errors import ConfigError, DataError

if TYPE_CHECKING:
    from qmamba.inference import Precision


def serve(
    folder: Annotated[
        str | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="Images that the page begins with; more can be dropped onto it.",
            show_default=False,
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Go into the folders inside the folder.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Weights that score: an embedded name, a file, or a hub id owner/name.",
            show_default=False,
        ),
    ] = None,
    tuned: TunedOption = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="Views of an image, as in score.", show_default=False),
    ] = None,
    restore_model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Weights that restore, beyond the embedded ones; may be given several times.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to serve; 0.0.0.0 lets others in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="N",
            help="Port (the first free one from 8765 on).",
            show_default=False,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A further name by which the page may be asked for; may be given several times.",
            show_default=False,
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    max_pixels: MaxPixelsOption = None,
) -> None:
    """Open a page on this machine: score, sort, keep and reject, restore and compare images.

    The printed address holds a key; without it nothing can be read or changed. Nothing is loaded
    from a network or sent to one. Dropped images lie in a temporary folder until the page ends with
    Ctrl-C; the folder's own files are never changed.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"The page needs {' and '.join(missing)}; install it with pip install 'qmamba[web]'."
        )
    if folder is not None and not os.path.isdir(folder):
        raise DataError(f"There is no folder {folder!r}; check the spelling.")
    from qmamba.assess import Scorer
    from qmamba.images import DEFAULT_MAX_PIXELS
    from qmamba.web.server import Session
    from qmamba.web.server.restorers import Restorers
    from qmamba.web.server.run import serve as serve_session
    from qmamba.web.server.security import is_loopback

    limit = max_pixels or DEFAULT_MAX_PIXELS
    scorer = Scorer.from_pretrained(
        model,
        tuned=tuned,
        device=device,
        policy=policy,
        precision=cast("Precision", precision),
        max_pixels=limit,
        reasons=True,
    )
    restorers = Restorers(restore_model or (), device=device, max_pixels=limit)
    session = Session(scorer, restorers)

    def ready(address: str) -> None:
        if not is_loopback(host):
            say(
                f"warning: served at {host}, so that everybody who has this address can see and "
                "change what the page shows; it is not encrypted"
            )
        say(f"Open {address}")
        say("Ctrl-C ends the page and removes what was dropped onto it.")
        if browser and is_loopback(host):
            webbrowser.open(address)

    try:
        if folder is not None:
            count = session.open_folder(folder, recursive=recursive)
            say(f"{counted(count, 'image')} in {shown(folder)}")
        serve_session(session, host=host, port=port, names=allow_host or (), ready=ready)
    except KeyboardInterrupt:
        say("The page has ended.")
    finally:
        session.close()
