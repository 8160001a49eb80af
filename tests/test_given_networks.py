"""What users hand to Scorer, Restorer, load and prepare in place of what these take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qmamba import Restorer, Scorer, load
from qmamba.assess import CropsPolicy
from qmamba.assess.policies import parse_policy
from qmamba.errors import ConfigError
from qmamba.inference import prepare
from qmamba.models import Network, QMamba
from tests.assess.samples import tiny_model
from tests.restore.stand_ins import StandIn

TAKERS = {Scorer: "Scorer.from_pretrained", Restorer: "Restorer.from_pretrained", prepare: "load"}


@pytest.mark.parametrize("taker", TAKERS)
def test_no_network(taker: Any) -> None:
    network = tiny_model()
    cases = (
        ("file.safetensors", rf"{TAKERS[taker]}\('file.safetensors'\) loads it"),
        (Path("a") / "b.pth", rf"{TAKERS[taker]}\('a/b.pth'\) loads it"),
        (None, rf"{TAKERS[taker]}\(\) loads the embedded weights"),
        (network.state_dict(), "a state dict; create_model"),
        (QMamba, "the class QMamba; create_model"),
        (nn.Linear(2, 2), "a Linear; "),
        (nn.DataParallel(network), r"a DataParallel; give its \.module"),
        (3, "a int; "),
    )
    for given, message in cases:
        with pytest.raises(ConfigError, match=rf"takes a network, not .*{message}"):
            taker(given)


def test_one_in_place_of_the_other() -> None:
    restorer = Restorer(StandIn())
    for taker in (Scorer, Restorer, prepare):
        with pytest.raises(ConfigError, match=r"a Restorer; give its \.model"):
            taker(restorer)  # type: ignore[arg-type]


@pytest.mark.parametrize("taker", [Scorer, Restorer])
def test_options_without_their_names(taker: Any) -> None:
    with pytest.raises(ConfigError, match=r"a ModelMetadata, got 'crops:5'; give options by"):
        taker(tiny_model(), "crops:5")


@pytest.mark.parametrize("loader", [load, Scorer.from_pretrained, Restorer.from_pretrained])
def test_no_name(loader: Any) -> None:
    for given, message in ((tiny_model(), "not as a QMamba"), ({}, "a dict"), (b"name", "a bytes")):
        with pytest.raises(ConfigError, match=f"a name, a path or a hub id, .*{message}"):
            loader(given)
    with pytest.raises(ConfigError, match="not as None"):
        load(None)  # type: ignore[arg-type]


def test_no_policy(tmp_path: Path) -> None:
    model: Network = Scorer.from_pretrained("qmamba-nano").model
    for policy in (tmp_path, CropsPolicy, 5):
        with pytest.raises(ConfigError, match="A policy is a text such as crops:count=5 or a"):
            Scorer(model, policy=policy)  # type: ignore[arg-type]
    own = Scorer(model).policy
    assert Scorer(model, policy="crops:3").policy == parse_policy("crops:3", own)
    with torch.no_grad():
        assert Scorer(model, model.metadata).scale.high > 0
