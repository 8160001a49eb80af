"""The selective scan: its definition, its fast implementations, and the routes it walks along."""

from qmamba.ops.scan.dispatch import BackendStatus, backends, selective_scan, ss2d
from qmamba.ops.scan.given_delta import ss2d_given_delta
from qmamba.ops.scan.routes import (
    PADDING,
    class_route,
    gather_routes,
    scan_routes,
    scatter_routes,
    step_of_pixel,
)

__all__ = [
    "PADDING",
    "BackendStatus",
    "backends",
    "class_route",
    "gather_routes",
    "scan_routes",
    "scatter_routes",
    "selective_scan",
    "ss2d",
    "ss2d_given_delta",
    "step_of_pixel",
]
