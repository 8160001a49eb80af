"""`python -m qmamba` is the command `qmamba`."""

from qmamba.cli import main

main()
