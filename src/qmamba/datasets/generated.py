"""Data sets of images that models made from texts: AGIQA-3K and AIGCIQA2023.

The content of an image is its prompt, so that parts split by content share none.
"""

from __future__ import annotations

from pathlib import Path

from qmamba.datasets.adapter import Adapter, Labels
from qmamba.datasets.formats.label_files import read_csv
from qmamba.datasets.formats.matlab import mat_vector
from qmamba.datasets.records import RatedImage
from qmamba.errors import DataError


def read_agiqa3k_labels(root: Path) -> Labels:
    """AGIQA-3K: 2982 images by ten model settings from 300 prompts.

    Scores are `mos_quality` of `data.csv`, from 0 to 5 (0 to 4.489 occur), higher is better; the
    other score, `mos_align`, rates how well the image fits the prompt and is not read. In a name
    such as `sd1.5_lowcorr_017.jpg`, 017 is the prompt and the text before it the model and its
    setting. Midjourney and DALLE2 lack some prompts. Images lie beside the file or in `images/`.
    """
    source = root / "data.csv"
    folder = "images" if (root / "images").is_dir() else ""
    images = []
    for row in read_csv(source, ("name", "mos_quality")):
        name = row.text("name")
        generator, _, prompt = Path(name).stem.rpartition("_")
        if not (generator and prompt.isdecimal()):
            raise row.error(f"{name!r} is not <model>_<prompt>.jpg; get the original file")
        images.append(
            RatedImage(
                name,
                Path(folder, name),
                row.number("mos_quality"),
                content=prompt,
                generator=generator,
            )
        )
    return Labels(source, tuple(images))


AIGCIQA_MODELS = ("Controlnet", "DALLE", "Glide", "Lafite", "stable-diffusion", "Unidiffuser")
"""Models of AIGCIQA2023 in the order of its score vectors."""

_AIGCIQA_PROMPTS = 100
_AIGCIQA_REPEATS = 4
_AIGCIQA_RESCALED = 5.0
_AIGCIQA_IMAGES = len(AIGCIQA_MODELS) * _AIGCIQA_PROMPTS * _AIGCIQA_REPEATS


def read_aigciqa2023_labels(root: Path) -> Labels:
    """AIGCIQA2023: 2400 images, four by each of six models from each of 100 prompts.

    Scores are the quality scores `MOSz` of `DATA/MOS/mosz1.mat` from 0 to 100 (about 38 to 72
    occur), higher is better; `mosz2.mat` (authenticity) and `mosz3.mat` (correspondence) are not
    read. The vector follows the index of the image: the model is index // 400, the prompt
    (index % 400) // 4. Rescaled copies of the scores (1.33 to 3.61) go round, which are not this
    scale.

    Images are taken from `Image/allimg/<index>.png`, and where that folder is missing from
    `Image/<model>/<prompt>-<1 to 4>.png`. Names here are those of the first form.
    """
    source = root / "DATA" / "MOS" / "mosz1.mat"
    scores = mat_vector(source, "MOSz", _AIGCIQA_IMAGES)
    if scores.max() <= _AIGCIQA_RESCALED:
        raise DataError(
            f"The scores of {str(source)!r} run from {scores.min():g} to {scores.max():g}, which is"
            " a rescaled copy; get the original file, whose scores lie about 50."
        )
    together = (root / "Image" / "allimg").is_dir()
    images = []
    for index, score in enumerate(scores.tolist()):
        model, prompt, repeat = aigciqa2023_place(index)
        name = f"{index}.png"
        path = Path("allimg", name) if together else Path(model, f"{prompt}-{repeat}.png")
        images.append(
            RatedImage(name, Path("Image") / path, score, content=prompt, generator=model)
        )
    return Labels(source, tuple(images))


def aigciqa2023_place(index: int) -> tuple[str, str, int]:
    """Model, prompt ("000" to "099") and repeat (1 to 4) of an AIGCIQA2023 index, 0 to 2399."""
    per_model = _AIGCIQA_PROMPTS * _AIGCIQA_REPEATS
    prompt, repeat = divmod(index % per_model, _AIGCIQA_REPEATS)
    return AIGCIQA_MODELS[index // per_model], f"{prompt:03d}", repeat + 1


AGIQA3K = Adapter(
    name="agiqa3k",
    title="AGIQA-3K",
    label_files=(("data.csv", "mos_quality"),),
    read_labels=read_agiqa3k_labels,
    count=2982,
    contents=300,
    scale=(0.0, 5.0),
    higher_is_better=True,
    score_range=(0.0, 4.48874),
)
AIGCIQA2023 = Adapter(
    name="aigciqa2023",
    title="AIGCIQA2023",
    label_files=(("DATA/MOS/mosz1.mat", ""),),
    read_labels=read_aigciqa2023_labels,
    count=2400,
    contents=100,
    scale=(0.0, 100.0),
    higher_is_better=True,
    score_range=None,
)
