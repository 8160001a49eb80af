"""Triton's interpreter, made fit for tests; needs ``TRITON_INTERPRET=1`` in the environment.

Three changes to Triton 3.6, none of them to what a kernel computes. The interpreter calls the
function of a scan or reduction once per element, and prepares Triton's language anew for every
function that a kernel calls: minutes where once per row and per module takes seconds. And it turns
one-element arrays into indices in a way that NumPy 2.4 no longer allows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from triton.runtime import interpreter


def _running_totals(operator: Any, tiles: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """What the function makes of the first row, the first two rows, and so on."""
    rows = [
        tuple(operator.to_tensor(row, tile.dtype) for tile, row in zip(tiles, at, strict=True))
        for at in zip(*(np.moveaxis(t.handle.data, operator.axis, 0) for t in tiles), strict=True)
    ]
    totals = [rows[0]]
    for row in rows[1:]:
        total = operator.combine_fn.fn(*totals[-1], *row)
        totals.append(total if isinstance(total, tuple) else (total,))
    return totals


def _scan_rows(operator: Any, tiles: tuple[Any, ...]) -> list[Any]:
    totals = zip(*_running_totals(operator, tiles), strict=True)
    return [
        operator.to_tensor(np.stack([t.handle.data for t in total], operator.axis), tile.dtype)
        for tile, total in zip(tiles, totals, strict=True)
    ]


def _reduce_rows(operator: Any, tiles: tuple[Any, ...]) -> list[Any]:
    totals = [total.handle.data for total in _running_totals(operator, tiles)[-1]]
    if operator.keep_dims:
        totals = [np.expand_dims(total, operator.axis) for total in totals]
    return [operator.to_tensor(t, tile.dtype) for t, tile in zip(totals, tiles, strict=True)]


_patch_tensor = interpreter._patch_lang_tensor


def _patch_index(tensor: Any, scope: Any) -> None:
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


_prepared: set[str] = set()


def _call(function: Any, *arguments: Any, **options: Any) -> Any:
    module = function.fn.__module__
    if module not in _prepared:
        interpreter._patch_lang(function.fn)
        _prepared.add(module)
    return function.rewrite()(*arguments, **options)


interpreter.InterpretedFunction.__call__ = _call
interpreter.ScanOps.generic_scan = _scan_rows
interpreter.ReduceOps.generic_reduce = _reduce_rows
interpreter._patch_lang_tensor = _patch_index
