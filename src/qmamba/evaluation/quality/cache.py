"""Predictions on disk as they are made, so that an interrupted evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import cast

from qmamba.assess import Scorer
from qmamba.errors import DataError
from qmamba.locks import owned_output
from qmamba.models import QMamba
from qmamba.prompts.tuned import identity_of

_KEY = ("run", "file", "size", "modified")
_START = b'{"run": "'


class PredictionCache:
    """A file of predictions that only ever grows. Use it as a context manager.

    One JSON object per line: the digest of model, policy, precision and device; the image with
    its size and time of change; the prediction. A line that was cut off is passed over. One file
    may serve many evaluations, one after the other, because predictions of other models are told
    apart.

    Args:
        path: the file, which may exist already.

    Raises:
        DataError: the file cannot be opened, another process has it, or it holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._known: dict[tuple[str, str, int, int], float] = {}
        with ExitStack() as stack:
            stack.enter_context(owned_output(self.path))
            try:
                self._stream = stack.enter_context(open(self.path, "a+b"))
                self._stream.seek(0)
                content = self._stream.read()
            except OSError as error:
                raise DataError(
                    f"Cannot keep predictions in {str(self.path)!r}: {error.strerror}."
                ) from error
            self._read(content)
            self._open = stack.pop_all()

    def __len__(self) -> int:
        """Number of predictions, of all models together."""
        return len(self._known)

    def get(self, run: str, image: Path) -> float | None:
        """The prediction for an image as it is on the disk now, None where there is none.

        Args:
            run: :func:`run_digest` of what would predict.
            image: the image.
        """
        identity = _identity(image)
        return None if identity is None else self._known.get((run, *identity))

    def put(self, run: str, image: Path, raw: float) -> None:
        """Add a prediction; it is with the operating system when this returns.

        Raises:
            DataError: the disk is full or gone.
        """
        identity = _identity(image)
        if identity is None:
            return
        entry = dict(zip(_KEY, (run, *identity), strict=True))
        try:
            self._stream.write(json.dumps({**entry, "raw": raw}).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise DataError(
                f"Cannot write {str(self.path)!r}: {error.strerror}; it holds the "
                f"{len(self)} predictions so far."
            ) from error
        self._known[(run, *identity)] = raw

    def close(self) -> None:
        """Close the file, and remove it if it is empty."""
        with self._open:
            if self._stream.closed:
                return
            # A line that the disk had no space for is still in the buffer, and was told of.
            with suppress(OSError):
                self._stream.close()
            if not self._known:
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> PredictionCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, content: bytes) -> None:
        lines = content.split(b"\n")
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
                if set(entry) != {*_KEY, "raw"}:
                    raise ValueError
                self._known[tuple(entry[name] for name in _KEY)] = float(entry["raw"])
            except (ValueError, TypeError):
                complete = number < len(lines) - 1
                cut_off = line[: len(_START)] == _START[: len(line)]
                if number == 0 and (complete or not cut_off):
                    raise DataError(
                        f"{str(self.path)!r} is no file of predictions; give another name."
                    ) from None
        if content and not content.endswith(b"\n"):
            self._stream.write(b"\n")


def run_digest(scorer: Scorer) -> str:
    """A digest of everything that a prediction depends on beside the image."""
    settings = {
        "weights": identity_of(cast(QMamba, scorer.model)).weights_sha256,
        "scale": scorer.scale.to_dict(),
        "policy": str(scorer.policy),
        "precision": scorer.precision,
        "device": scorer.device.type,
        "max_pixels": scorer.max_pixels,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def _identity(image: Path) -> tuple[str, int, int] | None:
    try:
        status = os.stat(image)
    except OSError:
        return None
    return os.path.abspath(image), status.st_size, status.st_mtime_ns
