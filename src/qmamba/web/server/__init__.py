"""The local page: what it knows, who works for it, who may ask, and what can be asked."""

from qmamba.web.server.session import Limits, Session

__all__ = ["Limits", "Session"]
