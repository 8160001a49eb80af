"""Options of `qmamba score` for many images: shards, workers, and parts of the work."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, TypeVar, get_type_hints

import typer

from qmamba.cli.options.grouped import with_group
from qmamba.errors import ConfigError

PARAMETER = "sharded"
"""Name of the parameter of a command that is replaced by the options."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ShardArguments:
    """How the work is divided, as it was written."""

    shards: Annotated[
        bool,
        typer.Option(
            "--shards",
            help="Write a folder of Parquet files with -o, one per shard, with several processes;"
            " the same command again goes on where it was stopped.",
        ),
    ] = False
    shard_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Files in a shard (10000); a tar file is a shard of its own.",
            show_default=False,
        ),
    ] = None
    shard_index: Annotated[
        int | None,
        typer.Option(min=0, metavar="I", help="This part of the work, from 0.", show_default=False),
    ] = None
    shard_count: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of parts of the work.", show_default=False),
    ] = None
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="P",
            help="Worker processes (one per core, or one on a GPU).",
            show_default=False,
        ),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            metavar="parquet|jsonl.gz",
            help="Form of the shards' files (parquet where pyarrow is installed).",
            show_default=False,
        ),
    ] = None
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Write the plan and stop before any scoring.")
    ] = False
    force_plan: Annotated[
        bool,
        typer.Option(
            "--force-plan",
            help="Where the folder has another plan, rename it and begin a new one.",
        ),
    ] = False
    stale_minutes: Annotated[
        float,
        typer.Option(
            min=0.01,
            metavar="X",
            help="Take over what another machine has claimed after this time without a sign of it.",
        ),
    ] = 5.0
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Score with Ray Data, on this machine (local) or on the cluster at an address.",
            show_default=False,
        ),
    ] = None

    def check(self) -> None:
        """Refuse options that have no effect.

        Raises:
            ConfigError: an option of shards is given without --shards, or half of a pair.
        """
        if (self.shard_index is None) != (self.shard_count is None):
            raise ConfigError("--shard-index and --shard-count belong together; give both.")
        if self.shards:
            return
        allowed = ("shards", "ray", "processes") if self.ray is not None else ("shards", "ray")
        given = [
            f"--{field.name.replace('_', '-')}"
            for field in fields(self)
            if field.name not in allowed and getattr(self, field.name) != field.default
        ]
        if given:
            raise ConfigError(f"{given[0]} has no effect without --shards; add it.")


def with_shard_options(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """Give a command one option for each field of :class:`ShardArguments`.

    They take the place of its parameter ``sharded: ShardArguments``.
    """
    hints = get_type_hints(ShardArguments, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(ShardArguments)
    ]
    return with_group(command, PARAMETER, options, lambda given: ShardArguments(**given))
