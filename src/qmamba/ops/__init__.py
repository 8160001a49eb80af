"""The selective scan: its definition, its fast implementations, and the routes it walks along."""

from qmamba.ops.dispatch import BackendStatus, backends, selective_scan, ss2d
from qmamba.ops.given_steps import ss2d_given_steps
from qmamba.ops.routes import PADDING, gather_routes, scan_routes, scatter_routes

__all__ = [
    "PADDING",
    "BackendStatus",
    "backends",
    "gather_routes",
    "scan_routes",
    "scatter_routes",
    "selective_scan",
    "ss2d",
    "ss2d_given_steps",
]
