"""One table or figure of the paper, from the data sets on a disk to the files beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmamba.errors import QMambaError
from qmamba.locks import owned_folder
from qmamba.models import RatingNetwork
from qmamba.reproduce.cost import multiply_adds
from qmamba.reproduce.figure3 import damage_kind, deep_features, feature_map, write_figure
from qmamba.reproduce.paper_tables import TABLES, PaperTable
from qmamba.reproduce.plan import (
    BESIDE,
    FIGURE_SET,
    Measurement,
    Training,
    figure_trainings,
    is_ours,
    measurement,
    measurements,
    members,
    paper_table,
    rows_of,
    with_bases,
)
from qmamba.reproduce.protocol import Protocol
from qmamba.reproduce.render import write_table
from qmamba.reproduce.results import collect
from qmamba.reproduce.runner import Conditions, InterruptedRunError, Laboratory
from qmamba.reproduce.sources import Sources, find_sources

FIGURE = "figure3"
EXPERIMENTS = (*TABLES, FIGURE)
"""Everything that can be reproduced, by name."""

QUICK_NOTE = (
    "A quick trial: small stand-ins, a few steps, a few images. These figures show that the way"
    " is free and mean nothing else."
)
NO_WEIGHTS = "no ImageNet weights"
"""What stands beside a row whose model has none to start from."""
NOT_IN_PAPER = "not in the paper"
"""What stands beside a row that the paper has not."""
FRESH_NOTE = (
    f'Rows marked "{NO_WEIGHTS}" were trained from random ones, unlike the paper\'s, so that they'
    " say nothing about the methods."
)
OWN_NOTE = (
    "DEIQT and LoDa were trained and tested by the schedules of their authors, all others by the"
    " paper's protocol."
)


@dataclass(frozen=True)
class Step:
    """One training of a plan."""

    training: Training
    """What is run; in a quick trial the stand-in."""
    tests: tuple[str, ...]
    """Data sets that its result is tested on."""
    missing: tuple[str, ...]
    """What it lacks; empty where it can be run."""


@dataclass(frozen=True)
class Plan:
    """All trainings of an experiment, bases first."""

    name: str
    """The experiment."""
    steps: tuple[Step, ...]
    """The trainings."""
    sources: Sources
    """What was found on the disk."""
    protocol: Protocol
    """The conditions."""
    rows: str = "*"
    """Shell pattern of the rows that are wanted."""

    @property
    def possible(self) -> tuple[Step, ...]:
        """The steps that lack nothing."""
        return tuple(step for step in self.steps if not step.missing)

    def seeds_of(self, step: Step) -> int:
        """How many trainings of the plan differ from this one in nothing but the seed."""
        return sum(
            each.training.with_seed(step.training.seed) == step.training for each in self.steps
        )

    def missing(self) -> dict[str, int]:
        """What is lacking, with the number of steps that lack it."""
        counts: dict[str, int] = {}
        for step in self.steps:
            for reason in step.missing:
                counts[reason] = counts.get(reason, 0) + 1
        return counts

    def multiply_adds(self, *, possible: bool) -> float:
        """Cost of all steps, or of those that can be run."""
        steps = self.possible if possible else self.steps
        return multiply_adds({step.training: step.tests for step in steps}, self.protocol)


def make_plan(
    name: str,
    root: Path,
    protocol: Protocol,
    *,
    rows: str = "*",
    weights: Path | None = None,
    fresh: bool = False,
) -> Plan:
    """Find out what an experiment needs and what of that is there; nothing is run.

    Args:
        name: one of :data:`EXPERIMENTS`.
        root: folder at or up to three levels above the data sets.
        protocol: the conditions.
        rows: shell pattern of the rows of a table, or of the backbones of the figure.
        weights: folder with weights to start from, a file per model, named after it.
        fresh: start from random weights where there are none, as a quick trial always does.

    Raises:
        ConfigError: an unknown experiment, or no row fits the pattern.
        DataError: a folder does not exist.
    """
    if name == FIGURE:
        wanted = figure_trainings(rows)
    else:
        wanted = measurements(paper_table(name), protocol.seeds, rows)
    tests: dict[Training, dict[str, None]] = {}
    for training in with_bases(wanted):
        stand_in = protocol.standing_in(training)
        tests.setdefault(stand_in, {}).update(dict.fromkeys(wanted.get(training, ())))
    sets = {each for training, tested in tests.items() for each in (*training.sets, *tested)}
    sources = find_sources(root, sorted(sets), weights=weights, fresh=fresh or protocol.quick)
    steps = tuple(
        Step(training, tuple(tested), tuple(sources.missing(training, tested)))
        for training, tested in tests.items()
    )
    return Plan(name, steps, sources, protocol, rows)


def run_plan(
    plan: Plan, conditions: Conditions, tell: Callable[[str], None]
) -> tuple[list[Path], list[str]]:
    """Run what can be run and write what came out; finished steps are not run again.

    Args:
        plan: from :func:`make_plan`.
        conditions: where and how.
        tell: takes one line before every step.

    Returns:
        The files written, and one sentence for every step that failed.

    Raises:
        InterruptedRunError: a signal stopped a training; the same call goes on.
        DataError: a file cannot be written, the folder has results of another protocol, or another
            process writes it.
        QMambaError: no panel of the figure can be drawn.
    """
    with owned_folder(conditions.out):
        return _run_plan(plan, conditions, tell)


def _run_plan(
    plan: Plan, conditions: Conditions, tell: Callable[[str], None]
) -> tuple[list[Path], list[str]]:
    laboratory = Laboratory(plan.sources, plan.protocol, conditions)
    failures: list[str] = []
    for number, step in enumerate(plan.possible, start=1):
        if laboratory.is_done(step.training, step.tests):
            continue
        tell(f"{number}/{len(plan.possible)}: {step.training.key}")
        try:
            laboratory.run(step.training, step.tests)
        except InterruptedRunError:
            raise
        except QMambaError as error:
            failures.append(f"{step.training.key}: {error}")
            tell(f"failed: {error}")
    notes = _notes(plan)
    if plan.name == FIGURE:
        return _figure(plan, laboratory, notes), failures

    def lookup(found: Measurement) -> dict[str, Any] | None:
        stand_in = plan.protocol.standing_in(found.training)
        return laboratory.result(Measurement(stand_in, found.test))

    table = paper_table(plan.name)
    result = collect(
        table,
        plan.protocol.seeds,
        lookup,
        pattern=plan.rows,
        notes=notes,
        remarks=_remarks(plan, table),
    )
    return write_table(result, conditions.out), failures


def _figure(plan: Plan, laboratory: Laboratory, notes: tuple[str, ...]) -> list[Path]:
    maps = []
    for step in plan.possible:
        if not laboratory.is_done(step.training, step.tests):
            continue
        dataset = plan.sources.datasets[FIGURE_SET]
        indices = laboratory.test_part(FIGURE_SET, step.training.seed)
        kinds = [damage_kind(dataset[index].distortion) for index in indices]
        model = laboratory.trained(step.training)
        assert isinstance(model, RatingNetwork)
        features = deep_features(
            model, dataset, indices, plan.protocol.crops_used(step.training.model)
        )
        maps.append(feature_map(step.training.model, features, kinds))
    if not maps:
        raise QMambaError("Figure 3 has nothing to show, because no backbone could be trained.")
    return write_figure(maps, laboratory.conditions.out, notes=notes)


def _notes(plan: Plan) -> tuple[str, ...]:
    notes = [QUICK_NOTE] if plan.protocol.quick else []
    if plan.protocol.own_schedules:
        notes.append(OWN_NOTE)
    fresh = [step for step in plan.possible if not plan.sources.start(step.training.model)]
    if fresh and not plan.protocol.quick:
        notes.append(FRESH_NOTE)
    if plan.missing():
        notes.append(f"Not run: {_listed(plan.missing())}.")
    return tuple(notes)


def _remarks(plan: Plan, table: PaperTable) -> dict[str, str]:
    """What is to be said beside rows, by label."""
    remarks = {}
    column = next(each for each in table.columns if each.metric not in ("parameters", "gflops"))
    for row in rows_of(table, plan.rows):
        if not is_ours(table, row):
            continue
        wanted = measurement(table, row, members(table, column)[0], 0).training
        training = plan.protocol.standing_in(wanted.base or wanted)
        said = [NOT_IN_PAPER] if row.label in BESIDE else []
        if not plan.sources.start(training.model):
            said.append(NO_WEIGHTS)
        remarks[row.label] = ", ".join(said)
    return remarks


def _listed(missing: Mapping[str, int]) -> str:
    return "; ".join(missing)
