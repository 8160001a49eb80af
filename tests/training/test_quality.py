from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba.assess import CropsPolicy, Scorer
from qmamba.checkpoints import load, save_model
from qmamba.datasets import RatedDataset, Split, read_csv_dataset
from qmamba.errors import ConfigError, DataError
from qmamba.evaluation.metrics.correlation import plcc, srcc
from qmamba.training import QualityPart, QualityTask, parse_loss
from qmamba.training.quality.images import ImageFile, Images, UnreadableError
from tests.training.samples import CROPS, quality_task, rated, small_network, write_rated


@pytest.fixture
def data(tmp_path: Path) -> RatedDataset:
    return rated(tmp_path)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_examples_are_crops_of_their_image(data: RatedDataset) -> None:
    task = quality_task(data)
    assert task.examples == 8 * 2
    for index in (0, 5, 15):
        example = task.example(index, seeded(1))
        assert example["image"].shape == (3, 32, 32) and example["image"].dtype == torch.uint8
        position = task.parts[0].train[index % 8]
        image = np.asarray(Image.open(data[position].path))
        crop = example["image"].permute(1, 2, 0).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(image, (32, 32), axis=(0, 1))
        windows = windows.transpose(0, 1, 3, 4, 2).reshape(-1, 32, 32, 3)
        assert any((windows == view).all((1, 2, 3)).any() for view in (crop, crop[:, ::-1]))
        wanted = (data[position].mos - task.targets[0].mean) / task.targets[0].std
        assert float(example["target"]) == pytest.approx(wanted, rel=1e-5)


def test_randomness_is_the_generators(data: RatedDataset) -> None:
    task = quality_task(data)
    first, again, other = (task.example(3, seeded(s))["image"] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    views = [task.example(3, seeded(s))["image"] for s in range(40)]
    mirrored = sum(any(torch.equal(v.flip(2), w) for w in views) for v in views)
    assert mirrored > 0


def test_small_images_are_padded_and_large_ones_scaled(tmp_path: Path) -> None:
    data = rated(tmp_path)
    task = quality_task(data, policy=CropsPolicy(size=64))
    assert task.example(0, seeded(0))["image"].shape == (3, 64, 64)
    task = quality_task(data, crop_size=16)
    assert task.example(0, seeded(0))["image"].shape == (3, 16, 16) and task.policy.size == 32
    scaled = ImageFile(data[0].path, shorter=20).decode()
    assert scaled.shape == (20, 24, 3)
    assert abs(float(scaled.mean()) - float(ImageFile(data[0].path).decode().mean())) < 2
    assert ImageFile(data[0].path, shorter=41).decode().shape == (40, 48, 3)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535], [256 * 128, 300, 1]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = ImageFile(tmp_path / "deep.png").decode()
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels[..., 0], np.round(values / 257))


def test_memory_budget(data: RatedDataset) -> None:
    size = 40 * 48 * 3
    for budget, kept in ((0, 0), (size, 1), (3 * size + 1, 3), (1 << 30, 12)):
        images = Images(ImageFile(image.path) for image in data)
        assert images.read(budget, lambda good: None) == {}
        assert images.memory == kept * size
        for index in (0, 11):
            assert np.array_equal(images[index], np.asarray(Image.open(data[index].path)))


