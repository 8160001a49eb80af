"""All images of a page, their files, and the thread that scores and restores them."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from PIL import Image

from qmamba.assess import ImageRow, Scorer, TableFile, score_paths
from qmamba.errors import ConfigError, DataError, QMambaError
from qmamba.evaluation.comparison import compare_images
from qmamba.files import atomic_write
from qmamba.images import UnreadableInput, find_images, read_image
from qmamba.images.samples import reduced
from qmamba.models import QMamba
from qmamba.restore import Canceled, Restorer, target_name
from qmamba.web.records import MAP_SIDE, score_record
from qmamba.web.server.items import Item, Mark, Version
from qmamba.web.server.restorers import Restorers
from qmamba.web.thumbnails import encoded, small_image

THUMBNAIL_SIDE = 240

_LOSSLESS_PIXELS = 4_194_304
_NAME_LENGTH = 200


@dataclass(frozen=True)
class Limits:
    """What a page accepts at most."""

    image_bytes: int = 2**28
    """Size of one uploaded file."""
    total_bytes: int = 2**34
    """Size of all uploaded files."""
    images: int = 20_000
    """Number of images, those of the folder included."""


class Session:
    """The state of a page and the thread that works for it.

    All methods may be called from any thread. A session takes a temporary folder, which
    :meth:`close` removes.

    Args:
        scorer: what scores the images; only the session's thread calls it.
        restorers: what restores them.
        limits: see :class:`Limits`.
    """

    def __init__(
        self, scorer: Scorer, restorers: Restorers | None = None, limits: Limits | None = None
    ) -> None:
        self.scorer = scorer
        self.restorers = restorers or Restorers(max_pixels=scorer.max_pixels)
        self.limits = limits or Limits()
        self.items: dict[str, Item] = {}
        self.listeners: set[Callable[[dict[str, Any]], None]] = set()
        """Called with every event, from any thread."""
        self._folder = Path(tempfile.mkdtemp(prefix="qmamba-serve-"))
        self._condition = threading.Condition(threading.RLock())
        self._to_score: deque[str] = deque()
        self._to_restore: deque[tuple[str, str]] = deque()
        self._busy: str | None = None
        self._stop_restoring = False
        self._closed = False
        self._uploaded_bytes = 0
        self._revision = 0
        self._thread = threading.Thread(target=self._work, name="qmamba-page", daemon=True)
        self._thread.start()

    def open_folder(self, folder: str, *, recursive: bool = False) -> int:
        """Take all images of a folder, in the order of ``qmamba score``; how many there are.

        Raises:
            DataError: there are none, or more than the limit.
        """
        found = list(find_images([folder], recursive=recursive))
        if not found:
            hint = "" if recursive else "; --recursive looks into folders inside"
            raise DataError(f"No images found in {folder!r}{hint}.")
        if len(found) > self.limits.images:
            raise DataError(
                f"{folder!r} has {len(found)} images and the page shows {self.limits.images} at "
                "most; use `qmamba score` and `qmamba report`."
            )
        for image in found:
            if isinstance(image, UnreadableInput):
                item = Item(secrets.token_urlsafe(9), image.image, Path(image.image), False, "done")
                item.row = ImageRow(image.image, error=image.error)
                item.shown = score_record(item.row)
                with self._condition:
                    self.items[item.id] = item
            else:
                self._take(Item(secrets.token_urlsafe(9), image, Path(image), uploaded=False))
        return len(found)

    def begin_upload(self) -> Path:
        """A new file to write an upload to.

        Raises:
            DataError: a limit is reached.
        """
        with self._condition:
            if len(self.items) >= self.limits.images:
                raise DataError(
                    f"There are {self.limits.images} images already, which is the most."
                )
            if self._uploaded_bytes >= self.limits.total_bytes:
                raise DataError("The page has no room for more files; remove some.")
        return self._folder / f"{secrets.token_urlsafe(12)}.upload"

    def finish_upload(self, path: Path, name: str) -> Item:
        """Take an uploaded file as an image; its name is a label and nothing else."""
        item = Item(secrets.token_urlsafe(9), label(name), path, uploaded=True)
        with self._condition:
            self._uploaded_bytes += path.stat().st_size
        self._take(item)
        return item

    def remove(self, image: str) -> None:
        """Forget an image and what was made of it; a file of the user's folder stays.

        Raises:
            KeyError: there is no such image.
        """
        with self._condition:
            item = self.items.pop(image)
            if self._busy == image:
                self._stop_restoring = True
            if item.uploaded:
                self._uploaded_bytes -= item.path.stat().st_size if item.path.exists() else 0
                item.path.unlink(missing_ok=True)
            for file in self._folder.glob(f"{item.id}.*"):
                file.unlink(missing_ok=True)
        self._publish({"removed": image})

    def mark(self, image: str, mark: str | None) -> Item:
        """Mark an image as kept or rejected, or take its mark off.

        Raises:
            KeyError: there is no such image.
            ConfigError: the mark is unknown.
        """
        if mark is not None and mark not in get_args(Mark):
            raise ConfigError(f"The mark {mark!r} is unknown; choose keep or reject.")
        with self._condition:
            item = self.items[image]
            item.mark = cast("Mark | None", mark)
        self._changed(item)
        return item

    def restore(self, image: str, choice: str) -> Item:
        """Ask for a restored version, which is made before any waiting image is scored.

        Raises:
            KeyError: there is no such image.
            ConfigError: there is no such choice, or the image cannot be restored.
        """
        made = self.restorers.choice(choice)
        with self._condition:
            item = self.items[image]
            if item.row is None or item.row.score is None:
                raise ConfigError("An image can be restored when it has a score.")
            present = item.versions.get(choice)
            if present is None or present.state == "failed":
                item.versions[choice] = Version(made.key, made.label, made.scale)
                self._to_restore.append((image, choice))
                self._condition.notify()
        self._changed(item)
        return item

    def cancel(self) -> None:
        """Stop what is being restored, and take back all that waits."""
        with self._condition:
            self._stop_restoring = True
            waiting = [self.items[image] for image in self._to_score if image in self.items]
            self._to_score.clear()
            for image, choice in self._to_restore:
                if image in self.items:
                    del self.items[image].versions[choice]
                    self._changed(self.items[image])
            self._to_restore.clear()
            for item in waiting:
                item.state = "canceled"
        for item in waiting:
            self._changed(item)

    def resume(self) -> None:
        """Score what was taken back."""
        with self._condition:
            canceled = [item for item in self.items.values() if item.state == "canceled"]
        for item in canceled:
            item.state = "waiting"
            self._take(item)

    def table(self, suffix: str) -> bytes:
        """The rows of all images that are done, in the order in which they came.

        They are the bytes that ``qmamba score -o`` writes.

        Args:
            suffix: ``.csv`` or ``.jsonl``.
        """
        with self._condition:
            rows = [item.row for item in self.items.values() if item.row is not None]
        path = self._folder / f"{secrets.token_urlsafe(6)}{suffix}"
        try:
            with TableFile(path) as table:
                for row in rows:
                    table.write(row)
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)

    def state(self) -> dict[str, Any]:
        """Everything that a page shows, as JSON has it."""
        with self._condition:
            scale = self.scorer.scale
            return {
                "info": {
                    "name": scale.name,
                    "low": scale.low,
                    "high": scale.high,
                    "higherIsBetter": scale.higher_is_better,
                    "model": self.scorer.metadata.name,
                    "sha256": self.scorer.metadata.sha256 or "",
                    "policy": str(self.scorer.policy),
                },
                "revision": self._revision,
                "limits": {"imageBytes": self.limits.image_bytes},
                "choices": [choice.record() for choice in self.restorers.choices],
                "images": [item.record() for item in self.items.values()],
            }

    def thumbnail(self, image: str) -> bytes:
        """A small version for display.

        Raises:
            KeyError: there is no such image.
            QMambaError: it cannot be decoded.
        """
        item = self.items[image]

        def made() -> bytes:
            limit = self.scorer.max_pixels
            return encoded(small_image(item.path, THUMBNAIL_SIDE, max_pixels=limit))

        return self._kept(f"{item.id}.thumb", made)

    def full(self, image: str, version: str | None = None) -> bytes:
        """An image or a version of it for display at its own size, without metadata.

        Raises:
            KeyError: there is no such image or version.
            QMambaError: it cannot be decoded.
        """
        item = self.items[image]
        path, limit = item.path, self.scorer.max_pixels
        if version is not None:
            made = item.versions[version]
            if made.file is None:
                raise KeyError(version)
            path, limit = made.file, limit * made.scale**2
        return self._kept(f"{item.id}.{version or 'original'}.full", lambda: _display(path, limit))

    def close(self) -> None:
        """End the work and remove all files of the session."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
            self._stop_restoring = True
            self._condition.notify_all()
        self._thread.join(timeout=10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _take(self, item: Item) -> None:
        with self._condition:
            self.items[item.id] = item
            self._to_score.append(item.id)
            self._condition.notify()
        self._changed(item)

    def _kept(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self._folder / name
        with suppress(OSError):
            return path.read_bytes()
        content = make()
        # The folder is gone when the page is closed while a browser still asks.
        with suppress(DataError), atomic_write(path) as stream:
            stream.write(content)
        return content

    def _changed(self, item: Item) -> None:
        # One that was removed while it was worked on does not come back.
        with self._condition:
            if self.items.get(item.id) is not item:
                return
            self._revision += 1
            item.revision = self._revision
            event = {"image": item.record()}
        self._publish(event)

    def _publish(self, event: dict[str, Any]) -> None:
        for listener in tuple(self.listeners):
            listener(event)

    def _work(self) -> None:
        while True:
            with self._condition:
                while not (self._closed or self._to_restore or self._to_score):
                    self._busy = None
                    self._condition.wait()
                if self._closed:
                    return
                choice = None
                if self._to_restore:
                    image, choice = self._to_restore.popleft()
                else:
                    image = self._to_score.popleft()
                item = self.items.get(image)
                if item is None:
                    continue
                self._busy, self._stop_restoring = image, False
            try:
                if choice is None:
                    self._score(item)
                else:
                    self._restore(item, choice)
            except Exception as error:
                # One image must not end the work on all the others, whatever it does.
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                item.row = item.row or ImageRow(item.name, error=f"cannot be scored ({reason})")
                item.shown = item.shown or score_record(item.row)
                item.state = "done"
            self._changed(item)

    def _score(self, item: Item) -> None:
        item.state = "scoring"
        self._changed(item)
        path = os.fspath(item.path)
        quality = None
        if isinstance(self.scorer.model, QMamba):
            with suppress(QMambaError):
                quality = self.scorer.map(path, max_side=MAP_SIDE)
        # Without a map, the command's own way to a row or an error.
        rows = [ImageRow(path, quality.score)] if quality else score_paths(self.scorer, [path])
        row = next(iter(rows))
        score = None if row.score is None else replace(row.score, image=item.name)
        item.shown = score_record(ImageRow(item.name, score, row.error), quality)
        # The command says reasons in its table only when it is asked to.
        item.row = ImageRow(item.name, score and replace(score, reasons=None), row.error)
        item.state = "done"

    def _restore(self, item: Item, choice: str) -> None:
        version = item.versions[choice]
        version.state = "restoring"
        self._changed(item)

        def progress(done: int, count: int) -> None:
            version.progress = done / count
            self._changed(item)

        def stopped() -> bool:
            return self._stop_restoring

        try:
            restorer: Restorer = self.restorers.load(choice)
            restored = restorer.restore(item.path, progress=progress, cancel=stopped)
            version.download = target_name(item.name)
            file = self._folder / f"{item.id}.{choice}{Path(version.download).suffix}"
            restored.save(file)
            version.file, version.state = file, "done"
        except Canceled:
            item.versions.pop(choice, None)
            return
        except QMambaError as error:
            version.error, version.state = str(error).replace(f" {str(item.path)!r}", ""), "failed"
            return
        except Exception as error:
            version.error, version.state = f"cannot be restored ({type(error).__name__})", "failed"
            return
        self._changed(item)
        limit = self.scorer.max_pixels * version.scale**2
        try:
            version.comparison = compare_images(self.scorer, item.path, file, max_pixels=limit)
        except QMambaError as error:
            version.error = f"not compared: {error}"


def label(name: str) -> str:
    """The last part of a file name that a browser gave, as a label."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return last[:_NAME_LENGTH] or "image"


def _display(path: Path, max_pixels: int) -> bytes:
    pixels = read_image(path, max_pixels=max_pixels).pixels
    image = Image.fromarray(reduced(pixels) if pixels.dtype == np.uint16 else pixels)
    stream = io.BytesIO()
    if image.width * image.height <= _LOSSLESS_PIXELS:
        image.save(stream, "PNG", compress_level=1)
    else:
        image.save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()
