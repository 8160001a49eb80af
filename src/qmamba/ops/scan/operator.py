"""What makes a scan a PyTorch operator: shapes for tracing, gradients, batching rules.

Every implementation has one operator for the way forward, which gives the output and the states
that it saved, and one for the way back. Both are opaque, so ``torch.compile`` and ``torch.export``
see single nodes. What is asked of them is the same whatever runs inside:

- A graph that was recorded while nothing needed a gradient has saved no states. A backward pass
  through it runs the forward pass again, which costs time but gives the right gradient.
- The way back cannot be differentiated again, and there is no forward mode: a sentence says so.
- ``torch.func.grad`` and its like work; ``torch.vmap`` runs one entry after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from qmamba.errors import BackendError, ShapeError

Arguments: TypeAlias = tuple[Any, ...]
"""Of the scan: tensors, the route table or none, and flags, in the order of its signature."""


def register_scan(
    name: str,
    signature: str,
    forward: Callable[..., tuple[Tensor, Tensor]],
    empty: Callable[..., tuple[Tensor, Tensor]],
    backward: Callable[..., list[Tensor]],
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Register ``qmamba::name`` and ``qmamba::name_backward``.

    Args:
        name: of the operator.
        signature: of the arguments of the scan, as in ``"Tensor x, Tensor? delta, bool merge"``;
            tensors first.
        forward: ``(*arguments, save_states)`` to the output and the states.
        empty: the same arguments to results of the same shape and dtype with any content.
        backward: ``(grad, *arguments, states)`` to a gradient for each argument that is a floating
            point tensor, of its shape and dtype, and something for each other one that is a tensor.

    Returns:
        The forward operator, as a function that the transforms of ``torch.func`` take as well.
    """
    count = signature.count("Tensor")
    forward_operator = torch.library.custom_op(
        f"qmamba::{name}",
        forward,
        mutates_args=(),
        schema=f"({signature}, bool save_states) -> (Tensor, Tensor)",
    )
    backward_operator = torch.library.custom_op(
        f"qmamba::{name}_backward",
        backward,
        mutates_args=(),
        schema=f"(Tensor grad, {signature}, Tensor states) -> Tensor[]",
    )

    @forward_operator.register_fake
    def _(*arguments: Any) -> tuple[Tensor, Tensor]:
        _require_one_device(arguments[:count])
        return empty(*arguments)

    @backward_operator.register_fake
    def _(grad: Tensor, *arguments: Any) -> list[Tensor]:
        _require_one_device((grad, *arguments[:count]))
        return empty_gradients(grad, arguments[:count])

    def save(ctx: Any, inputs: Arguments, output: tuple[Tensor, Tensor]) -> None:
        tensors, ctx.flags = inputs[:count], inputs[count:-1]
        ctx.save_for_backward(*tensors, output[1])
        ctx.mark_non_differentiable(output[1])

    def gradients(ctx: Any, run_forward: Any, run_backward: Any, grad: Tensor) -> Arguments:
        *tensors, states = ctx.saved_tensors
        arguments = (*tensors, *ctx.flags)
        if states.numel() == 0:
            states = run_forward(*arguments, True)[1]
        found = run_backward(grad, *arguments, states)
        kept = [
            gradient if tensor is not None and tensor.is_floating_point() else None
            for gradient, tensor in zip(found, tensors, strict=True)
        ]
        return (*kept, *(None for _ in ctx.flags), None)

    def differentiate(ctx: Any, grad: Tensor, _: Tensor) -> Arguments:
        return gradients(ctx, forward_operator, backward_operator, grad)

    def refuse(ctx: Any, *_: Any) -> Any:
        raise BackendError(
            f"The scan (qmamba::{name}) has first derivatives backwards and no others: neither a "
            "second derivative nor one in forward mode; use backend='naive' for those."
        )

    forward_operator.register_autograd(differentiate, setup_context=save)
    backward_operator.register_autograd(refuse)
    forward_operator.register_vmap(one_by_one(forward_operator))
    backward_operator.register_vmap(one_by_one(backward_operator))

    function = _transformable(forward_operator, backward_operator, save, gradients, refuse)

    def scan(*arguments: Any) -> tuple[Tensor, Tensor]:
        run = function if is_transformed() else forward_operator
        result: tuple[Tensor, Tensor] = run(*arguments)
        return result

    return scan


def _transformable(
    forward_operator: Callable[..., Any],
    backward_operator: Callable[..., Any],
    save: Callable[..., None],
    gradients: Callable[..., Arguments],
    refuse: Callable[..., Any],
) -> Callable[..., Any]:
    """The same as a function, which the transforms of ``torch.func`` can differentiate.

    Inside them an operator cannot be.
    """

    class Backward(torch.autograd.Function):
        forward = staticmethod(lambda *inputs: tuple(backward_operator(*inputs)))
        setup_context = staticmethod(lambda ctx, inputs, output: None)
        backward = jvp = staticmethod(refuse)
        vmap = staticmethod(one_by_one(backward_operator))

    class Forward(torch.autograd.Function):
        forward = staticmethod(lambda *inputs: forward_operator(*inputs))
        setup_context = staticmethod(save)
        jvp = staticmethod(refuse)

        @staticmethod
        def backward(ctx: Any, grad: Tensor, _: Tensor) -> Arguments:
            return gradients(ctx, Forward.apply, Backward.apply, grad)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
            return one_by_one(Forward.apply)(info, in_dims, *arguments)

    return Forward.apply


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is at work."""
    if torch.compiler.is_compiling():
        return False
    transforms: bool = torch._C._are_functorch_transforms_active()
    return transforms or forward_ad._current_level >= 0


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether states have to be saved for a backward pass to one of these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _require_one_device(tensors: Sequence[Tensor | None]) -> None:
    """One tensor without memory brings a call here, whatever the others are."""
    devices = {str(tensor.device) for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        raise ShapeError(f"The tensors of a scan must be on one device, got {sorted(devices)}.")


def empty_gradients(like: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """One of any content for each tensor, in its shape and dtype, or without entries."""
    return [
        like.new_empty(0, dtype=torch.float32)
        if tensor is None or not tensor.is_floating_point()
        else tensor.new_empty(tensor.shape)
        for tensor in tensors
    ]


def one_by_one(operator: Callable[..., Any]) -> Callable[..., Any]:
    """A batching rule that calls an operator for each entry of the batch."""

    def run(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        results = []
        for index in range(info.batch_size):
            entry = [
                argument if dim is None else argument.select(dim, index)
                for argument, dim in zip(arguments, in_dims, strict=True)
            ]
            results.append(operator(*entry))
        stacked = type(results[0])([torch.stack(parts) for parts in zip(*results, strict=True)])
        return stacked, type(stacked)([0] * len(stacked))

    return run
