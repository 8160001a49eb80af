"""Operators that can be differentiated once, and say so when they are differentiated twice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qmamba.errors import BackendError

Backward = Callable[..., tuple[Tensor | None, ...]]


class _Refusal(torch.autograd.Function):
    """Gradients as they are, with everything they depend on; their own derivative is an error."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(each.view_as(each) for each in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise BackendError(
            "This operator has first derivatives backwards and no others: a gradient of its "
            "gradient (create_graph=True, hessian, a gradient penalty) cannot be computed."
        )


def first_derivatives_only(backward: Backward) -> Backward:
    """Decorator of the ``backward`` of an autograd function that computes without a graph.

    PyTorch's own ``once_differentiable`` cuts the graph, so that ``torch.autograd.grad`` finds no
    way through the operator and leaves its part out of a second derivative without a word. Here
    the way stays and ends in an error.

    Args:
        backward: takes the context and the gradients of the outputs, and returns those of the
            inputs, None where there is none.

    Example:
        >>> import torch
        >>> class Square(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         ctx.save_for_backward(x)
        ...         return x * x
        ...     @staticmethod
        ...     @first_derivatives_only
        ...     def backward(ctx, grad):
        ...         return (2 * ctx.saved_tensors[0] * grad,)
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> torch.autograd.grad(Square.apply(x), x)
        (tensor(6.),)
    """

    @functools.wraps(backward)
    def once(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return found
        known = [each for each in (*grads, *ctx.saved_tensors) if each is not None]
        if not any(each.requires_grad for each in known):
            return found
        given = [each for each in found if each is not None]
        refusing = iter(_Refusal.apply(len(given), *given, *known))
        return tuple(None if each is None else next(refusing) for each in found)

    return once
