"""Policies: their texts, their metadata, and the geometry of the views."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmamba.assess import (
    CropsPolicy,
    NativePolicy,
    Policy,
    ResizePolicy,
    parse_policy,
    policy_from_metadata,
    policy_to_metadata,
)
from qmamba.assess.views import cut_views
from qmamba.errors import CheckpointError, ConfigError
from qmamba.images import pad_to, take_crops

sizes = st.integers(1, 400)
policies: st.SearchStrategy[Policy] = st.one_of(
    st.builds(CropsPolicy, size=st.integers(1, 64), count=st.integers(1, 12)),
    st.builds(
        CropsPolicy,
        size=st.integers(1, 64),
        count=st.integers(1, 12),
        layout=st.just("random"),
        seed=st.integers(0, 2**63 - 1),
        shorter=st.none() | st.integers(64, 100),
    ),
    st.builds(CropsPolicy, shorter=st.just(512), native=st.booleans()),
    st.just(parse_policy("fast")),
    st.builds(NativePolicy, max_pixels=st.integers(1024, 200_000)),
    st.builds(ResizePolicy, size=st.integers(32, 300)),
)


@given(policies, st.none() | policies)
def test_text_and_metadata_round_trip(policy: Policy, base: Policy | None) -> None:
    """A text that was written for a reader is whole, whatever the weights' own policy is."""
    assert parse_policy(str(policy), base) == policy
    assert policy_from_metadata(policy_to_metadata(policy)) == policy


@given(policies, sizes, sizes)
@settings(deadline=None)
def test_plan_fits_every_image(policy: Policy, height: int, width: int) -> None:
    plan = policy.plan(height, width)
    rows, columns = plan.scaled or (height, width)
    assert 1 <= len(plan.corners) == len(set(plan.corners))
    for top, left in plan.corners:
        assert 0 <= top <= max(0, rows - plan.view[0])
        assert 0 <= left <= max(0, columns - plan.view[1])
    if isinstance(policy, NativePolicy):
        assert plan.view[0] * plan.view[1] <= policy.max_pixels
    assert ("scaled" in str(plan.notes)) == (plan.scaled is not None) or policy.name == "resize"
    assert ("padded" in str(plan.notes)) == (rows < plan.view[0] or columns < plan.view[1])


@given(policies, st.integers(1, 150), st.integers(1, 150))
@settings(deadline=None, max_examples=40)
def test_views_have_the_planned_shape(policy: Policy, height: int, width: int) -> None:
    plan = policy.plan(height, width)
    views = cut_views(torch.rand(3, height, width), plan)
    assert views.shape == (len(plan.corners), 3, *plan.view)
    assert views.min() >= 0 and views.max() <= 1


@pytest.mark.parametrize("size", [(20, 90), (90, 20), (20, 25), (1, 70)])
def test_cutting_before_padding_changes_nothing(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size)
    plan = CropsPolicy(size=32, count=4).plan(*size)
    padded, _ = pad_to(image, 32)
    assert torch.equal(cut_views(image, plan), take_crops(padded, list(plan.corners), 32))


def test_thin_strip_costs_no_memory() -> None:
    plan = CropsPolicy().plan(1, 50_000_000)
    assert plan.view == (224, 224) and len(plan.corners) == 10
    native = NativePolicy().plan(1, 50_000_000)
    assert native.view == (32, 4_194_304 // 32)


def test_default_text_is_the_documented_one() -> None:
    assert str(CropsPolicy()) == "crops(size=224,count=10,layout=fixed)"


def test_fields_left_out_come_from_the_base() -> None:
    base = CropsPolicy(size=64, count=3, shorter=128)
    assert parse_policy("crops:layout=random", base) == CropsPolicy(64, 3, "random", 0, 128)
    assert parse_policy("crops:shorter=none", base) == CropsPolicy(64, 3)
    assert parse_policy("native", base) == NativePolicy()


def test_shorter_side_is_exact_and_only_shrinks() -> None:
    policy = CropsPolicy(size=224, shorter=384)
    assert policy.plan(3000, 4001).scaled == (384, 512)
    assert policy.plan(384, 4000).scaled is None
    assert policy.plan(100, 100).scaled is None


def test_random_crops_follow_the_seed_alone() -> None:
    first = CropsPolicy(layout="random", seed=1).plan(600, 800)
    assert first == CropsPolicy(layout="random", seed=1).plan(600, 800)
    assert first != CropsPolicy(layout="random", seed=2).plan(600, 800)


def test_image_of_exactly_one_crop_is_one_view() -> None:
    for layout in ("fixed", "random"):
        plan = parse_policy(f"crops:layout={layout}").plan(224, 224)
        assert plan.corners == ((0, 0),) and plan.notes == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "crop",
        "crops:size",
        "crops:size=",
        "crops:size=a",
        "crops:size=0",
        "crops:size=1.5",
        "crops:size=100000",
        "crops:count=100000",
        "crops:layout=grid",
        "crops:seed=-1",
        "crops:seed=1000000000000000000000",
        "crops:size=64,shorter=32",
        "crops(size=3",
        "native:size=3",
        "native:max_pixels=9",
        "resize:size=1",
        "resize:size=100000",
    ],
)
def test_bad_texts(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_policy(text)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"name": "tiles"},
        {"name": "crops", "crop_size": "large"},
        {"name": "crops", "side": 3},
        {"name": "native", "max_pixels": -1},
        {"name": ["crops"]},
    ],
)
def test_bad_metadata(entry: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="polic"):
        policy_from_metadata(entry)


def test_short_forms() -> None:
    assert parse_policy("crops:5") == CropsPolicy(count=5)
    assert parse_policy("crops:5,layout=random") == CropsPolicy(count=5, layout="random")
    assert parse_policy("resize:384") == ResizePolicy(384)
    assert parse_policy("paper") == CropsPolicy(size=224, count=10, layout="random")
    assert str(parse_policy("fast")).endswith("count=1,layout=fixed,shorter=512,draft=yes)")
    base = CropsPolicy(size=32, count=2, shorter=384, seed=3)
    assert parse_policy("paper", base) == CropsPolicy(224, 10, "random", seed=3, shorter=384)
