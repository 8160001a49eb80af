"""The page's files, and the report that holds them all in one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

MODULES = (
    *("dom.js", "colors.js", "collection.js", "histogram.js", "gallery.js"),
    *("stage.js", "detail.js", "view.js"),
)
"""What page and report share, every module after those that it imports."""
LIVE_MODULES = ("server.js", "uploads.js", "restoring.js", "page.js")
"""What only the page needs."""

_IMPORT = re.compile(r"^import .*?;\n", re.MULTILINE | re.DOTALL)
_LIVE = re.compile(r"[ \t]*<!-- live -->.*?<!-- /live -->\n?", re.DOTALL)


@cache
def asset(name: str) -> str:
    """The text of one of the page's files."""
    return (files("qmamba.web") / "static" / name).read_text("utf-8")


def page() -> str:
    """The HTML of the live page."""
    head = (
        '<link rel="stylesheet" href="static/style.css">\n'
        '<script type="module" src="static/page.js"></script>'
    )
    return asset("page.html").replace("<!-- head -->", head)


def report(data: dict[str, Any]) -> str:
    """A page with its style, its modules and its data inside, which loads nothing.

    Args:
        data: what ``report.js`` expects: ``info`` and ``images``.
    """
    script = "\n".join(_IMPORT.sub("", asset(name)) for name in (*MODULES, "report.js"))
    script = re.sub(r"^export ", "", script, flags=re.MULTILINE)
    style = asset("style.css")
    policy = (
        f"default-src 'none'; script-src {_hashed(script)}; style-src {_hashed(style)}; "
        "img-src data: file:; base-uri 'none'; form-action 'none'"
    )
    # The browser ends a script at "</", whatever it stands in.
    content = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>\n'
    )
    foot = (
        f'<script type="application/json" id="data">{content}</script>\n'
        f'<script type="module">{script}</script>\n</body>'
    )
    page = _LIVE.sub("", asset("page.html")).replace("<!-- head -->", head)
    return page.replace("</body>", foot)


def _hashed(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"
