"""Tuned models: identity at the start, what is trained and what never changes."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from qmamba.errors import ConfigError
from qmamba.inference import PreparedQMamba, prepare
from qmamba.models import QMamba
from qmamba.nn.scale_shift import ScaleShift, without_scale_shift
from qmamba.ops.native import library
from qmamba.prompts import PromptMixture, StylePrompt, TuningConfig, attach
from tests.models.micro import images
from tests.prompts.samples import BASE, TUNINGS, base_model, copies, tuned_model

needs_kernel = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


@pytest.fixture(scope="module")
def base() -> QMamba:
    return base_model()


@pytest.fixture(params=TUNINGS)
def tuning(request: pytest.FixtureRequest) -> TuningConfig:
    return TUNINGS[request.param]


@pytest.mark.parametrize("size", [(40, 48), (33, 27)])
@torch.no_grad()
def test_the_start_is_the_base_exactly(
    base: QMamba, tuning: TuningConfig, size: tuple[int, int]
) -> None:
    batch = images(2, 3, *size)
    assert torch.equal(tuned_model(base, tuning)(batch), base(batch))


def test_training_changes_what_is_trained_and_nothing_else(
    base: QMamba, tuning: TuningConfig
) -> None:
    before, batch = copies(base.state_dict()), images(4, 3, 32, 24)
    model = tuned_model(base, tuning).train()
    start = copies(model.state_dict())
    trained = model.trained_state()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(trained)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        (model(batch) - torch.tensor([[3.0], [-2.0], [5.0], [-4.0]])).square().mean().backward()
        optimizer.step()
    state = model.state_dict()
    for key, value in start.items():
        # A kernel on a map of one pixel has a gradient in its middle alone, and decays elsewhere.
        assert torch.equal(state[key], value) != (key in trained), key
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())


def test_gradients_reach_every_tensor(base: QMamba, tuning: TuningConfig) -> None:
    model = tuned_model(base, tuning, moved=True)
    model(images(3, 3, 24, 40)).square().sum().backward()
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert (grad is not None) == parameter.requires_grad, name
        # The softmax of the keys does not see what all keys share.
        if grad is not None and not name.endswith("key.bias"):
            assert bool(grad.abs().max() > 0), name


def test_keys_of_the_base_stay(base: QMamba, tuning: TuningConfig) -> None:
    model = tuned_model(base, tuning)
    extra = [key for key in model.state_dict() if key not in base.state_dict()]
    assert set(base.state_dict()) <= set(model.state_dict())
    assert set(extra) <= set(model.trained_state())
    assert all(key.startswith("prompts.") or key.endswith((".scale", ".shift")) for key in extra)


def test_frozen_tensors_share_the_memory_of_the_base(base: QMamba, tuning: TuningConfig) -> None:
    first, second = tuned_model(base, tuning).state_dict(), tuned_model(base, tuning).state_dict()
    trained = tuned_model(base, tuning).trained_state()
    for key, tensor in base.state_dict().items():
        shares = tensor.data_ptr() == first[key].data_ptr() == second[key].data_ptr()
        assert shares == (key not in trained), key
    assert all(first[key].data_ptr() != second[key].data_ptr() for key in trained)


def test_the_flags_of_the_base_stay() -> None:
    base = base_model()
    attach(base, TuningConfig(width=4))
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_a_frozen_backbone_drops_no_paths() -> None:
    base = QMamba(BASE.replace(drop_path=0.5))
    batch = images(16, 3, 16, 16)
    frozen = attach(base, TuningConfig(width=4)).train()
    assert torch.equal(frozen(batch), frozen(batch))
    free = attach(base, TuningConfig("full")).train()
    assert not torch.equal(free(batch), free(batch))


def test_a_tuned_model_is_no_base(base: QMamba) -> None:
    with pytest.raises(ConfigError, match="tune the model that it was made from"):
        attach(tuned_model(base, TuningConfig(width=4)), TuningConfig(width=4))


@needs_kernel
@torch.no_grad()
def test_prepared_inference_is_the_same(base: QMamba, tuning: TuningConfig) -> None:
    model, batch = tuned_model(base, tuning, moved=True), images(2, 3, 43, 29)
    assert not torch.equal(model(batch), base(batch))
    prepared = prepare(model)
    assert isinstance(prepared, PreparedQMamba)
    assert_close(prepared(batch), model(batch), rtol=1e-4, atol=2e-5)
    # Values of the scan grow in bfloat16 as they do for the base.
    assert_close(prepare(model, "bf16")(batch), model(batch), rtol=0.1, atol=0.1)


@torch.no_grad()
def test_stages_have_the_prompts_in_them(base: QMamba) -> None:
    model, batch = tuned_model(base, TUNINGS["style"], moved=True), images(1, 3, 64, 64)
    last = list(model.stages(batch))[-1].output
    assert torch.equal(model.classifier(last), model(batch))


@torch.no_grad()
def test_scale_and_shift_fold_into_plain_layers(base: QMamba) -> None:
    model, batch = tuned_model(base, TUNINGS["ssf"], moved=True), images(2, 3, 40, 40)
    folded = without_scale_shift(model)
    assert not any(isinstance(layer, ScaleShift) for layer in folded.modules())
    assert_close(folded(batch), model(batch), rtol=1e-4, atol=1e-5)
    assert without_scale_shift(base) is base


def test_style_prompt_is_its_formula() -> None:
    torch.manual_seed(0)
    prompt, x = StylePrompt(8, components=3, width=4), torch.randn(2, 5, 6, 8)
    torch.nn.init.normal_(prompt.gamma.weight)
    torch.nn.init.normal_(prompt.beta.weight)
    mixture = prompt.prompt
    w = torch.softmax(mixture.predictor(x.mean((1, 2))), -1)
    fused = (w[:, :, None] * mixture.components[:, 0, 0]).sum(1)
    middle = prompt.convolution
    assert middle.bias is not None
    convolved = fused @ middle.weight[:, :, 1, 1].T + middle.bias
    gamma, beta = prompt.gamma(convolved), prompt.beta(convolved)
    expected = x * (1 + gamma[:, None, None]) + beta[:, None, None]
    assert_close(prompt(x), expected, rtol=1e-5, atol=1e-5)


def test_weights_of_the_components_sum_to_one() -> None:
    mixture = PromptMixture(8, 5, 4)
    weights = mixture.weights(10 * torch.randn(3, 4, 4, 8))
    assert weights.shape == (3, 5) and bool((weights > 0).all())
    assert_close(weights.sum(1), torch.ones(3))


def test_large_prompts_vary_over_the_map() -> None:
    torch.manual_seed(0)
    for size, varies in (((1, 1), False), ((7, 7), True)):
        prompt = StylePrompt(8, 2, 4, size)
        torch.nn.init.normal_(prompt.beta.weight)
        shift = prompt(torch.zeros(1, 9, 12, 8))
        assert shift.shape == (1, 9, 12, 8)
        assert bool((shift - shift[:, :1, :1]).abs().max() > 1e-4) == varies


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "stil"}, "method must be 'none' or 'probe'"),
        ({"method": ["style"]}, "method must be"),
        ({"regressor": 1}, "regressor must be true or false"),
        ({"method": "none", "regressor": True}, "choose probe"),
        ({"method": "full", "regressor": True}, "trains it anyway"),
        ({"prompts": 0}, "prompts must be a whole number from 1"),
        ({"width": 10**9}, "width must be a whole number"),
        ({"size": (0, 7)}, "size must be a whole number"),
        ({"size": "large"}, "a height and a width or 'layer'"),
        ({"size": (7,)}, "a height and a width or 'layer'"),
        ({"method": "convolution", "size": (7, 7)}, "Only style has a size"),
    ],
)
def test_wrong_tunings(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TuningConfig(**options)  # type: ignore[arg-type]


def test_a_tuning_as_json(tuning: TuningConfig) -> None:
    assert TuningConfig.from_dict(tuning.to_dict()) == tuning
    wrong: list[object] = [{}, [], {**tuning.to_dict(), "more": 1}]
    for values in wrong:
        with pytest.raises(ConfigError, match="exactly the fields"):
            TuningConfig.from_dict(values)
