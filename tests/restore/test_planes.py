"""Gray, color and alpha through networks of one and three channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qmamba.errors import ImageError
from qmamba.images import resize_to
from qmamba.restore.planes import Alpha, PlaneNetwork
from tests.models.micro_mambair import images
from tests.restore.stand_ins import StandIn, identity


def plane_network(
    model: StandIn, *, ensemble: bool = False, alpha: Alpha = "resample"
) -> PlaneNetwork:
    return PlaneNetwork(
        model,
        channels=model.config.channels,
        scale=model.config.scale,
        device=torch.device("cpu"),
        ensemble=ensemble,
        alpha=alpha,
    )


@torch.no_grad()
def test_gray_through_colors() -> None:
    model = identity()
    model.change = lambda image: image + torch.tensor([0.0, 0.1, 0.2]).view(3, 1, 1)
    image = images(1, 9, 7) * 0.5
    assert torch.allclose(plane_network(model)(image), image + 0.1)


@torch.no_grad()
def test_colors_through_gray_keep_their_chroma() -> None:
    model = identity(1)
    model.change = lambda luma: 0.8 * luma + 0.1
    image = 0.25 + 0.5 * images(3, 9, 7)
    result = plane_network(model)(image)
    difference = result - image
    assert torch.allclose(difference, difference[:1].expand(3, -1, -1), atol=1e-6)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    luma = (weights * image).sum(0)
    assert torch.allclose((weights * result).sum(0), 0.8 * luma + 0.1, atol=1e-6)


@torch.no_grad()
def test_enlarged_colors_through_gray() -> None:
    image = images(3, 9, 7)
    result = plane_network(StandIn(scale=3, channels=1))(image)
    assert torch.allclose(result, resize_to(image, (27, 21)).clamp(0, 1), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("alpha", ["resample", "restore"])
def test_alpha(alpha: Alpha) -> None:
    model = StandIn()
    model.change = lambda image: image * 0.5
    planes = torch.cat([torch.full((3, 8, 8), 0.8), images(1, 8, 8)])
    result = plane_network(model, alpha=alpha)(planes, True)
    assert result.shape == (4, 16, 16)
    assert torch.allclose(result[:3], torch.full((3, 16, 16), 0.4), atol=1e-6)
    factor = 0.5 if alpha == "restore" else 1.0
    expected = (resize_to(planes[3:], (16, 16)) * factor).clamp(0, 1)
    assert torch.allclose(result[3:], expected, atol=1e-6)


@torch.no_grad()
def test_alpha_is_kept_exactly_where_the_size_stays() -> None:
    planes = torch.rand(2, 5, 9)
    assert torch.equal(plane_network(identity())(planes, True)[1], planes[1])


@torch.no_grad()
def test_hidden_colors_do_not_reach_the_visible_edge() -> None:
    colors = torch.zeros(3, 17, 23)
    colors[:, :, :11] = torch.tensor([0.9, 0.5, 0.2]).view(3, 1, 1)
    alpha = torch.zeros(1, 17, 23)
    alpha[:, :, :11] = 1
    result = plane_network(StandIn())(torch.cat([colors, alpha]), True)
    for channel, value in enumerate((0.9, 0.5, 0.2)):
        assert torch.allclose(result[channel], torch.full((34, 46), value), atol=1e-5)


@torch.no_grad()
def test_image_that_is_nowhere_visible() -> None:
    planes = torch.cat([images(3, 4, 4), torch.zeros(1, 4, 4)])
    assert torch.equal(plane_network(identity())(planes, True), planes)


@torch.no_grad()
def test_ensemble_is_the_mean_over_the_symmetries() -> None:
    ramp = torch.linspace(0, 0.3, 6)

    def uneven(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        return image + ramp[:height, None] + 2 * ramp[None, :width]

    model = identity()
    model.change = uneven
    image = torch.zeros(3, 4, 6)
    result = plane_network(model, ensemble=True)(image)
    assert {shape[2:] for shape in model.calls} == {(4, 6), (6, 4)} and len(model.calls) == 8
    for axes in ((1,), (2,), (1, 2)):
        assert torch.allclose(result, result.flip(axes), atol=1e-6)
    turned = plane_network(model, ensemble=True)(image.transpose(1, 2))
    assert torch.allclose(turned, result.transpose(1, 2), atol=1e-6)
    assert torch.equal(plane_network(StandIn(), ensemble=True)(image), torch.zeros(3, 8, 12))


@torch.no_grad()
def test_results_are_cut_to_the_range() -> None:
    model = identity()
    model.change = lambda image: 3 * image - 1
    result = plane_network(model)(images(3, 8, 8))
    assert result.aminmax() == (torch.zeros(()), torch.ones(()))


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_an_error(value: float) -> None:
    model = identity()

    def broken(image: Tensor) -> Tensor:
        image = image.clone()
        image[..., 0, 0] = value
        return image

    model.change = broken
    with pytest.raises(ImageError, match="not finite"):
        plane_network(model)(images(3, 8, 8))
