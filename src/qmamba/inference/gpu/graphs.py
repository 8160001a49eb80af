"""Replaying the kernels of a call instead of launching them one by one, for shapes that repeat.

A small batch keeps a GPU busy for less time than Python needs to launch its kernels. A CUDA graph
records the launches of a call once and replays them in one. What it trades: the memory of a call
for each shape that is kept, and one copy of the input and of the result.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

_WARM_CALLS = 2
_MOST_SHAPES = 4
_MOST_VALUES = 1 << 24

logger = logging.getLogger(__name__)


def captured(function: Function, images: Tensor) -> Function:
    """Record the kernels of a call.

    Args:
        function: runs kernels on the device of the images and nothing that waits for them.
        images: an input; others must have its shape, dtype and device.

    Returns:
        A function that replays them on other inputs.

    Raises:
        RuntimeError: the call cannot be recorded.
    """
    held = images.clone()
    aside = torch.cuda.Stream(images.device)
    aside.wait_stream(torch.cuda.current_stream(images.device))
    with torch.cuda.stream(aside):
        for _ in range(_WARM_CALLS):
            function(held)
    torch.cuda.current_stream(images.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(held)

    def replay(others: Tensor) -> Tensor:
        held.copy_(others)
        graph.replay()
        return result.clone()

    return replay


class GraphedCalls:
    """A function whose repeated calls on a GPU are replayed.

    The second call of a shape records it, and its first replay must give the bits that the function
    gives; from then on calls of that shape are replayed. Where recording fails or the bits differ,
    all calls run as they are from then on. The shapes used last are kept.

    Args:
        function: from images to results, without a gradient.
        capture: records a call, as :func:`captured` does.
        devices: types of devices whose calls are recorded.
    """

    def __init__(
        self,
        function: Function,
        capture: Callable[[Function, Tensor], Function] = captured,
        devices: tuple[str, ...] = ("cuda",),
    ) -> None:
        self._function, self._capture, self._devices = function, capture, devices
        self._replays: OrderedDict[tuple[object, ...], Function | None] = OrderedDict()
        self._works = True
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        """The result, in memory of its own."""
        small = images.numel() <= _MOST_VALUES and images.device.type in self._devices
        if not (self._works and small):
            return self._function(images)
        # Replays of one shape share the memory of their input and result.
        with self._lock:
            return self._repeated(images)

    def _repeated(self, images: Tensor) -> Tensor:
        key = (tuple(images.shape), images.dtype, images.device)
        replay = self._replays.get(key)
        if replay is not None:
            self._replays.move_to_end(key)
            return replay(images)
        result = self._function(images)
        if key not in self._replays:
            self._replays[key] = None
        else:
            self._record(key, images, result)
        if len(self._replays) > _MOST_SHAPES:
            self._replays.popitem(last=False)
        return result

    def _record(self, key: tuple[object, ...], images: Tensor, result: Tensor) -> None:
        try:
            replay = self._capture(self._function, images)
            same = torch.equal(replay(images), result)
        except RuntimeError as error:
            logger.warning("Calls are not replayed, because one could not be recorded: %s", error)
            same = False
        if same:
            self._replays[key] = replay
        else:
            self._works = False
            self._replays.clear()
