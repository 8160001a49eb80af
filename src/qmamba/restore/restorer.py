"""Restorer: an image in, a better image out, with everything else of its file kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from qmamba.checkpoints import Publishable, load
from qmamba.errors import CheckpointError, ConfigError, ImageError, ShapeError
from qmamba.images import DEFAULT_MAX_PIXELS
from qmamba.inference import Precision, chosen_precision, prepare
from qmamba.models import ModelMetadata, Network, RestorationConfig
from qmamba.models.network import require_network
from qmamba.restore import memory
from qmamba.restore.adaptive_tiles import Progress, Watch, restore_tiles
from qmamba.restore.catalog import (
    RestorationRequest,
    check_request,
    find_weights,
    is_for_jpeg_files,
    purpose_of,
)
from qmamba.restore.degradations import Degradation, TaskName
from qmamba.restore.inputs import ImageInput, as_layers
from qmamba.restore.margins import Margins, margins_of, needs_margin
from qmamba.restore.measuring import Measuring, takes_noise_map
from qmamba.restore.planes import Alpha, PlaneNetwork
from qmamba.restore.restored import RestoredImage
from qmamba.restore.tiles import (
    MIN_TILE,
    RestoreTile,
    TilePlan,
    plan_tiles,
    plan_within,
    tiling_notes,
)

DEFAULT_OVERLAP = 32
"""Pixels of the input that neighboring tiles share."""

_OVERSHOOT = 0.5

Tile: TypeAlias = int | Literal["auto", "whole"]


class Restorer(Publishable):
    """Restores images with one model.

    The same image gets the same bits on one machine with one number of threads and one tiling.
    Tiles change the result a little, because the scan runs through all pixels that it is given;
    ``RestoredImage.tiling`` says what was taken.

    The weights are those of the moment the restorer is made: later changes of the model are not
    followed, so make another restorer for them. A restorer can be pickled and copied deeply, and is
    then prepared anew, with the weights that its model has at that time. Autocast of the caller is
    off inside: ``precision`` alone decides.

    Args:
        model: a MambaIR, also a quantized one. It is put in evaluation mode and stays on its
            device.
        metadata: what the model is for; ``None`` takes ``model.metadata``.
        tile: ``"auto"`` takes the whole image where the free memory allows it and otherwise the
            largest tiles that it does; ``"whole"`` never divides; a number is the largest side of
            a tile in pixels of the input. Where memory runs out all the same, tiles of half the
            size are tried, except with ``"whole"``.
        overlap: pixels of the input that neighboring tiles share, at most a quarter of a tile.
        precision: ``"auto"``: ``"fp32"``, or of a quantized network what
            :func:`~qmamba.inference.chosen_precision` says, its ``"codes"`` or ``"fp32"``;
            ``"bf16"``: half the memory for activations; ``"int8"``: products of 8-bit integers, on
            the CPU. The last two change pixels slightly.
        ensemble: mean over the eight flips and turns: eight times the work, a little better.
        alpha: ``"resample"`` enlarges transparency by bicubic interpolation and keeps it where the
            size stays; ``"restore"`` sends it through the network too.
        max_pixels: largest image, in pixels, that is decoded from a file.
        memory_budget: bytes that the network may take; ``None`` takes half of what is free.
        sigma, strength: of the noise, see :class:`~qmamba.restore.measuring.Measuring`.
        quality: known quality of the JPEG files; without, fainter blocks are corrected less.

    Raises:
        CheckpointError: the model is not a restoration network.
        ConfigError: an option is not allowed.

    Example:
        >>> restorer = Restorer.from_pretrained(task="denoise")
        >>> restored = restorer.restore("examples/coffee_small.png")
        >>> restored.pixels.shape, restored.pixels.dtype.name
        ((200, 300, 3), 'uint8')
    """

    def __init__(
        self,
        model: Network,
        metadata: ModelMetadata | None = None,
        *,
        tile: Tile = "auto",
        overlap: int = DEFAULT_OVERLAP,
        precision: Precision = "auto",
        ensemble: bool = False,
        alpha: Alpha = "resample",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        memory_budget: int | None = None,
        sigma: float | None = None,
        strength: float = 1.0,
        quality: int | None = None,
    ) -> None:
        metadata = require_network(model, "Restorer", "Restorer.from_pretrained", metadata)
        config = model.config
        if not isinstance(config, RestorationConfig):
            raise CheckpointError(
                f"The model {metadata.name if metadata else '(unnamed)'} is a"
                f" {type(model).__name__} network, which restores nothing; give a MambaIR."
            )
        if tile not in ("auto", "whole") and not (isinstance(tile, int) and tile >= MIN_TILE):
            raise ConfigError(
                f"tile must be 'auto', 'whole' or a number of at least {MIN_TILE}, got {tile!r}."
            )
        if not isinstance(overlap, int) or overlap < 0:
            raise ConfigError(f"overlap must be a number of 0 or more, got {overlap!r}.")
        if alpha not in get_args(Alpha):
            raise ConfigError(f"alpha must be resample or restore, got {alpha!r}.")
        if memory_budget is not None and memory_budget < 1:
            raise ConfigError(f"memory_budget must be positive, got {memory_budget!r}.")
        self.model = model.eval()
        self.config = config
        self.scale = config.scale
        """Sides of the output as a multiple of those of the input."""
        self.metadata = metadata
        self.device = next(model.parameters()).device
        """Where the network runs."""
        if self.device.type == "meta":
            raise ConfigError("The device 'meta' computes nothing; choose cpu, cuda or mps.")
        self.tile = tile
        self.overlap = overlap
        self.precision: Precision = chosen_precision(self.model, precision)
        """How the network computes; never ``"auto"``."""
        self.max_pixels = max_pixels
        self.memory_budget = memory_budget
        self._ensemble, self._alpha = ensemble, alpha
        self._measuring = Measuring(
            config, sigma, strength, blocks=quality is None and is_for_jpeg_files(metadata)
        )
        self._planes = self._prepared()

    def _prepared(self) -> PlaneNetwork:
        return PlaneNetwork(
            prepare(self.model, self.precision),
            channels=self.config.channels,
            scale=self.scale,
            device=self.device,
            ensemble=self._ensemble,
            alpha=self._alpha,
        )

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights have no form outside the process.
        return {name: value for name, value in self.__dict__.items() if name != "_planes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._planes = self._prepared()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        task: TaskName | None = None,
        scale: int | None = None,
        sigma: float | None = None,
        quality: int | None = None,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        tile: Tile = "auto",
        overlap: int = DEFAULT_OVERLAP,
        precision: Precision = "auto",
        ensemble: bool = False,
        alpha: Alpha = "resample",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        memory_budget: int | None = None,
        real: bool = False,
        strength: float = 1.0,
    ) -> Restorer:
        """Load weights and make a restorer of them; the parameters are frozen.

        Args:
            name_or_path: embedded weights (:func:`~qmamba.checkpoints.list_weights`), path or hub
                id; of a full-precision or a packed file of ours, or of an official checkpoint.
                ``None`` chooses among the embedded weights by the next four and ``real``.
            task: ``"sr"`` (the default), ``"denoise"`` or ``"jpeg"``.
            scale: factor of ``sr``; the smallest there is where none is given.
            sigma: deviation of the noise, 0 to 255, for ``denoise``; None measures each image.
            quality: of the JPEG file that is to be restored, for ``jpeg``.
            device: where the network runs, for example ``"cpu"``, ``"cuda:0"`` or ``"mps"``.
            revision: branch, tag or commit of a hub repository.
            tile, overlap, precision, ensemble, alpha, max_pixels, memory_budget: see the class.
            real: for ``sr``, of images that are slightly soft, noisy or compressed.
            strength: of denoising, see the class.

        Raises:
            CheckpointError: the weights cannot be found or do not restore.
            ConfigError: the weights are for something else than what is asked for, or the device
                or an option is not available.
        """
        request = RestorationRequest(task, scale, sigma, quality, real)
        named = name_or_path is not None
        source = name_or_path if name_or_path is not None else find_weights(request)
        model = load(source, device=device, revision=revision).requires_grad_(False)
        restorer = cls(
            model,
            tile=tile,
            overlap=overlap,
            precision=precision,
            ensemble=ensemble,
            alpha=alpha,
            max_pixels=max_pixels,
            memory_budget=memory_budget,
            sigma=sigma if takes_noise_map(model) else None,
            strength=strength,
            quality=quality,
        )
        if named:
            check_request(request, restorer.config, restorer.metadata)
        return restorer

    @property
    def task(self) -> TaskName:
        """``sr``, ``denoise`` or ``jpeg``."""
        return self.config.task_name

    @property
    def purpose(self) -> Degradation | None:
        """What the model was trained to undo, where its weights say so."""
        return purpose_of(self.metadata)

    def restore(
        self,
        image: ImageInput,
        *,
        progress: Progress | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> RestoredImage:
        """Restore one image.

        Args:
            image: see :data:`ImageInput`. Of a file everything is kept: gray, 16 bits, alpha, ICC
                profile and metadata; see :mod:`qmamba.images.layers`.
            progress: see :data:`~qmamba.restore.Progress`.
            cancel: asked before every tile; ``True`` stops.

        Raises:
            ImageError: the image cannot be decoded or is not in an accepted form, memory does
                not even suffice for the smallest tiles, or the network's output is not finite.
            Canceled: ``cancel`` said so.
        """
        layers = as_layers(image, self.max_pixels)
        scale = self.scale
        stored = [layers.colors]
        if layers.alpha is not None:
            stored.append(layers.alpha[..., None])
        samples = stored[0] if len(stored) == 1 else np.concatenate(stored, axis=2)
        shape = (scale * layers.height, scale * layers.width)
        try:
            result = np.empty((*shape, samples.shape[2]), samples.dtype)
        except MemoryError as error:
            raise ImageError(
                f"memory does not suffice for a result of {shape[1]} x {shape[0]} pixels"
            ) from error
        top = int(np.iinfo(samples.dtype).max)

        def read(rows: slice, columns: slice) -> Tensor:
            planes = np.moveaxis(samples[rows, columns], 2, 0).astype(np.float32, order="C")
            return torch.from_numpy(planes).div_(top)

        def write(row: int, band: Tensor) -> None:
            values = band.mul_(top).round_().numpy()
            result[row : row + band.shape[1]] = np.moveaxis(values, 0, 2)

        plan = self._plan(layers.height, layers.width)
        treatment = self._planes.notes(layers.colors.shape[2], layers.alpha is not None)
        jpeg, mirrored = layers.format == "JPEG", needs_margin(layers.colors, top)
        measured = self._measuring.measure(layers.colors, layers.alpha, jpeg=jpeg)

        def restore_tile(rows: slice, columns: slice) -> Tensor:
            margins = Margins()
            if mirrored:
                margins = margins_of(rows, columns, layers.height, layers.width)
            here = measured.cut(rows, columns)
            return self._planes(read(rows, columns), layers.alpha is not None, margins, here)

        used = self._work(plan, restore_tile, write, Watch(progress, cancel))
        colors = result if layers.alpha is None else np.ascontiguousarray(result[..., :-1])
        alpha = None if layers.alpha is None else np.ascontiguousarray(result[..., -1])
        metadata = layers.metadata.resized(shape[1], shape[0])
        return RestoredImage(
            layers=replace(
                layers,
                colors=colors,
                alpha=alpha,
                metadata=metadata,
                notes=(*layers.notes, *measured.notes, *treatment, *tiling_notes(plan, used)),
            ),
            task=self.task,
            scale=scale,
            tiling=str(used),
            model="" if self.metadata is None else self.metadata.name,
            sha256="" if self.metadata is None else self.metadata.sha256 or "",
        )

    def restore_tensor(
        self,
        images: Tensor,
        *,
        progress: Progress | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Tensor:
        """Restore a batch, one image after the other, without gradients.

        Args:
            images: ``(batch, 1 or 3 channels, height, width)``, floating point, in [0, 1], on any
                device. Overshoot up to 0.5 is taken as it is, because noise may stand above white.
            progress, cancel: see :meth:`restore`.

        Returns:
            float32 ``(batch, channels, scale * height, scale * width)`` in [0, 1], not rounded, on
            the device of ``images``.

        Raises:
            ShapeError: no tensor, another shape or dtype, or values outside [0, 1] or not finite.
            ImageError, Canceled: see :meth:`restore`.
        """
        if not isinstance(images, Tensor):
            raise ShapeError(
                f"restore_tensor needs a torch tensor, got {type(images).__name__}; restore takes "
                "images of other kinds."
            )
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
            raise ShapeError(
                f"restore_tensor needs images (batch, 1 or 3, height, width), got {shape}."
            )
        if not images.is_floating_point():
            raise ShapeError(
                f"restore_tensor needs floating-point values in [0, 1], got {images.dtype}; divide "
                "8-bit values by 255."
            )
        lowest, highest = (bound.item() for bound in torch.aminmax(images.detach()))
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise ShapeError("restore_tensor needs values in [0, 1], and some are not finite.")
        if lowest < -_OVERSHOOT or highest > 1 + _OVERSHOOT:
            raise ShapeError(
                f"restore_tensor needs values in [0, 1], got {lowest:g} to {highest:g}; divide "
                "8-bit values by 255."
            )
        batch, channels, height, width = shape
        shape = (batch, channels, self.scale * height, self.scale * width)
        result = torch.empty(shape, dtype=torch.float32, device="cpu")
        for image, target in zip(images.detach().float(), result, strict=True):
            self._restore_planes(image, target, Watch(progress, cancel))
        return result.to(images.device)

    def _restore_planes(self, image: Tensor, target: Tensor, watch: Watch) -> None:
        def write(row: int, band: Tensor) -> None:
            target[:, row : row + band.shape[1]] = band

        height, width = image.shape[1:]
        pixels = image.permute(1, 2, 0).cpu().numpy()
        mirrored, measured = needs_margin(pixels, 1), self._measuring.measure(pixels, None)

        def restore_tile(rows: slice, columns: slice) -> Tensor:
            margins = margins_of(rows, columns, height, width) if mirrored else Margins()
            here = measured.cut(rows, columns)
            return self._planes(image[:, rows, columns], margins=margins, measured=here)

        self._work(self._plan(height, width), restore_tile, write, watch)

    def _work(
        self,
        plan: TilePlan,
        restore_tile: RestoreTile,
        write: Callable[[int, Tensor], None],
        watch: Watch,
    ) -> TilePlan:
        return restore_tiles(
            plan,
            restore_tile,
            write,
            scale=self.scale,
            device=self.device,
            overlap=None if self.tile == "whole" else self.overlap,
            watch=watch,
        )

    def _plan(self, height: int, width: int) -> TilePlan:
        if self.tile == "whole":
            return plan_tiles(height, width, None, 0)
        if self.tile != "auto":
            return plan_tiles(height, width, self.tile, self.overlap)
        budget = self.memory_budget
        if budget is None:
            budget = int(memory.free_memory(self.device) * memory.USABLE_SHARE)
        pixels = budget // memory.bytes_per_pixel(self.config, self.precision)
        return plan_within(height, width, pixels, self.overlap)
