"""A model hub on 127.0.0.1 that speaks what huggingface_hub asks of one: listing, files in parts, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".pt", ".gguf")  # stored by their SHA-256, as with Git LFS
TOKEN = "hf_of_a_test"
WEIGHTS = bytes(range(256)) * 8192  # 2 MB
PIECE = 65_536  # bytes that are written at once; 10 MB outside of tests
Files = dict[str, bytes]


@dataclass
class Repository:
    """revisions: branch or commit -> files."""

    revisions: dict[str, Files] = field(default_factory=dict)
    gated: bool = False
    private: bool = False


@dataclass
class Request:
    method: str
    path: str
    range: str | None


class Hub:
    """Repositories, and what has been asked for.

    break_after: path -> bytes after which the connection is closed, each once.  hold_after: path -> bytes after which
    nothing more comes until `release` is set; `holding` says that it has come to that.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.break_after: dict[str, list[int]] = {}
        self.hold_after: dict[str, int] = {}
        self.damage: set[str] = set()
        self.holding, self.release = threading.Event(), threading.Event()
        self.url = ""

    def add(self, name: str, files: Files | Path, branch: str = "main", **properties: bool) -> str:
        """Put files, or a folder, on a branch; the commit."""
        if isinstance(files, Path):
            folder = files
            files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        repository = self.repositories.setdefault(name, Repository(**properties))
        listed = sorted((path, hashlib.sha1(content).hexdigest()) for path, content in files.items())
        commit = hashlib.sha1(json.dumps([name, listed]).encode()).hexdigest()
        repository.revisions[branch] = repository.revisions[commit] = files
        return commit

    def commit_of(self, name: str, revision: str) -> str:
        revisions = self.repositories[name].revisions
        return next(key for key, files in revisions.items() if files is revisions[revision] and len(key) == 40)

    def asked(self, path: str, method: str = "GET") -> list[Request]:
        """Requests for the content of a file."""
        return [
            r for r in self.requests if r.method == method and "/resolve/" in r.path and r.path.endswith("/" + path)
        ]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        """Tests print nothing."""

    # ---- answers

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"", X_Error_Code=code, X_Error_Message=code)

    def files(self, name: str, revision: str) -> Files | None:
        """The files of a revision; None where the request was refused."""
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not known):
            self.refuse(404 if known else 401, "RepoNotFound")
        elif revision not in repository.revisions:
            self.refuse(404, "RevisionNotFound")
        else:
            return repository.revisions[revision]
        return None

    # ---- reading

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            if (files := self.files(*match.groups())) is not None:
                self.answer_json([self.listing(name, content, tree=True) for name, content in files.items()])
        elif match := re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)(?:/revision/(.+))?", path):
            name, revision = match[1], match[2] or "main"
            if (files := self.files(name, revision)) is not None:
                siblings = [self.listing(name, content) for name, content in files.items()]
                self.answer_json({"id": name, "sha": self.hub.commit_of(name, revision), "siblings": siblings})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups())
        else:
            self.refuse(404, "EntryNotFound")

    def listing(self, name: str, content: bytes, tree: bool = False) -> dict[str, object]:
        size, blob = len(content), hashlib.sha1(content).hexdigest()
        entry = {"path": name, "type": "file", "oid": blob} if tree else {"rfilename": name, "blobId": blob}
        if name.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid" if tree else "sha256": digest, "size": size, "pointerSize": 134}
        return {**entry, "size": size}

    def resolve(self, name: str, revision: str, path: str) -> None:
        if (files := self.files(name, revision)) is None:
            return
        if self.hub.repositories[name].gated:
            return self.refuse(403, "GatedRepo")
        if path not in files:
            return self.refuse(404, "EntryNotFound")
        content = files[path]
        large = path.endswith(LARGE)
        etag = (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
        headers = {"X-Repo-Commit": self.hub.commit_of(name, revision), "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if path in self.hub.damage:
            content = bytes(len(content))
        start, status = 0, 200
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content) - start), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.send_content(path, content[start:])

    def send_content(self, path: str, content: bytes) -> None:
        hub = self.hub
        if hub.break_after.get(path):
            self.wfile.write(content[: hub.break_after[path].pop(0)])
        elif path in hub.hold_after:
            self.wfile.write(content[: hub.hold_after.pop(path)])
            self.wfile.flush()
            hub.holding.set()
            hub.release.wait(60)
        else:
            self.wfile.write(content)

    # ---- writing

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        self.hub.uploads[self.path.rpartition("/")[2]] = self.body()
        self.answer(200)

    def do_POST(self) -> None:
        path, body, hub = unquote(urlsplit(self.path).path), self.body(), self.hub
        hub.requests.append(Request("POST", path, None))
        if path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "Unauthorized")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in hub.repositories else 200
            private = asked.get("visibility") == "private"
            hub.repositories.setdefault(name, Repository({"main": {}}, private=private))
            self.answer_json({"url": f"{hub.url}/{name}"}, status)
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
            files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            self.answer_json({"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            actions = lambda oid: {"upload": {"href": f"{hub.url}/upload/{oid}"}}  # noqa: E731
            objects = [{**entry, "actions": actions(entry["oid"])} for entry in json.loads(body)["objects"]]
            self.answer_json({"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            name, branch = match.groups()
            files = dict(hub.repositories[name].revisions[branch])
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = hub.uploads[value["oid"]]
            commit = hub.add(name, files, branch)
            self.answer_json({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit})
        else:
            self.refuse(404, "EntryNotFound")


@contextmanager
def running_hub():
    """A hub that answers until the block is left."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        server.server_close()
