"""Where the rows of `qmamba score` go: a text table or a JSON array on the screen, a table file."""

from __future__ import annotations

import json
import math
import sys
from enum import Enum
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from qmamba.cli.common import shown, write

if TYPE_CHECKING:
    from qmamba.assess import ImageRow, TableFile
    from qmamba.models import ScoreScale


class Order(str, Enum):
    """Order of the rows."""

    input = "input"
    best = "best"
    worst = "worst"


class Screen(Protocol):
    """A form of output on standard output."""

    def add(self, row: ImageRow) -> None:
        """Write one row."""

    def close(self) -> None:
        """Write what belongs at the end."""


class JsonScreen:
    """One JSON array; each object stands on a line of its own."""

    def __init__(self) -> None:
        self._before = "[\n"

    def add(self, row: ImageRow) -> None:
        write(self._before + json.dumps(row.to_dict()), sys.stdout)
        self._before = ",\n"

    def close(self) -> None:
        write("[]\n" if self._before == "[\n" else "\n]\n", sys.stdout)


class TextScreen:
    """Aligned text: score, spread over the crops, image and what is to be said about it."""

    def __init__(self, scale: ScoreScale) -> None:
        # Four significant digits over the range of the scale.
        self._decimals = min(6, max(0, 4 - round(math.log10(scale.high - scale.low))))
        write(f"{'score':>9}  {'spread':>9}  image\n", sys.stdout)

    def add(self, row: ImageRow) -> None:
        name = shown(row.image)
        if row.score is None:
            line = f"{'error':>9}  {'-':>9}  {name}: {shown(row.error or '')}"
        else:
            said = [] if row.score.reasons is None else [row.score.reasons.sentence]
            if row.score.native is not None:
                whole = self._number(row.score.whole)
                said.append(f"whole {whole}, native quality {row.score.native:.2f}")
            notes = "; ".join([*said, *row.score.notes])
            notes = f"  [{shown(notes)}]" if notes else ""
            value, spread = self._number(row.score.score), self._number(row.score.crop_spread)
            line = f"{value:>9}  {spread:>9}  {name}{notes}"
        write(line + "\n", sys.stdout)

    def close(self) -> None:
        pass

    def _number(self, value: float | None) -> str:
        return "-" if value is None else f"{value:.{self._decimals}f}"


class Report:
    """Hands every row to the table file at once, and to the screen at once or sorted at the end.

    Use it as a context manager inside that of the table. When the block ends early, what was held
    back for sorting is shown still.
    """

    def __init__(self, table: TableFile | None, screen: Screen | None, order: Order) -> None:
        self._table = table
        self._screen = screen
        self._order = order
        self._kept: list[ImageRow] = []

    def add(self, row: ImageRow) -> None:
        """Take the next row."""
        if self._table is not None:
            self._table.write(row)
        self.show(row)

    def show(self, row: ImageRow) -> None:
        """Take a row that is in the table already."""
        if self._order is not Order.input:
            self._kept.append(row)
        elif self._screen is not None:
            self._screen.add(row)

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        rows = sorted(self._kept, key=partial(_rank, worst=self._order is Order.worst))
        if self._table is not None and self._order is not Order.input and kind is None:
            self._table.finish(rows)
        if self._screen is not None:
            for row in rows:
                self._screen.add(row)
            self._screen.close()


def _rank(row: ImageRow, worst: bool) -> tuple[bool, float]:
    """Rows with errors come last in either order."""
    if row.score is None:
        return True, 0.0
    ascending = worst == row.score.higher_is_better
    return False, row.score.raw if ascending else -row.score.raw
