"""What the tables of the paper need: trainings, and what each is tested on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from qmamba.errors import ConfigError
from qmamba.models import count_flops, count_parameters, model_config
from qmamba.models.loda.config import LoDaConfig
from qmamba.models.qmamba.config import QMambaConfig
from qmamba.prompts import TuningConfig, count_tuned
from qmamba.reproduce.paper_tables import MIXED, TABLES, TRANSFERS, Column, PaperRow, PaperTable

MODELS = {
    **{f"ResNet-{depth}": f"resnet-{depth}" for depth in (50, 101, 152)},
    **{
        f"{family}-{letter}": f"{family.lower()}-{size}"
        for family in ("ViT", "Swin", "QMamba", "LQMamba")
        for letter, size in (("T", "tiny"), ("S", "small"), ("B", "base"))
    },
    "DEIQT": "deiqt",
    "LoDa": "loda",
    "EfficientNet-Lite0": "efficientnet-lite0",
}
"""Our names of the models that rows are called after."""

BESIDE = ("EfficientNet-Lite0",)
"""Rows that the paper has not, below its own where models are compared: a network whose ImageNet
weights are a Python package, so that a pretrained row can be run without a download by hand."""

UNTUNED = ("DEIQT", "LoDa")
"""Rows of the tables of tunings that are models tested without one."""

TRANSFER_MODEL = "lqmamba-base"
"""The model that is tuned; the paper's parameter counts of its prompts fit no other."""

TUNINGS = {
    "Without_tuning": TuningConfig("none"),
    "Lin_Probe(R)": TuningConfig("probe"),
    "Full tuning": TuningConfig("full"),
    "StylePrompt": TuningConfig("style"),
    "StylePrompt & R": TuningConfig("style", regressor=True),
    "SSF": TuningConfig("ssf"),
    "Crossattn_Prompt": TuningConfig("cross-attention"),
    "Conv_Prompt": TuningConfig("convolution"),
    **{f"N={count}": TuningConfig(prompts=count) for count in (1, 2, 4, 6, 8, 10)},
    **{f"({side},{side})": TuningConfig(size=(side, side)) for side in (1, 7, 14, 28)},
    "layer_HW": TuningConfig(size="layer"),
}
"""The tunings that rows of the paper are called after."""

TRANSFER_TABLES = ("table3", "table4", "table7", "table8", "table9", "table10")
FIGURE_MODELS = ("resnet-50", "vit-small", "swin-tiny", "qmamba-tiny")
"""One backbone of each family, of like size, for figure 3."""
FIGURE_SET = "kadid10k"

NOT_HERE = "a method that is not part of this package"


@dataclass(frozen=True)
class Training:
    """One training run."""

    model: str
    """Named model."""
    sets: tuple[str, ...]
    """Data sets whose training parts it learns, in the order of the paper."""
    seed: int
    """Seed of the split and of the run."""
    tuning: TuningConfig | None = None
    """What is trained of the base; None where the whole model is trained."""
    base: Training | None = None
    """The training whose result is tuned."""

    @property
    def key(self) -> str:
        """A name for files, different for every training."""
        if self.base is None or self.tuning is None:
            return f"{self.model}_{'+'.join(self.sets)}_seed{self.seed}"
        tuning = self.tuning
        parts = [self.base.key, "to", "+".join(self.sets), tuning.method]
        if tuning.method in ("style", "convolution", "cross-attention"):
            size = tuning.size if tuning.size == "layer" else "x".join(map(str, tuning.size))
            parts += [f"n{tuning.prompts}", f"w{tuning.width}", size]
        return "_".join([*parts, *(["r"] if tuning.regressor else [])])

    def with_seed(self, seed: int) -> Training:
        """The same training, and its base, with another seed."""
        base = None if self.base is None else self.base.with_seed(seed)
        return replace(self, seed=seed, base=base)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON."""
        return {
            "model": self.model,
            "sets": list(self.sets),
            "seed": self.seed,
            "tuning": None if self.tuning is None else self.tuning.to_dict(),
            "base": None if self.base is None else self.base.to_dict(),
        }


@dataclass(frozen=True)
class Measurement:
    """The correlations of one training's result on the test part of one data set."""

    training: Training
    test: str

    @property
    def key(self) -> str:
        """A name for files, different for every measurement."""
        return f"{self.training.key}_on_{self.test}"


