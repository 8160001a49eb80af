"""A stand-in of the hub's HTTP interface on the loopback address, as far as weights need it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Repository:
    """Commits of one repository: their number in hexadecimal to the files of that moment."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        present = self.commits.get(self.branches.get(branch, ""), {})
        digest = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[digest] = {**present, **files}
        self.branches[branch] = digest
        return digest


class Hub:
    """The state of the stand-in, and the faults that a test asks it for."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self.token = "hf_of_the_test"
        self.damage_uploads = False
        self.damage_downloads = False

    def add(self, name: str, files: dict[str, bytes]) -> str:
        """Put a commit into a repository, which is made where it is missing."""
        repository = self.repositories.setdefault(name, Repository(private=False))
        return repository.commit(files)

    def lfs(self, path: str) -> bool:
        return path.endswith((".safetensors", ".bin"))


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._resolve(send_content=False)

    def do_GET(self) -> None:
        self._resolve(send_content=True)

    def do_PUT(self) -> None:
        content = self._body()
        self.state.requests.append(("PUT", self.path))
        if self.state.damage_uploads:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.state.objects[self.path.rpartition("/")[2]] = content
        self._json(200, {})

    def do_POST(self) -> None:
        body, path = self._body(), unquote(self.path.partition("?")[0])
        self.state.requests.append(("POST", path))
        if path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {self.state.token}":
            self._json(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/(.+)", path):
            repository = self.state.repositories[match[1]]
            if match[2] == "commit":
                self._commit(match[1], repository, body, match[3])
            else:
                self._preupload(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/paths-info/(.+)", path):
            self._paths_info(match[1], match[2], body)
        else:
            self._json(404, {"error": f"no {path}"})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.state.repositories:
            url = f"{self.state.url}/{name}"
            self._json(409, {"error": "You already created this model repo", "url": url})
            return
        # The real hub counts a missing value as public.
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.state.repositories[name] = Repository(bool(private))
        self.state.repositories[name].commit({})
        self._json(200, {"url": f"{self.state.url}/{name}", "name": name})

    def _preupload(self, wanted: dict[str, Any]) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if self.state.lfs(file["path"]) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in wanted["files"]
        ]
        self._json(200, {"files": files})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            {
                "oid": entry["oid"],
                "size": entry["size"],
                "actions": {"upload": {"href": f"{self.state.url}/upload/{entry['oid']}"}},
            }
            for entry in wanted["objects"]
        ]
        self._json(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repository: Repository, body: bytes, branch: str) -> None:
        files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
        oid = repository.commit(files, branch)
        url = f"{self.state.url}/{name}/commit/{oid}"
        self._json(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _paths_info(self, name: str, revision: str, body: bytes) -> None:
        repository = self.state.repositories[name]
        files = repository.commits[repository.branches.get(revision, revision)]
        names = re.findall(r"paths=([^&]+)", unquote(body.decode())) or json.loads(body)["paths"]
        found = []
        for path in names:
            content = files[path]
            entry = {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
            if self.state.lfs(path):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            found.append(entry)
        self._json(200, found)

    def _resolve(self, *, send_content: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.state.requests.append((self.command, path))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repository = self.state.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            self._json(401, {"error": "Repository not found"}, code="RepoNotFound")
            return
        commit = repository.branches.get(match[2], match[2])
        if commit not in repository.commits:
            self._json(404, {"error": "Invalid rev id"}, code="RevisionNotFound")
            return
        content = repository.commits[commit].get(match[3])
        if content is None:
            self._json(404, {"error": "Entry not found"}, code="EntryNotFound", commit=commit)
            return
        etag = (
            hashlib.sha256(content).hexdigest()
            if self.state.lfs(match[3])
            else hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        )
        if self.state.damage_downloads:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if send_content:
            self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(
        self, status: int, value: Any, *, code: str | None = None, commit: str | None = None
    ) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code is not None:
            self.send_header("X-Error-Code", code)
        if commit is not None:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
