"""What can be published on the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from qmamba.checkpoints.hub.upload import Published, publish_model
from qmamba.errors import ConfigError


class Publishable:
    """Base of what holds a network as ``model`` and the description of it as ``metadata``."""

    def push_to_hub(
        self,
        repository: str,
        *,
        license: str | None = None,
        private: bool = False,
        token: str | None = None,
        message: str | None = None,
        dry_run: bool = False,
    ) -> Published:
        """Publish the model with a card made from its metadata; see
        :func:`~qmamba.checkpoints.publish_model`.

        Args:
            repository: ``owner/name`` on the Hugging Face hub.
            license: identifier of the license of the weights, such as ``"apache-2.0"``.
            private: make a new repository private.
            token: of the hub; ``None`` takes the one that ``hf auth login`` stored.
            message: of the commit.
            dry_run: make the file and the card and send nothing.

        Returns:
            Commit, digest and card.

        Raises:
            CheckpointError: the hub refuses, cannot be reached, or stored something else.
            ConfigError: the repository or the license is malformed.
        """
        holder: Any = self
        if holder.metadata is None:
            raise ConfigError("The model has no metadata to make a card from; say what it is for.")
        return publish_model(
            holder.model,
            holder.metadata,
            repository,
            license=license,
            private=private,
            token=token,
            message=message,
            dry_run=dry_run,
        )
