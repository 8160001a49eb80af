"""The tables and figure 3 of the QMamba paper, run again and laid beside its own figures."""

from qmamba.reproduce.experiment import EXPERIMENTS, Plan, Step, make_plan, run_plan
from qmamba.reproduce.plan import Measurement, Training
from qmamba.reproduce.protocol import Protocol
from qmamba.reproduce.runner import Conditions, InterruptedRunError, Laboratory
from qmamba.reproduce.sources import Sources, find_sources

__all__ = [
    "EXPERIMENTS",
    "Conditions",
    "InterruptedRunError",
    "Laboratory",
    "Measurement",
    "Plan",
    "Protocol",
    "Sources",
    "Step",
    "Training",
    "find_sources",
    "make_plan",
    "run_plan",
]
