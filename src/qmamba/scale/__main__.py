"""``python -m qmamba.scale``: a worker, started by a :class:`~qmamba.scale.Runner`."""

from qmamba.scale.worker import main

main()
