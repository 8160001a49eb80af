"""What is there to run the experiments with: data sets, and weights to start from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from qmamba.datasets import RatedDataset, Split, find_datasets, read_dataset, split_by_content
from qmamba.errors import DataError
from qmamba.models import model_config
from qmamba.models.loda.config import LoDaConfig
from qmamba.models.timm.config import TimmConfig
from qmamba.reproduce.plan import Training
from qmamba.reproduce.protocol import TRAIN_SHARE, Protocol

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
BUILT_ON = {"loda": ("vit-base", "resnet-50")}
"""Models that start from the weights of others."""


@dataclass(frozen=True)
class Sources:
    """What was found."""

    datasets: Mapping[str, RatedDataset]
    """Complete data sets by name."""
    problems: Mapping[str, str]
    """Why a data set cannot be used, by name."""
    weights: Path | None = None
    """Folder with ImageNet weights, a file per model, named after it."""
    fresh: bool = False
    """Start from random weights where there are none."""

    def start(self, model: str) -> tuple[Path, ...]:
        """The files that a model starts from, none for random weights.

        A model that is built on others starts from theirs where it has no file of its own.
        """
        own = self._file(model)
        if own is not None:
            return (own,)
        parts = [self._file(part) for part in BUILT_ON.get(model, ())]
        found = tuple(part for part in parts if part is not None)
        return found if len(found) == len(parts) else ()

    def _file(self, model: str) -> Path | None:
        if self.weights is None:
            return None
        paths = (self.weights / f"{model}{suffix}" for suffix in WEIGHT_SUFFIXES)
        return next((path for path in paths if path.is_file()), None)

    def missing(self, training: Training, tests: Iterable[str] = ()) -> list[str]:
        """What a training and its tests lack, one phrase each; its base is asked, too."""
        lacking: dict[str, None] = {}
        for name in (*training.sets, *tests):
            if name not in self.datasets:
                lacking[self.problems.get(name, f"{name} is not there")] = None
        if training.base is not None:
            lacking.update(dict.fromkeys(self.missing(training.base)))
            return list(lacking)
        if (
            isinstance(model_config(training.model), TimmConfig | LoDaConfig)
            and find_spec("timm") is None
        ):
            lacking[f'{training.model} needs timm (pip install "qmamba[timm]")'] = None
        if not self.fresh and not self.start(training.model):
            wanted = " and ".join(BUILT_ON.get(training.model, ()))
            of = f" (its own, or those of {wanted})" if wanted else ""
            lacking[f"no weights to start {training.model} from{of}"] = None
        return list(lacking)


def find_sources(
    root: Path, names: Iterable[str], *, weights: Path | None = None, fresh: bool = False
) -> Sources:
    """Look for data sets at or below a folder and read their label files.

    Args:
        root: folder at or up to three levels above the data sets.
        names: the data sets that are wanted.
        weights: folder with weights to start from.
        fresh: start from random weights where there are none.

    Raises:
        DataError: a folder does not exist.
    """
    if weights is not None and not weights.is_dir():
        raise DataError(f"The folder of weights {str(weights)!r} does not exist.")
    folders = find_datasets(root)
    datasets: dict[str, RatedDataset] = {}
    problems: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if name not in folders:
            problems[name] = f"{name} is not in {str(root)!r}"
            continue
        try:
            datasets[name] = read_dataset(name, folders[name])
        except DataError as error:
            problems[name] = f"{name} cannot be used ({str(error).rstrip('.')})"
    return Sources(datasets, problems, weights, fresh)


def parts(dataset: RatedDataset, seed: int, protocol: Protocol) -> Split:
    """The training and test positions of a data set that a run with this seed uses."""
    split = split_by_content(dataset, seed, TRAIN_SHARE)
    return Split(
        split.rule,
        train=protocol.chosen(split.train),
        test=protocol.chosen(split.test),
        seed=split.seed,
        train_share=split.train_share,
    )