def paper_table(name: str) -> PaperTable:
    """The table with this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TABLES:
        raise ConfigError(f"The paper has no {name!r}; give figure3 or one of {', '.join(TABLES)}.")
    return TABLES[name]


def rows_of(table: PaperTable, pattern: str = "*") -> list[PaperRow]:
    """The rows whose label fits a shell pattern, or one of several with ``|`` between them.

    Those of :data:`BESIDE` come after the paper's, without figures.

    Raises:
        ConfigError: none does.
    """
    present = list(table.rows)
    if table.name not in TRANSFER_TABLES:
        present += [PaperRow(label, (None,) * len(table.columns)) for label in BESIDE]
    rows = [row for row in present if _fits(row.label, pattern)]
    if not rows:
        labels = ", ".join(row.label for row in present)
        raise ConfigError(f"No row of {table.name} fits {pattern!r}; its rows are {labels}.")
    return rows


def _fits(name: str, pattern: str) -> bool:
    """Whether one of the alternatives of a pattern fits, whatever the case."""
    alternatives = pattern.lower().split("|")
    return any(fnmatchcase(name.lower(), alternative.strip()) for alternative in alternatives)


def is_ours(table: PaperTable, row: PaperRow) -> bool:
    """Whether the row's method is part of this package."""
    if table.name in TRANSFER_TABLES and row.label in TUNINGS:
        return True
    return row.label in (UNTUNED if table.name in TRANSFER_TABLES else MODELS)


def members(table: PaperTable, column: Column) -> tuple[Column, ...]:
    """The columns of correlations that a column is the mean of; itself if it is no mean."""
    if column.test:
        return (column,)
    if table.name in TRANSFER_TABLES:
        columns = TRANSFERS
    elif table.name == "table2":
        columns = TABLES["table6"].columns
    else:
        columns = table.columns
    return tuple(each for each in columns if each.test and column.metric in ("mean", each.metric))


def measurement(table: PaperTable, row: PaperRow, column: Column, seed: int) -> Measurement:
    """Where a correlation of a row of ours comes from."""
    if table.name not in TRANSFER_TABLES:
        sets = MIXED if table.name in ("table2", "table6") else (column.test,)
        return Measurement(Training(MODELS[row.label], sets, seed), column.test)
    if row.label in UNTUNED:
        return Measurement(Training(MODELS[row.label], column.train, seed), column.test)
    tuning = TUNINGS[row.label]
    base = Training(TRANSFER_MODEL, column.train, seed)
    if tuning.method == "none":
        return Measurement(base, column.test)
    tuned = Training(TRANSFER_MODEL, (column.test,), seed, tuning, base)
    return Measurement(tuned, column.test)


def measurements(
    table: PaperTable, seeds: int, pattern: str = "*"
) -> dict[Training, tuple[str, ...]]:
    """What a table needs: every training that is tested, and the data sets that it is tested on.

    Means over columns of other tables need what those tables need, and are left out where they have
    columns of correlations of their own.
    """
    columns = [column for column in table.columns if column.test]
    if not columns:
        columns = [each for column in table.columns for each in _averaged(table, column)]
    needed: dict[Training, dict[str, None]] = {}
    for seed in range(seeds):
        for row in rows_of(table, pattern):
            for column in columns if is_ours(table, row) else ():
                found = measurement(table, row, column, seed)
                needed.setdefault(found.training, {})[found.test] = None
    return {training: tuple(tests) for training, tests in needed.items()}


def with_bases(trainings: Iterable[Training]) -> list[Training]:
    """The trainings in an order in which every base comes before what is tuned on it."""
    ordered: dict[Training, None] = {}
    for training in trainings:
        if training.base is not None:
            ordered[training.base] = None
        ordered[training] = None
    return sorted(ordered, key=lambda training: training.base is not None)


def figure_trainings(pattern: str = "*") -> dict[Training, tuple[str, ...]]:
    """What figure 3 needs, for the backbones that fit a pattern; features need no tests.

    Raises:
        ConfigError: none fits.
    """
    models = [model for model in FIGURE_MODELS if _fits(model, pattern)]
    if not models:
        raise ConfigError(
            f"No backbone of figure 3 fits {pattern!r}; it has {', '.join(FIGURE_MODELS)}."
        )
    return {Training(model, (FIGURE_SET,), 0): () for model in models}


def cost_figure(table: PaperTable, row: PaperRow, column: Column) -> float | None:
    """Our parameters in 10^6 or multiply-adds in 10^9, as the paper counts them, if ours."""
    if not is_ours(table, row):
        return None
    if table.name in TRANSFER_TABLES and row.label in TUNINGS:
        return _tuned_parameters(TUNINGS[row.label]) / 1e6
    if column.metric == "gflops":
        return count_flops(model_config(MODELS[row.label])).paper / 1e9
    return _parameters(MODELS[row.label]) / 1e6


@cache
def _parameters(model: str) -> int:
    config = model_config(model)
    # The paper counts what learns.
    return (
        config.trainable_parameters if isinstance(config, LoDaConfig) else count_parameters(config)
    )


@cache
def _tuned_parameters(tuning: TuningConfig) -> int:
    config = model_config(TRANSFER_MODEL)
    assert isinstance(config, QMambaConfig)
    return count_tuned(config, tuning)


def _averaged(table: PaperTable, column: Column) -> tuple[Column, ...]:
    return () if column.metric in ("parameters", "gflops") else members(table, column)
