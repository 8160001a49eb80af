"""The scorer: accepted inputs, the meaning of the numbers, gradients, and refusals."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import pickle
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba.assess import CropsPolicy, NativePolicy, Score, Scorer
from qmamba.checkpoints import save_model
from qmamba.errors import CheckpointError, ConfigError, ImageError, ShapeError
from qmamba.images import normalize, take_crops, to_tensor
from qmamba.models import ModelMetadata, QMamba, create_model
from tests.assess.samples import SCALE, encoded, pixels, save_tiny, tiny_model, write_image


def test_every_form_of_a_image_gives_the_same_score(scorer: Scorer, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    array = pixels()
    forms: list[Any] = [
        path,
        str(path),
        encoded(),
        io.BytesIO(encoded()),
        Image.fromarray(array),
        Image.open(path),
        array,
        array.astype(np.uint16) * 257,
        array.astype(np.float32) / 255,
        torch.from_numpy(array).permute(2, 0, 1),
        to_tensor(array),
    ]
    scores = [scorer(form) for form in forms]
    assert all(isinstance(score, Score) for score in scores)
    assert len({score.raw for score in scores}) == 1
    assert scores[0].image == str(path) and scores[5].image == str(path)
    assert scores[2].image is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_copies_and_pickles_score_the_same(weights: Path, precision: Any) -> None:
    scorer = Scorer.from_pretrained(weights, precision=precision, policy="crops:3")
    expected = scorer(pixels())
    for other in (copy.copy(scorer), copy.deepcopy(scorer), pickle.loads(pickle.dumps(scorer))):
        assert other(pixels()) == expected
        assert (other.policy, other.scale) == (scorer.policy, scorer.scale)
    assert copy.copy(scorer)._network is scorer._network
    assert copy.deepcopy(scorer).model is not scorer.model


def test_containers(scorer: Scorer) -> None:
    arrays = [pixels(seed=seed) for seed in range(3)]
    listed: Any = scorer(arrays)
    assert isinstance(listed, list)
    assert scorer(tuple(arrays)) == listed
    batches: list[Any] = [np.stack(arrays), torch.stack([to_tensor(array) for array in arrays])]
    for batch in batches:
        assert scorer(batch) == listed
    assert list(scorer(iter(arrays))) == listed
    assert scorer([]) == []
    assert len({score.raw for score in listed}) == 3


def test_iterator_is_lazy(scorer: Scorer) -> None:
    drawn = []

    def images() -> Iterator[np.ndarray]:
        for seed in range(100):
            drawn.append(seed)
            yield pixels(seed=seed)

    scores = scorer(images())
    assert drawn == []
    next(scores)
    next(scores)
    assert len(drawn) == 2


def test_score_is_the_mean_over_the_crops(scorer: Scorer) -> None:
    score = scorer(pixels())
    plan = scorer.policy.plan(80, 96)
    crops = take_crops(to_tensor(pixels()), list(plan.corners), 32)
    with torch.no_grad():
        outputs = scorer._network(normalize(crops))[:, 0].double()
    opinions = (SCALE.target_mean + SCALE.target_std * outputs).tolist()
    assert score.raw == pytest.approx(statistics.mean(opinions), rel=1e-12)
    assert score.crop_spread == pytest.approx(statistics.stdev(opinions), rel=1e-9)
    assert score.score == min(max(score.raw, 0.0), 100.0) == float(score)
    assert (score.width, score.height) == (96, 80)
    assert score.policy == "crops(size=32,count=5,layout=fixed)"
    assert score.scale == (0.0, 100.0) and score.higher_is_better


def test_score_is_clamped_and_raw_is_not(weights: Path) -> None:
    scorer = Scorer.from_pretrained(weights)
    metadata = dataclasses.replace(
        scorer.metadata, score=dataclasses.replace(SCALE, low=200, high=201)
    )
    score = Scorer(scorer.model, metadata)(pixels())
    assert score.score == 200 and score.raw < 200


def test_identity_of_the_model_is_in_the_score(scorer: Scorer, weights: Path) -> None:
    import hashlib

    score = scorer(pixels())
    assert score.model == "tiny"
    assert score.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_score_as_dictionary_is_json(scorer: Scorer) -> None:
    values = scorer(pixels(20, 40)).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["notes"] == ["padded from 40x20 by reflection"]


def test_policies(scorer: Scorer, weights: Path) -> None:
    whole = Scorer.from_pretrained(weights, policy="native")(pixels())
    assert whole.crop_spread is None and whole.policy == "native(max_pixels=4194304)"
    with torch.no_grad():
        output = scorer.model(normalize(to_tensor(pixels())[None]))
    assert whole.raw == pytest.approx(50 + 400 * float(output), rel=1e-4)
    small = Scorer.from_pretrained(weights, policy=NativePolicy(max_pixels=1024))(pixels())
    assert small.notes == ("scaled from 96x80 to 32x29", "padded from 32x29 by reflection")
    squeezed = Scorer.from_pretrained(weights, policy="resize:size=32")(pixels())
    assert squeezed.crop_spread is None and squeezed.raw != whole.raw
    many = Scorer.from_pretrained(weights, policy="crops:count=7")
    assert many.policy == CropsPolicy(size=32, count=7)


def test_notes_of_decoding_and_padding(scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "alpha.png"
    Image.fromarray(pixels(20, 20)).convert("RGBA").save(path)
    image = Image.open(path)
    image.putalpha(100)
    image.save(path)
    notes = scorer(path).notes
    assert notes[-1] == "padded from 20x20 by reflection" and len(notes) == 2


def test_one_pixel_has_a_score(scorer: Scorer) -> None:
    score = scorer(pixels(1, 1))
    assert math.isfinite(score.raw) and score.crop_spread is None


def test_gradients_reach_the_pixels_and_spare_the_parameters(scorer: Scorer) -> None:
    plain = scorer(pixels())
    images = to_tensor(pixels())[None].repeat(2, 1, 1, 1).requires_grad_()
    opinions = scorer.score_tensor(images)
    assert opinions.shape == (2,)
    assert opinions.tolist() == pytest.approx([plain.raw] * 2, abs=1e-3)
    opinions.sum().backward()
    assert images.grad is not None and images.grad[0].abs().sum() > 0
    assert torch.allclose(images.grad[0], images.grad[1], rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in scorer.model.parameters())
    with torch.no_grad():
        step = 1e-3 * images.grad / images.grad.abs().max()
        better = scorer.score_tensor((images + step).clamp(0, 1))
    assert (better > opinions).all()


@pytest.mark.parametrize("policy", ["crops", "crops:size=120,count=1", "native", "resize:size=40"])
def test_gradient_is_the_slope(policy: str, weights: Path) -> None:
    scorer = Scorer.from_pretrained(weights, policy=policy)
    scorer.model.double()
    generator = torch.Generator().manual_seed(0)
    image = (0.8 * torch.rand(1, 3, 50, 60, generator=generator, dtype=torch.float64)) + 0.1
    direction = torch.randn(image.shape, generator=generator, dtype=torch.float64)
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(scorer.score_tensor(image).sum(), image)
    step = 1e-5
    with torch.no_grad():
        rise = scorer.score_tensor(image + step * direction) - scorer.score_tensor(
            image - step * direction
        )
    assert float((gradient * direction).sum()) == pytest.approx(float(rise) / (2 * step), rel=1e-5)


def test_scoring_leaves_no_graph_and_eval_mode(weights: Path) -> None:
    model = tiny_model().train()
    metadata = Scorer.from_pretrained(weights).metadata
    scorer = Scorer(model, metadata)
    assert not model.training
    scorer(pixels())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 40, 40),
        torch.zeros(1, 1, 40, 40),
        torch.zeros(0, 3, 40, 40),
        torch.zeros(1, 3, 40, 40, dtype=torch.uint8),
        torch.full((1, 3, 40, 40), 200.0),
        torch.full((1, 3, 40, 40), torch.nan),
    ],
)
def test_score_tensor_refuses(scorer: Scorer, images: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="score_tensor needs"):
        scorer.score_tensor(images)


@pytest.mark.parametrize(
    "image", [3, None, object(), np.zeros(5), np.full((9, 9), 7.0), b"", "missing.png"]
)
def test_bad_images_are_image_errors(scorer: Scorer, image: object) -> None:
    with pytest.raises(ImageError):
        scorer(image)  # type: ignore[call-overload]


def test_list_stops_at_the_bad_image_and_names_it(scorer: Scorer) -> None:
    with pytest.raises(ImageError, match="missing"):
        scorer([pixels(), "missing.png"])


def test_pixel_limit(weights: Path, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    scorer = Scorer.from_pretrained(weights, max_pixels=80 * 96 - 1)
    with pytest.raises(ImageError, match="pixels"):
        scorer(path)


def test_output_that_is_not_finite_is_an_error(weights: Path) -> None:
    model = Scorer.from_pretrained(weights).model
    assert isinstance(model, QMamba)
    model.classifier.head.bias.data.fill_(torch.inf)
    scorer = Scorer(model)
    with pytest.raises(ImageError, match="not finite"):
        scorer(pixels())


def test_memory_shortage_is_an_error_of_the_image(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(scorer, "_network", exhausted)
    with pytest.raises(ImageError, match="memory of cpu"):
        scorer(pixels())


def test_weights_without_a_scale_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'tiny' has no score scale"):
        Scorer.from_pretrained(save_tiny(tmp_path, score=None))
    with pytest.raises(CheckpointError, match="no score scale"):
        Scorer(tiny_model())


def test_restoration_weights_are_refused(tmp_path: Path) -> None:
    model = create_model("mambair-nano-x2", dim=12, depths=(1,))
    path = tmp_path / "restore.safetensors"
    save_model(model, path, metadata=ModelMetadata(name="restore", architecture="mambair"))
    with pytest.raises(CheckpointError, match="'restore' is a MambaIR network"):
        Scorer.from_pretrained(path)


def test_several_outputs_are_refused(scorer: Scorer) -> None:
    with pytest.raises(CheckpointError, match="2 outputs"):
        Scorer(tiny_model(num_outputs=2), scorer.metadata)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "abacus"},
        {"device": "meta"},
        {"policy": "tiles"},
        {"batch_size": 0},
        {"max_pixels": 0},
    ],
)
def test_bad_options(weights: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Scorer.from_pretrained(weights, **options)  # type: ignore[arg-type]
