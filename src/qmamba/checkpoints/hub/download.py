"""From a hub id to the bytes of a weights file, checked against the digest that the hub gave."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from qmamba.errors import CheckpointError, ConfigError

HUB_FILE = "model.safetensors"
"""The file that is taken from a hub repository when the id names none."""

# An owner starts with a letter or digit, so "./file" and "../file" are paths.
_PATTERN = re.compile(
    r"(?P<owner>\w[\w.-]{0,95})/(?P<name>[\w.-]{1,96})(?:@(?P<revision>[\w.-]{1,99}))?"
    r"(?:/(?P<file>[\w.-]+(?:/[\w.-]+)*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA1, _SHA256 = 40, 64


@dataclass(frozen=True)
class HubId:
    """A file of a model repository on the hub."""

    owner: str
    name: str
    file: str = HUB_FILE
    revision: str | None = None
    """Branch, tag or commit; ``None`` is the newest state of the main branch."""

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """Read ``owner/name[@revision][/file]``; ``None`` for a text of another form."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            return None
        return cls(match["owner"], match["name"], match["file"] or HUB_FILE, match["revision"])

    @property
    def repository(self) -> str:
        """``owner/name``."""
        return f"{self.owner}/{self.name}"

    def at(self, revision: str | None) -> HubId:
        """The same file at a revision that was given beside the id.

        Raises:
            ConfigError: the id names another one.
        """
        if revision is None:
            return self
        if self.revision not in (None, revision):
            raise ConfigError(
                f"The hub id {self} names a revision and {revision!r} is given beside it; leave "
                "one of them out."
            )
        return replace(self, revision=revision)

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.repository}{revision}" + ("" if self.file == HUB_FILE else f"/{self.file}")


def download(hub_id: HubId) -> tuple[bytes, HubId]:
    """Fetch a file, or take it from the cache of the hub's client.

    Only this one file is asked for: where a repository has no safetensors, no pickle is taken
    instead. ``HF_HUB_OFFLINE=1`` keeps the client off the network.

    Returns:
        Its content, and the id with the commit that the revision stands for.

    Raises:
        CheckpointError: the hub has no such file or cannot be reached, or the content is not what
            the hub announced.
    """
    import huggingface_hub

    try:
        with quiet_client():
            path = Path(
                huggingface_hub.hf_hub_download(
                    hub_id.repository, hub_id.file, revision=hub_id.revision
                )
            )
        content = path.read_bytes()
    except Exception as error:  # The hub client lets through errors of several HTTP libraries.
        raise CheckpointError(_problem(hub_id, error)) from error
    _require_announced(content, path, hub_id)
    commit = _commit_of(path)
    return content, hub_id if commit is None else replace(hub_id, revision=commit)


@contextmanager
def quiet_client() -> Iterator[None]:
    """Without the client's two lines per attempt on an unreachable hub, which end in one error.

    Who sets ``HF_HUB_VERBOSITY`` gets what that asks for.
    """
    from huggingface_hub.utils import logging as client

    level = client.get_verbosity()
    if level == logging.WARNING:
        client.set_verbosity_error()
    try:
        yield
    finally:
        client.set_verbosity(level)


def _commit_of(path: Path) -> str | None:
    """The commit in the cache's ``snapshots/<commit>/<file>``."""
    names = path.parts
    for folder, commit in itertools.pairwise(names):
        if folder == "snapshots" and _COMMIT.fullmatch(commit):
            return commit
    return None


def _require_announced(content: bytes, path: Path, hub_id: HubId) -> None:
    """Compare with the digest that names the file in the cache, where the cache has links."""
    stored = Path(path).resolve()
    if stored.parent.name != "blobs":
        return
    digest = stored.name
    if len(digest) == _SHA256:
        found = hashlib.sha256(content).hexdigest()
    elif len(digest) == _SHA1:
        # Small files are plain objects of git.
        head = f"blob {len(content)}\0".encode()
        found = hashlib.sha1(head + content, usedforsecurity=False).hexdigest()
    else:
        return
    if found != digest:
        raise CheckpointError(
            f"The download of {hub_id} is damaged: its checksum is {found[:12]} and the hub "
            f"announced {digest[:12]}; delete {stored} and try again."
        )


def _problem(hub_id: HubId, error: Exception) -> str:
    """One sentence for what the hub's client raised."""
    from huggingface_hub import constants, errors

    repository, wanted = hub_id.repository, hub_id.file
    if isinstance(error, errors.GatedRepoError):
        return f"{repository} asks for its terms to be accepted; do so on its page and log in."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is no local file {repository} and no repository of that name on the hub, or "
            "it is private; check the name, or log in with `hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {hub_id.revision!r}; give a branch, tag or commit."
    if isinstance(error, errors.LocalEntryNotFoundError) or constants.is_offline_mode():
        if constants.is_offline_mode():
            return (
                f"{hub_id} is not in the cache and HF_HUB_OFFLINE is set; unset it, or download "
                "the file beforehand."
            )
        return f"{hub_id} is not in the cache and the hub cannot be reached; check the connection."
    if isinstance(error, errors.EntryNotFoundError):
        return (
            f"{repository} has no file {wanted}; name the file as {repository}/FILE. Weights in "
            "pickles are never taken in its place."
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"There is no local file {repository}/{wanted}, and the hub did not give it either "
        f"({lines[0].rstrip('.:')}); check the name and the connection."
    )
