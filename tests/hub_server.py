"""A small server that speaks the hub's HTTP for models: what revisions there are, their files, and the files themselves; and
how repositories are made and committed to, with large files by LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".gguf")
"""Ends of the names of files that LFS keeps."""


def commit(number: int) -> str:
    """A full commit; no two have the first digits in common."""
    return hashlib.sha1(str(number).encode()).hexdigest()


@dataclass
class Repo:
    """A model on the hub."""

    commits: dict[str, Path]
    """The folder with the files of each commit."""
    refs: dict[str, str]
    """The commit of each branch and tag."""
    gated: bool = False
    """Whether its files are given to those alone who accepted its terms; what files there are is told to all."""
    private: bool = False

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag, or a commit or its beginning."""
        whole = (sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision))
        return self.refs.get(revision) or next(whole, None)


@dataclass
class Hub:
    """The hub: change it and the next request sees that."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    failing: int | None = None
    """Status of every answer, while it is set."""
    cut: dict[str, int] = field(default_factory=dict)
    """Bytes of a file behind which the connection is closed."""
    cuts: int | None = None
    """How many answers more are cut; None for all."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request, in order."""
    writers: set[str] = field(default_factory=set)
    """Tokens that may write."""
    large: dict[str, bytes] = field(default_factory=dict)
    """What LFS has, by SHA-256."""
    folder: Path | None = None
    """Where pushed commits lie."""
    ranges: list[str] = field(default_factory=list)
    """The `Range` of each request that has one."""

    @property
    def fetched(self) -> set[str]:
        """The names of the files whose bytes were asked for."""
        paths = (path.partition("/resolve/")[2] for method, path in self.asked if method == "GET")
        return {path.partition("/")[2] for path in paths if path}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_PUT(self) -> None:
        digest, data = self.path.rpartition("/")[2], self._read()
        assert hashlib.sha256(data).hexdigest() == digest
        self.hub.large[digest] = data
        self._json({}, True)

    def do_POST(self) -> None:
        path, data = unquote(urlsplit(self.path).path), self._read()
        self.hub.asked.append((self.command, path))
        if self.hub.failing is not None:
            self._send(self.hub.failing, b"{}", True)
        elif self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.hub.writers:
            self._send(403, b'{"error": "no write access"}', True)
        elif path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repos:
                self._send(409, b"{}", True)
                return
            self._commit(name, {}, private=asked.get("private") or asked.get("visibility") == "private")
            self._json({"url": f"{self.hub.endpoint}/{name}"}, True)
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{one['oid']}"}}}
                for one in json.loads(data)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects}, True)
        elif "/preupload/" in path:
            names = [one["path"] for one in json.loads(data)["files"]]
            modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
            files = [{"path": name, "shouldIgnore": False, "uploadMode": mode} for name, mode in modes.items()]
            self._json({"files": files}, True)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []}, True)
        else:
            self._take_commit("/".join(path.split("/")[3:5]), [json.loads(line) for line in data.splitlines()])

    def _take_commit(self, name: str, lines: list[dict[str, dict[str, str]]]) -> None:
        repo = self.hub.repos[name]
        old = repo.commits[repo.refs["main"]]
        if lines[0]["value"].get("parentCommit") not in (None, repo.refs["main"]):
            self._send(412, b"{}", True)
            return
        files = {str(file.relative_to(old)): file.read_bytes() for file in old.rglob("*") if file.is_file()}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                content = value.get("content")
                files[value["path"]] = base64.b64decode(content) if content is not None else self.hub.large[value["oid"]]
        sha = self._commit(name, files)
        self._json({"commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}", "commitOid": sha}, True)

    def _commit(self, name: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """A new commit on the main branch of a repository, which is made where there is none."""
        repo = self.hub.repos.setdefault(name, Repo({}, {}, private=private))
        sha = commit(10_000 + len(self.hub.asked))
        assert self.hub.folder is not None
        folder = self.hub.folder / sha
        folder.mkdir()
        for path, data in files.items():
            (folder / path).write_bytes(data)
        repo.commits[sha] = folder
        repo.refs["main"] = sha
        return sha

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        words = path.removeprefix("/api/models/").strip("/").split("/")
        repo = self.hub.repos.get("/".join(words[:2]))
        verb, rest = words[2] if len(words) > 2 else "revision", words[3:] or ["main"]
        revision, name = (rest[0], "/".join(rest[1:])) if verb == "resolve" else ("/".join(rest), "")
        sha = repo.resolve(revision) if repo is not None else None
        if self.hub.failing is not None:
            self._send(self.hub.failing, b"{}", body)
        elif repo is None:
            self._refuse(401, "RepoNotFound", body)
        elif sha is None:
            self._refuse(404, "RevisionNotFound", body)
        else:
            self._answer_of(repo, sha, verb, name, body)

    def _answer_of(self, repo: Repo, sha: str, verb: str, name: str, body: bool) -> None:
        folder = repo.commits[sha]
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if verb == "revision":
            siblings = [{"rfilename": str(file.relative_to(folder)), "size": file.stat().st_size} for file in files]
            self._json({"id": "a/b", "sha": sha, "private": repo.private, "siblings": siblings}, body)
        elif verb == "tree":
            self._json([_entry(file, folder) for file in files], body)
        elif repo.gated:
            self._refuse(403, "GatedRepo", body)
        elif folder / name not in files:
            self._refuse(404, "EntryNotFound", body)
        else:
            self._send_file(folder / name, sha, body)

    def _send_file(self, file: Path, sha: str, body: bool) -> None:
        data, start = file.read_bytes(), 0
        if "Range" in self.headers:
            self.hub.ranges.append(self.headers["Range"])
            start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", sha)
        self.send_header("ETag", f'"{_etag(data)}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        until = self.hub.cut.get(file.name)
        if until is None or self.hub.cuts == 0:
            self.wfile.write(data[start:])
            return
        if self.hub.cuts is not None:
            self.hub.cuts -= 1
        self.wfile.write(data[start:until])
        self.wfile.flush()
        self.close_connection = True

    def _refuse(self, status: int, code: str, body: bool) -> None:
        self._send(status, json.dumps({"error": code}).encode(), body, code)

    def _json(self, value: object, body: bool) -> None:
        self._send(200, json.dumps(value).encode(), body)

    def _send(self, status: int, data: bytes, body: bool, code: str | None = None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _entry(file: Path, folder: Path) -> dict[str, object]:
    data = file.read_bytes()
    entry = {"type": "file", "path": str(file.relative_to(folder)), "size": len(data), "oid": _etag(data)[:40]}
    if file.suffix in LARGE:
        entry["lfs"] = {"oid": _etag(data), "size": len(data), "pointerSize": 134}
    return entry


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub, until the end of the block."""
    hub = Hub(folder=Path(tempfile.mkdtemp()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        shutil.rmtree(str(hub.folder))
