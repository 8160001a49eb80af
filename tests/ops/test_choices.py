"""What the rules for the kernels' configurations promise, for all registered models and others."""

from __future__ import annotations

import importlib.util

import pytest

from qmamba.models import list_models, model_config
from qmamba.models.mambair.config import RestorationConfig
from qmamba.models.qmamba.config import QMambaConfig
from qmamba.ops.triton.choices import autotuned, backward_choice, scan_choice
from qmamba.ops.triton.launch import save_steps

WARP = 32


def widths() -> set[tuple[int, int]]:
    """Channels and states of every scan of a registered model."""
    found = {(channels, states) for channels in (1, 20, 33, 100, 4096) for states in (1, 2, 3, 64)}
    for config in map(model_config, list_models()):
        if isinstance(config, QMambaConfig):
            found |= {(int(dim * config.expansion), config.state_size) for dim in config.dims}
        elif isinstance(config, RestorationConfig):
            found.add((int(config.expansion * config.dim), config.state_size))  # type: ignore[attr-defined]
    return found


def test_programs_lie_along_the_channels_and_tiles_divide_what_is_saved() -> None:
    assert len(widths()) > 30
    for channels, states in widths():
        for save in (0, save_steps(states)):
            choice = scan_choice(channels, states, save)
            assert choice.block == WARP * choice.vector * choice.warps
            assert choice.tile in (16, 32) and (save == 0 or save % choice.tile == 0)
            assert choice.vector * choice.tile <= 32
            # A block that is half empty computes for nothing.
            assert choice.block <= max(WARP, 2 * channels)


@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("tile", [16, 32])
def test_the_way_back(block: int, tile: int) -> None:
    vector, warps, _ = backward_choice(block, tile)
    assert block == WARP * vector * warps and vector * tile <= 32 and warps >= 1


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_every_choice_is_among_those_that_trials_know() -> None:
    from qmamba.ops.triton.configurations import BACKWARD_CONFIGURATIONS, SCAN_CONFIGURATIONS

    def known(configurations: list[object]) -> set[str]:
        return {str(configuration) for configuration in configurations}

    from qmamba.ops.triton import configurations

    for channels, states in widths():
        for save in (0, save_steps(states)):
            values = {"channels": channels, "STATES": states, "SAVE": save}
            assert str(configurations.scan.rule(values)) in known(SCAN_CONFIGURATIONS)
    for block in (32, 64, 128):
        for tile in (16, 32):
            values = {"BLOCK_D": block, "TILE": tile}
            assert str(configurations.scan_backward.rule(values)) in known(BACKWARD_CONFIGURATIONS)


def test_trials_have_to_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QMAMBA_AUTOTUNE", raising=False)
    assert not autotuned()
    monkeypatch.setenv("QMAMBA_AUTOTUNE", "0")
    assert not autotuned()
    monkeypatch.setenv("QMAMBA_AUTOTUNE", "1")
    assert autotuned()
