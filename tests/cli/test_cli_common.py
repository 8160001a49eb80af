"""Text for the terminal, aligned tables, and the progress display."""

from __future__ import annotations

import io

import pytest

from qmamba.cli.common import Progress, shown, table_lines, write


class Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photo 1.png", "photo 1.png"),
        ("图.png", "图.png"),
        ("a\nb\t\x1b[2J", r"a\nb\t\x1b[2J"),
        ("\udcff", r"\udcff"),
    ],
)
def test_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_write_escapes_what_the_encoding_lacks() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    write("ü\n", stream)
    assert raw.getvalue() == b"\\xfc\n"


def test_table_lines() -> None:
    lines = table_lines(("name", "n"), [("a", "1"), ("longer", "12,345")])
    assert lines == ["name         n", "a            1", "longer  12,345"]


def test_bar_on_a_terminal() -> None:
    screen, clock = Screen(True), Clock()
    progress = Progress(200, screen, clock)
    progress.update(1, 0)
    assert screen.getvalue() == ""
    clock.now += 10
    progress.update(100, 3)
    assert screen.getvalue() == (
        "\r[############............] 100/200 images, 10.0/s, 0:10 left, 3 failed"
    )
    clock.now += 0.01
    progress.update(101, 3)
    length = len(screen.getvalue())
    progress.clear()
    assert screen.getvalue()[length:] == "\r" + " " * (length - 1) + "\r"
    progress.clear()
    assert screen.getvalue().count("\r") == 3


def test_lines_elsewhere() -> None:
    screen, clock = Screen(False), Clock()
    progress = Progress(None, screen, clock)
    for done in range(1, 31):
        clock.now += 1
        progress.update(done, 0)
    progress.clear()
    assert screen.getvalue().splitlines() == [f"{n} images, 1.0/s" for n in (10, 20, 30)]
