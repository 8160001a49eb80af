"""Commands whose options come in groups that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_type_hints

import typer

_Result = TypeVar("_Result")


def given_options(context: typer.Context) -> set[str]:
    """Names of the parameters of a command that stood on the command line."""
    return {
        name
        for name in context.params
        # By name, because typer brings a copy of click of its own or uses the one that is there.
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }


def with_group(
    command: Callable[..., _Result],
    parameter: str,
    options: Sequence[inspect.Parameter],
    build: Callable[[dict[str, Any]], Any],
) -> Callable[..., _Result]:
    """A command that has several options in place of one parameter.

    Args:
        command: a function whose parameters typer understands, except for one.
        parameter: the name of that one.
        options: keyword parameters with annotations for typer that take its place.
        build: makes the value of the parameter from those of the options by name.
    """
    names = [option.name for option in options]

    @functools.wraps(command)
    def run(**arguments: Any) -> _Result:
        given = {name: arguments.pop(name) for name in names}
        return command(**arguments, **{parameter: build(given)})

    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for own in inspect.signature(command).parameters.values():
        if own.name == parameter:
            parameters += options
        else:
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(own.replace(annotation=hints[own.name], kind=keyword))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run
