"""Low quality as an issue that cleanvision finds in a data set.

Needs the extra ``cleanvision``. Call :func:`register` once; then ``Imagelab.find_issues`` takes the
issue type ``low_quality``.
"""

from __future__ import annotations

import math
from typing import Any

from qmamba.assess import Scorer
from qmamba.errors import ConfigError, QMambaError
from qmamba.extras import extra
from qmamba.interop.scoring import as_scorer

with extra("cleanvision", "An issue of cleanvision"):
    import pandas
    from cleanvision.issue_managers import register_issue_manager
    from cleanvision.utils.base_issue_manager import IssueManager
    from tqdm.auto import tqdm

ISSUE = "low_quality"
"""The type of the issue. Its columns are ``low_quality_score`` and ``is_low_quality_issue``."""

DEFAULT_THRESHOLD = 0.3
"""Share of the score's scale below which an image is an issue. A convention, not a finding: look at
the images around it before you drop any."""


def register() -> str:
    """Make the issue type known to cleanvision; a second call changes nothing.

    Returns:
        Its name, for ``Imagelab.find_issues``.

    Example:
        >>> from cleanvision import Imagelab  # doctest: +SKIP
        >>> lab = Imagelab(data_path="photos")  # doctest: +SKIP
        >>> lab.find_issues({register(): {"threshold": 0.4}})  # doctest: +SKIP
    """
    register_issue_manager(ISSUE)(LowQualityIssueManager)
    return ISSUE


class LowQualityIssueManager(IssueManager):
    """Scores every image and marks those below a threshold.

    Parameters of the issue type are ``threshold`` (0 to 1, :data:`DEFAULT_THRESHOLD`) and ``model``
    (a scorer, an embedded name, a path or a hub id; the embedded default without it). The score of
    an image is its opinion score as a share of the scale, 1 for the best: low is bad, as
    everywhere in cleanvision. An image that cannot be scored has no score and is no issue; how
    many there are stands in ``info["low_quality"]["num_unscored"]``.
    """

    issue_name: str = ISSUE
    visualization: str = "individual_images"

    def __init__(self) -> None:
        super().__init__()
        self.params = self.get_default_params()

    def get_default_params(self) -> dict[str, Any]:
        """The parameters where none are given."""
        return {"threshold": DEFAULT_THRESHOLD, "model": None}

    def update_params(self, params: dict[str, Any]) -> None:
        """Take over the given parameters.

        Raises:
            ConfigError: a parameter is unknown, or the threshold is not from 0 to 1.
        """
        if unknown := set(params) - set(self.params):
            raise ConfigError(
                f"The issue {ISSUE} has the parameters threshold and model, got {sorted(unknown)}."
            )
        given = {name: value for name, value in params.items() if value is not None}
        self.params = {**self.params, **given}
        threshold = self.params["threshold"]
        if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise ConfigError(f"The threshold must be from 0 to 1, got {threshold!r}.")

    def find_issues(
        self,
        *,
        params: dict[str, Any] | None = None,
        dataset: Any = None,
        imagelab_info: dict[str, Any] | None = None,
        n_jobs: int | None = None,
        verbose: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Score the images one after the other; the network itself uses all cores.

        Args:
            params: see the class.
            dataset: of cleanvision.
            imagelab_info, n_jobs, kwargs: not used.
            verbose: keep the progress bar.

        Raises:
            ConfigError, CheckpointError: a parameter is not allowed, or there are no such weights.
        """
        super().find_issues(**kwargs)
        self.update_params(params or {})
        scorer = as_scorer(self.params["model"])
        shares = [
            _share(scorer, dataset, index)
            for index in tqdm(dataset.index, leave=bool(verbose), desc="Scoring images")
        ]
        scores = pandas.Series(shares, index=dataset.index, dtype="float64")
        below = scores < self.params["threshold"]
        self.issues = pandas.DataFrame({f"{ISSUE}_score": scores, f"is_{ISSUE}_issue": below})
        self.summary = pandas.DataFrame(
            {"issue_type": [ISSUE], **{key: [n] for key, n in self._compute_summary(below).items()}}
        )
        self.info[ISSUE] = {
            "model": scorer.metadata.name,
            "sha256": scorer.metadata.sha256,
            "num_unscored": int(scores.isna().sum()),
        }


def _share(scorer: Scorer, dataset: Any, index: int | str) -> float:
    """Quality from 0 to 1, or NaN where there is none."""
    try:
        image = dataset[index]
        if image is None:
            return math.nan
        score = scorer(image)
    except (OSError, ValueError, QMambaError):
        # Pillow raises the first two for files that it cannot read.
        return math.nan
    low, high = score.scale
    share = (score.score - low) / (high - low)
    return share if score.higher_is_better else 1 - share
