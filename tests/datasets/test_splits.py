from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmamba.datasets import (
    RatedDataset,
    RatedImage,
    Split,
    official_split,
    read_splits,
    split_by_content,
    split_by_image,
    write_splits,
)
from qmamba.errors import ConfigError, DataError


def dataset_of(contents: list[int], parts: str = "") -> RatedDataset:
    images = tuple(
        RatedImage(
            f"i{place}.png",
            Path("/data", f"i{place}.png"),
            float(place % 7),
            f"c{content}",
            split=parts.split()[place] if parts else None,
        )
        for place, content in enumerate(contents)
    )
    return RatedDataset("set", images, (0.0, 6.0))


REFERENCES = dataset_of([place // 4 for place in range(80)])


@settings(deadline=None)
@given(
    contents=st.lists(st.integers(0, 12), min_size=2, max_size=60).filter(
        lambda items: len(set(items)) > 1
    ),
    seed=st.integers(0, 2**40),
    share=st.floats(0.01, 0.99),
)
def test_splits_by_content_share_none(contents: list[int], seed: int, share: float) -> None:
    dataset = dataset_of(contents)
    split = split_by_content(dataset, seed, share)
    assert sorted(split.train + split.test) == list(range(len(dataset)))
    train, test = ({dataset[i].content for i in part} for part in (split.train, split.test))
    assert not train & test
    count = len(set(contents))
    assert len(train) == min(max(round(share * count), 1), count - 1)
    assert split == split_by_content(dataset, seed, share)
    turned = RatedDataset("set", dataset.images[::-1], dataset.scale)
    again = split_by_content(turned, seed, share)
    assert {turned.names[i] for i in again.train} == {dataset.names[i] for i in split.train}


@settings(deadline=None)
@given(count=st.integers(2, 60), seed=st.integers(0, 99), share=st.floats(0.01, 0.99))
def test_splits_by_image(count: int, seed: int, share: float) -> None:
    dataset = dataset_of([0] * count)
    split = split_by_image(dataset, seed, share)
    assert sorted(split.train + split.test) == list(range(count))
    assert len(split.train) == min(max(round(share * count), 1), count - 1)


def test_seeds_differ() -> None:
    splits = {split_by_content(REFERENCES, seed).test for seed in range(10)}
    assert len(splits) > 8
    assert all(len(test) == 16 for test in splits)


def test_photographs_split_the_same_by_content_and_by_image() -> None:
    images = tuple(RatedImage(f"{i}.jpg", Path(f"{i}.jpg"), i / 9, f"{i}.jpg") for i in range(9))
    dataset = RatedDataset("set", images, (0, 1))
    assert split_by_content(dataset, 3).train == split_by_image(dataset, 3).train


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_impossible_shares(share: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split_by_content(REFERENCES, 0, share)


def test_impossible_splits() -> None:
    with pytest.raises(ConfigError, match="seed of a split is -1"):
        split_by_image(REFERENCES, -1)
    with pytest.raises(DataError, match="has 1 contents; a split needs at least two"):
        split_by_content(dataset_of([0, 0, 0]), 0)
    with pytest.raises(DataError, match="has 1 images"):
        split_by_image(dataset_of([0]), 0)
    with pytest.raises(DataError, match="0 training and 1 test images"):
        Split("image", (), (1,))
    with pytest.raises(DataError, match="more than once"):
        Split("image", (1, 2), (2,))


def test_official_splits() -> None:
    split = official_split(dataset_of([0, 1, 2, 3, 4], "train test val train other"))
    assert (split.train, split.validation, split.test) == ((0, 3), (2,), (1,))
    assert (split.rule, split.seed, split.train_share) == ("official", None, None)
    split = official_split(dataset_of([0, 1, 2], "train val train"))
    assert (split.train, split.validation, split.test) == ((0, 2), (), (1,))
    with pytest.raises(DataError, match=r"no official split .*its parts: none"):
        official_split(REFERENCES)
    with pytest.raises(DataError, match="its parts: a, b"):
        official_split(dataset_of([0, 1], "a b"))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    dataset = dataset_of([place // 2 for place in range(12)], "train test val " * 4)
    splits = (
        *(split_by_content(dataset, seed) for seed in range(10)),
        split_by_image(dataset, 4, 0.5),
        official_split(dataset),
    )
    write_splits(path, dataset, splits)
    assert read_splits(path, dataset) == splits
    moved = replace(
        dataset,
        name="elsewhere",
        images=tuple(
            replace(image, path=Path("/mnt") / image.name) for image in reversed(dataset.images)
        ),
    )
    for ours, theirs in zip(splits, read_splits(path, moved), strict=True):
        for part in ("train", "test", "validation"):
            names = {dataset.names[i] for i in getattr(ours, part)}
            assert {moved.names[i] for i in getattr(theirs, part)} == names


@settings(deadline=None, max_examples=25)
@given(
    contents=st.lists(st.integers(0, 5), min_size=2, max_size=30).filter(
        lambda items: len(set(items)) > 1
    ),
    seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=4),
)
def test_round_trip_of_any_split(
    tmp_path_factory: pytest.TempPathFactory, contents: list[int], seeds: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    dataset = dataset_of(contents)
    splits = tuple(split_by_content(dataset, seed) for seed in seeds)
    write_splits(path, dataset, splits)
    assert read_splits(path, dataset) == splits


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    write_splits(path, REFERENCES, [split_by_content(REFERENCES, 0)])
    fewer = REFERENCES.take(range(79))
    with pytest.raises(DataError, match=r"for 80 images .* has 79: 'i79.png' is only there"):
        read_splits(path, fewer)
    images = [*REFERENCES.images]
    images[5] = replace(images[5], name="new.png")
    with pytest.raises(DataError, match=r"'i5\.png' is only there"):
        read_splits(path, replace(REFERENCES, images=tuple(images)))
    more = replace(REFERENCES, images=(*REFERENCES.images, images[5]))
    with pytest.raises(DataError, match=r"'new.png' is only in the data set"):
        read_splits(path, more)
    images[5] = replace(REFERENCES[5], mos=0.25)
    with pytest.raises(DataError, match="other scores or contents"):
        read_splits(path, replace(REFERENCES, images=tuple(images)))
    images[5] = replace(REFERENCES[5], content="c0")
    with pytest.raises(DataError, match="other scores or contents"):
        read_splits(path, replace(REFERENCES, images=tuple(images)))


def test_altered_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    write_splits(path, REFERENCES, [split_by_content(REFERENCES, 0)])
    original = path.read_text()

    def altered(**changes: Any) -> None:
        content = json.loads(original)
        content["splits"][0].update(changes)
        path.write_text(json.dumps(content))

    split = json.loads(original)["splits"][0]
    altered(train=split["train"] + split["test"][:1], test=split["test"][1:])
    with pytest.raises(DataError, match="is in two parts of a split by content"):
        read_splits(path, REFERENCES)
    altered(train=split["train"] + split["test"][:1])
    with pytest.raises(DataError, match="more than once"):
        read_splits(path, REFERENCES)
    for changes in ({"train": [80]}, {"train": [-1]}, {"train": ["0"]}, {"train": [True]}):
        altered(**changes)
        with pytest.raises(DataError, match="something else than positions"):
            read_splits(path, REFERENCES)
    altered(rule="luck")
    with pytest.raises(DataError, match="rule 'luck'"):
        read_splits(path, REFERENCES)
    for text in ("", "[]", "{}", original[:-30], original.replace('"format":1', '"format":2')):
        path.write_text(text)
        with pytest.raises(DataError, match="is not a file of splits"):
            read_splits(path, REFERENCES)
    with pytest.raises(DataError, match="is missing"):
        read_splits(tmp_path / "absent.json", REFERENCES)


def test_wrong_splits_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    with pytest.raises(DataError, match="No splits to write"):
        write_splits(path, REFERENCES, [])
    with pytest.raises(DataError, match=r"positions 0 to 80 where"):
        write_splits(path, REFERENCES, [Split("image", (0,), (80,))])
    with pytest.raises(DataError, match=r"content 'c0' .* is in two parts"):
        write_splits(path, REFERENCES, [Split("content", (0,), (1,))])
    assert not path.exists()
