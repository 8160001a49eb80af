"""Scorer: images in, scores out."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qmamba.assess.calls import grouped, through
from qmamba.assess.maps import QualityMap, assemble
from qmamba.assess.native import Reasons, find_reasons, largest_fall, technical_severity
from qmamba.assess.policies import CropsPolicy, Policy, parse_policy, policy_from_metadata
from qmamba.assess.requirements import named, positive, require_rating, require_views
from qmamba.assess.score import Score, pool_views
from qmamba.assess.views import ImageInput, ImageViews, read_views, tensor_views
from qmamba.checkpoints import Publishable, load, load_tuned, load_tuned_model
from qmamba.errors import ConfigError, ImageError, QMambaError, ShapeError
from qmamba.images import DEFAULT_MAX_PIXELS, normalize
from qmamba.inference import MappingNetwork, Precision, chosen_precision, prepare
from qmamba.models import ModelMetadata, Network, ScoreScale
from qmamba.models.network import require_network

DEFAULT_WEIGHTS = "qmamba-mini-biq2021"
"""The weights that come with the package and are taken where none are named."""

_OVERSHOOT = 0.5
_SINGLE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor)

_Output = TypeVar("_Output")

Scored: TypeAlias = Score | list[Score] | Iterator[Score]


class _Sent(NamedTuple):
    """An image on its way through the network."""

    outputs: Tensor
    image: ImageViews
    severity: Tensor | None = None
    reasons: Reasons | None = None


class Scorer(Publishable):
    """Scores images with one model and one policy.

    The weights are those of the moment the scorer is made; :meth:`score_tensor` alone follows later
    changes of the model.

    The same image always gets the same bits on one machine with one number of threads: its views
    go through the network in a call of their own. Images share a call only on demand
    (``batch_images``), because the sums inside a matrix product depend on the number of its rows.

    A scorer can be pickled and copied; one that was pickled or copied deeply is prepared anew, with
    the weights that its model has then. Autocast of the caller is off inside: ``precision`` alone
    decides.

    Args:
        model: a model with one output. It is put in evaluation mode and stays on its device.
        metadata: what the model is for; ``None`` takes ``model.metadata``.
        policy: which views of an image are scored, as an object or as a text such as
            ``"crops:count=5"`` whose other fields are the model's own; ``None`` takes the model's.
        precision: ``"auto"``: ``"fp32"``, or of a quantized model what
            :func:`~qmamba.inference.chosen_precision` says; ``"bf16"`` for bfloat16 weights and
            activations; ``"int8"``, on the CPU, for products of 8-bit integers. Both are faster
            where the processor has instructions for them and change scores slightly.
        batch_size: number of images that are sent to a GPU before the first result is waited
            for. Scores do not depend on it; the CPU finishes one image after the other.
        batch_images: number of neighboring images of one view size that share a call of the
            network. More than 1 is faster where an image has few views; the last bits of a score
            then depend on its neighbors, and the same images in the same order give the same bits.
        max_pixels: largest image, in pixels, that is decoded from a file.
        tuned: a tuned file (:mod:`qmamba.prompts`) that is put on the model, which stays as it is.
        reasons: look for technical flaws, too (``Score.reasons``), on crops at native size.

    Raises:
        CheckpointError: the model was not trained to score: it has no score scale, or several
            outputs; or the tuned file belongs to another model.
        ConfigError: an option is not allowed.

    Example:
        >>> scorer = Scorer.from_pretrained()
        >>> good, blurred = scorer(["examples/coffee.jpg", "examples/coffee_blurred.jpg"])
        >>> good.score > blurred.score
        True
    """

    def __init__(
        self,
        model: Network,
        metadata: ModelMetadata | None = None,
        *,
        policy: Policy | str | None = None,
        precision: Precision = "auto",
        batch_size: int = 16,
        batch_images: int = 1,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        tuned: str | Path | None = None,
        reasons: bool = False,
    ) -> None:
        require_network(model, "Scorer", "Scorer.from_pretrained", metadata)
        if tuned is not None:
            model = load_tuned(model, tuned)
        metadata, scale = require_rating(model, metadata or model.metadata)
        own = CropsPolicy() if metadata.policy is None else policy_from_metadata(metadata.policy)
        self.device = next(model.parameters()).device
        """Where the network runs."""
        if self.device.type == "meta":
            raise ConfigError("The device 'meta' computes nothing; choose cpu, cuda or mps.")
        self.model = model.eval()
        self.precision: Precision = chosen_precision(self.model, precision)
        """How the network computes; never ``"auto"``."""
        self._network = prepare(self.model, self.precision)
        self.metadata = metadata
        self.scale: ScoreScale = scale
        """The range and direction of the scores."""
        self.policy: Policy = (
            parse_policy(policy, own) if isinstance(policy, str) else policy or own
        )
        """Which views of an image are scored."""
        require_views(self.policy, model.config.image_size, named(metadata))
        self.batch_size = positive("batch_size", batch_size)
        self.batch_images = positive("batch_images", batch_images)
        self.max_pixels = positive("max_pixels", max_pixels)
        self.reasons = reasons
        """Whether scores say which technical flaws the image has."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
        policy: Policy | str | None = None,
        precision: Precision = "auto",
        batch_size: int = 16,
        batch_images: int = 1,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        revision: str | None = None,
        tuned: str | Path | None = None,
        reasons: bool = False,
    ) -> Scorer:
        """Load weights and make a scorer of them; the parameters are frozen.

        Args:
            name_or_path: embedded weights (:func:`~qmamba.checkpoints.list_weights`), path or hub
                id; ``None`` is :data:`DEFAULT_WEIGHTS`, or the embedded base of a tuned file.
            device: where the network runs, for example ``"cpu"``, ``"cuda:0"`` or ``"mps"``.
            policy, precision, batch_size, batch_images, max_pixels: see the class.
            revision: branch, tag or commit of a hub repository.
            tuned: path or hub id of a tuned file that belongs to these weights.
            reasons: see the class.

        Raises:
            CheckpointError: the weights cannot be found or were not trained to score, or a tuned
                file does not belong to them.
            ConfigError: the device or an option is not available.
        """
        model: Network
        if tuned is None:
            source = DEFAULT_WEIGHTS if name_or_path is None else name_or_path
            model = load(source, device=device, revision=revision)
        else:
            model = load_tuned_model(name_or_path, tuned, device=device, revision=revision)
        model.requires_grad_(False)
        return cls(
            model,
            policy=policy,
            precision=precision,
            batch_size=batch_size,
            batch_images=batch_images,
            max_pixels=max_pixels,
            reasons=reasons,
        )

    def __copy__(self) -> Scorer:
        """A scorer with the same model and network, whose policy may be another."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights have no form outside the process.
        return {name: value for name, value in self.__dict__.items() if name != "_network"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._network = prepare(self.model, self.precision)

    @overload
    def __call__(self, images: ImageInput) -> Score: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, images: list[Any] | tuple[Any, ...]
    ) -> list[Score]: ...

    @overload
    def __call__(self, images: Iterable[Any]) -> Iterator[Score]: ...

    def __call__(self, images: Any) -> Scored:
        """Score one image or several; no gradients.

        Args:
            images: one image (:data:`~qmamba.assess.ImageInput`), which gives a
                :class:`Score`; a list or tuple of images, or a batch as a 4-dimensional array or
                tensor, which gives a list; any other iterable of images, which gives an iterator
                that reads and scores as it is drawn from.

        Raises:
            ImageError: an image cannot be decoded or is not in an accepted form. To go on past bad
                files use :func:`qmamba.assess.score_paths`.
        """
        if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4:
            return list(self._score_all(images))
        is_file = hasattr(images, "read")
        if isinstance(images, _SINGLE) or is_file or not isinstance(images, Iterable):
            return next(self._score_all([images]))
        return self._score_all(images)

    def score_tensor(self, images: Tensor) -> Tensor:
        """Opinion scores of a batch, with gradients: use it as a loss.

        The policy's views are taken as for any image. Gradients flow to the images, and to the
        parameters that ask for them. Agrees with ``Score.raw`` to rounding.

        Args:
            images: ``(batch, 3, height, width)``, floating point, sRGB in [0, 1] on the scorer's
                device. Overshoot up to 0.5 is taken as it is, because the outputs of a network
                that is being trained need it.

        Returns:
            ``(batch,)`` in opinion-score points, not clamped to the scale.

        Raises:
            ShapeError: another shape, dtype, device or range of values.
        """
        if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ShapeError(
                f"The function score_tensor needs images (batch, 3, height, width), got "
                f"{tuple(images.shape)}."
            )
        if not images.is_floating_point() or images.device != self.device:
            raise ShapeError(
                f"The function score_tensor needs floating-point images on {self.device}, got "
                f"{images.dtype} on "
                f"{images.device}."
            )
        low, high = (float(bound) for bound in images.detach().aminmax())
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
            raise ShapeError(
                f"The function score_tensor needs values in [0, 1], got {low:g} to {high:g}; "
                "divide 8-bit "
                "values by 255."
            )
        cut = [tensor_views(image, self.policy) for image in images]
        views = torch.cat([image.views for image in cut])
        outputs = self.model(normalize(views.to(next(self.model.parameters()).dtype)))
        per_image = outputs.view(len(images), -1).mean(1)
        opinions = self.scale.target_mean + self.scale.target_std * per_image
        if cut[0].shrunk == 1:
            return opinions
        severities = [technical_severity(i.native) for i in cut if i.native is not None]
        return opinions - largest_fall(cut[0].shrunk, self.scale) * torch.stack(severities)

    def map(self, image: ImageInput, *, max_side: int | None = None) -> QualityMap:
        """The score of one image and where in the image it comes from.

        Args:
            image: see :data:`~qmamba.assess.ImageInput`.
            max_side: longest side of the map; ``None`` gives every pixel of the image a value.

        Returns:
            The map; its ``score`` is that of a call, bit by bit, and its mean is the score.

        Raises:
            ImageError: the image cannot be decoded or is not in an accepted form.
            ConfigError: the model is not a QMamba, or ``max_side`` is below 1.

        Example:
            >>> quality = Scorer.from_pretrained().map("examples/coffee.jpg")
            >>> quality.values.shape
            (400, 600)
        """
        network = self._network
        if not isinstance(network, MappingNetwork):
            raise ConfigError(f"{named(self.metadata)} has no quality map.")
        views = self.prepare(image)
        parts = self._through(network.forward_with_map, views.views)
        outputs = torch.cat([part[0][:, 0] for part in parts])
        score = self._receive(self._sent(outputs, views))
        if isinstance(score, QMambaError):
            raise score
        positions = torch.cat([part[1][..., 0] for part in parts]).float().cpu()
        opinions = self.scale.target_mean + self.scale.target_std * positions
        return assemble(
            opinions.numpy() - (0.0 if score.whole is None else score.whole - score.raw),
            self.policy.plan(views.height, views.width),
            score,
            max_side,
        )

    def prepare(self, image: ImageInput) -> ImageViews:
        """Decode one image and take the policy's views; safe to call from many threads."""
        return read_views(image, self.policy, max_pixels=self.max_pixels, reasons=self.reasons)

    def score_prepared(
        self, images: Iterable[ImageViews | QMambaError]
    ) -> Iterator[Score | QMambaError]:
        """Score prepared images in order, as they are drawn.

        Args:
            images: from :meth:`prepare`; an error stands for an image that could not be
                prepared and is handed on in its place.

        Returns:
            One score or error per image.
        """
        depth = 1 if self.device.type == "cpu" else self.batch_size
        sent: list[_Sent | QMambaError] = []
        for group in grouped(images, self.batch_images):
            sent += self._send(group)
            if len(sent) >= depth:
                yield from map(self._receive, sent)
                sent = []
        yield from map(self._receive, sent)

    def with_batch_images(self, number: int) -> Scorer:
        """A scorer that shares model and network and differs in ``batch_images``."""
        other = copy.copy(self)
        other.batch_images = positive("batch_images", number)
        return other

    def _score_all(self, images: Iterable[Any]) -> Iterator[Score]:
        for result in self.score_prepared(self.prepare(image) for image in images):
            if isinstance(result, QMambaError):
                raise result
            yield result

    # Under inference_mode, index tables that layers cache on first use would be unfit for the
    # gradients that score_tensor asks for later.
    @torch.no_grad()
    def _send(self, group: Sequence[ImageViews | QMambaError]) -> list[_Sent | QMambaError]:
        """Start the network on the views of images of one size, without waiting for the results."""
        images = [image for image in group if not isinstance(image, QMambaError)]
        results = iter(self._run(images)) if images else iter(())
        return [entry if isinstance(entry, QMambaError) else next(results) for entry in group]

    def _run(self, images: Sequence[ImageViews]) -> list[_Sent | QMambaError]:
        counts = [len(image.views) for image in images]
        views = images[0].views if len(images) == 1 else torch.cat([i.views for i in images])
        try:
            outputs = torch.cat(self._through(self._network, views))[:, 0]
        except ImageError as error:
            if len(images) == 1:
                return [error]
            return [result for image in images for result in self._run([image])]
        return [
            self._sent(part, image)
            for part, image in zip(outputs.split(counts), images, strict=True)
        ]

    def _sent(self, outputs: Tensor, image: ImageViews) -> _Sent:
        crops = image.native
        severity = technical_severity(crops) if crops is not None and image.shrunk < 1 else None
        reasons = find_reasons(crops) if crops is not None and self.reasons else None
        return _Sent(outputs, image.without_pixels(), severity, reasons)

    def _through(self, network: Callable[[Tensor], _Output], views: Tensor) -> list[_Output]:
        return through(network, views, next(self.model.parameters()))

    def _receive(self, sent: _Sent | QMambaError) -> Score | QMambaError:
        if isinstance(sent, QMambaError):
            return sent
        opinions = self._opinions(sent.outputs)
        if not all(map(math.isfinite, opinions)):
            return ImageError("the network's output for this image is not finite")
        whole, _ = pool_views(opinions)
        image, severity = sent.image, None if sent.severity is None else float(sent.severity)
        if severity is not None:
            fall = largest_fall(image.shrunk, self.scale) * severity
            opinions = [value - fall for value in opinions]
        raw, spread = pool_views(opinions)
        return Score(
            score=min(max(raw, self.scale.low), self.scale.high),
            raw=raw,
            scale=(self.scale.low, self.scale.high),
            higher_is_better=self.scale.higher_is_better,
            crop_spread=spread,
            policy=str(self.policy),
            model=self.metadata.name,
            sha256=self.metadata.sha256 or "",
            width=image.width,
            height=image.height,
            notes=image.notes,
            image=image.name,
            whole=whole,
            native=None if severity is None else 1 - severity,
            opinions=tuple(opinions),
            reasons=sent.reasons,
        )

    def _opinions(self, outputs: Tensor) -> list[float]:
        scale = self.scale
        return [scale.target_mean + scale.target_std * value for value in outputs.tolist()]