def test_unreadable_images_are_all_named(data: RatedDataset) -> None:
    for position in (1, 5, 7):
        data[position].path.write_bytes(b"no image")
    with pytest.raises(UnreadableError, match="3 images cannot be read") as caught:
        quality_task(data)
    assert [path for path, _ in caught.value.problems] == [data[i].path for i in (5, 7, 1)]
    assert all(data[i].path.name in str(caught.value) for i in (1, 5, 7))
    seen: list[tuple[int, int, int]] = []
    task = quality_task(data, skip_bad=True, report=lambda *numbers: seen.append(numbers))
    assert task.skipped == tuple(data[i].name for i in (5, 7, 1))
    assert task.parts[0].train == (4, 6, 8, 9, 10, 11) and task.parts[0].validation == (0, 2, 3)
    assert seen[-1] == (12, 3, 12)
    assert task.targets[0].mean == pytest.approx(data.scores[[4, 6, 8, 9, 10, 11]].mean())
    position = task.parts[0].train[1]
    wanted = (data[position].mos - task.targets[0].mean) / task.targets[0].std
    assert float(task.example(1, seeded(0))["target"]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"crops": 0}, ConfigError, "crops"),
        ({"crop_size": 0}, ConfigError, "crop_size"),
        ({"sampling": "some"}, ConfigError, "balanced"),
        ({"head_factor": 0.0}, ConfigError, "head_factor"),
        ({"validation": 2}, DataError, "2 images and a correlation needs 3"),
        ({"validation": 11}, DataError, "at least 2"),
    ],
)
def test_refused(
    data: RatedDataset, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        quality_task(data, **options)  # type: ignore[arg-type]


def test_parts_must_not_meet(data: RatedDataset) -> None:
    with pytest.raises(DataError, match="keep them apart"):
        QualityTask([QualityPart(data, (0, 1, 2, 3), (3, 4, 5))], policy=CROPS)
    part = QualityPart(data, (0, 1, 2, 3))
    with pytest.raises(ConfigError, match="twice"):
        QualityTask([part, part], policy=CROPS)
    with pytest.raises(ConfigError, match="The argument shorter=20"):
        QualityTask([QualityPart(data, (0, 1, 2, 3), shorter=20)], policy=CROPS)
    with pytest.raises(ConfigError, match="at least one"):
        QualityTask([], policy=CROPS)


def test_of_a_split_the_test_part_is_left_alone(data: RatedDataset) -> None:
    for position in (8, 9):
        data[position].path.unlink()
    split = Split("content", train=(0, 1, 2, 3), validation=(4, 5, 6), test=(8, 9))
    task = QualityTask([QualityPart.of_split(data, split)], policy=CROPS)
    assert task.parts[0].train == split.train and task.parts[0].validation == split.validation


def test_evaluation_is_that_of_the_scorer(data: RatedDataset, tmp_path: Path) -> None:
    task, model = quality_task(data), small_network()
    torch.nn.init.normal_(model.classifier.head.weight)
    figures = task.evaluate(model.eval())
    path = tmp_path / "model.safetensors"
    metadata = task.metadata("trained", {"note": "test"})
    save_model(model, path, metadata=metadata, dtype=torch.float32)
    scorer = Scorer(load(path))
    assert scorer.policy == CROPS and scorer.metadata.training["note"] == "test"
    scores = [scorer(data[i].path).raw for i in range(4)]
    assert figures == {
        "srcc": srcc(scores, data.scores[:4]),
        "plcc": plcc(scores, data.scores[:4]),
    }


def test_equal_predictions_count_as_uncorrelated(data: RatedDataset) -> None:
    assert quality_task(data).evaluate(small_network().eval()) == {"srcc": 0.0, "plcc": 0.0}


def test_without_validation(data: RatedDataset) -> None:
    task = quality_task(data, validation=0)
    assert task.metric is None and task.evaluate(small_network().eval()) == {}


def test_the_head_may_learn_faster(data: RatedDataset) -> None:
    task = quality_task(data, head_factor=5.0)
    names = [name for name, _ in small_network().named_parameters()]
    fast = [name for name in names if task.learning_rate_factor(name) != 1]
    assert fast == ["classifier.head.weight", "classifier.head.bias"]


@pytest.fixture
def mix(tmp_path: Path) -> list[RatedDataset]:
    """Two sets of different size and scale; the scores of the second fall with quality."""
    good = read_csv_dataset(write_rated(tmp_path / "a", 12, name="good"))
    bad = read_csv_dataset(write_rated(tmp_path / "b", 8, name="bad", scale=20.0))
    turned = tuple(replace(image, mos=100 - image.mos) for image in bad)
    return [good, replace(bad, images=turned, scale=(0.0, 100.0), higher_is_better=False)]


def test_a_mix_learns_quality(mix: list[RatedDataset]) -> None:
    parts = [QualityPart(each, tuple(range(3, len(each))), (0, 1, 2), 36) for each in mix]
    task = QualityTask(parts, policy=CROPS, crops=1, loss=parse_loss("plcc"))
    assert task.examples == 9 + 5
    for index in range(14):
        example = task.example(index, seeded(0))
        part, place = divmod(index, 9) if index < 9 else (1, index - 9)
        assert int(example["part"]) == part
        # Noise rises and quality falls with the position in both sets.
        if place:
            before = task.example(index - 1, seeded(0))
            assert float(example["target"]) < float(before["target"])
    model = small_network()
    torch.nn.init.normal_(model.classifier.head.weight)
    figures = task.evaluate(model.eval())
    names = [each.name for each in mix]
    assert set(figures) == {
        f"{m}{n}" for m in ("srcc", "plcc") for n in ("", *map("/{}".format, names))
    }
    assert figures["srcc"] == pytest.approx(np.mean([figures[f"srcc/{name}"] for name in names]))
    metadata = task.metadata("mix", {})
    assert metadata.score is not None and metadata.score.name == "common quality"
    assert metadata.policy is not None and metadata.policy["shorter_side"] == 36
    assert [entry["factor"] > 0 for entry in metadata.training["maps"]] == [True, False]


def test_balanced_sampling(mix: list[RatedDataset]) -> None:
    parts = [QualityPart(each, tuple(range(len(each)))) for each in mix]
    task = QualityTask(parts, policy=CROPS, crops=20, sampling="balanced", memory=0)
    drawn = [task._place(index, seeded(index)) for index in range(task.examples)]
    assert [sum(part == wanted for part, _ in drawn) for wanted in (0, 1)] == [200, 200]
    for part, each in enumerate(mix):
        assert {place for found, place in drawn if found == part} == set(range(len(each)))
