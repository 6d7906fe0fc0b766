"""A server on this machine that answers as the Hugging Face hub does, as far as reading asks.

Repositories are dictionaries here; `python tests/local_hub.py FOLDER PORT` serves FOLDER/OWNER/NAME
as `main` until it is stopped. Sources: https://huggingface.co/docs/hub/api, and what
huggingface_hub sends and reads: X-Repo-Commit, ETag, X-Linked-Etag, X-Linked-Size, X-Error-Code.
"""

import contextlib
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_invented"
Files = dict[str, bytes]


@dataclass
class Repository:
    """Files at each revision; `main` is one of them.

    private : shown to nobody without the token
    gated   : its files are open to nobody
    stored  : names of files that lie in the large storage, where a redirect leads
    """

    revisions: dict[str, Files]
    private: bool = False
    gated: bool = False
    stored: frozenset[str] = frozenset()

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit is."""
        for name, files in self.revisions.items():
            commit = hashlib.sha1(f"{name} {sorted(files)}".encode()).hexdigest()
            if revision in (name, commit):
                return commit
        return None

    def files(self, revision: str) -> Files:
        """The files of a revision that is there."""
        commit = self.commit(revision)
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


@dataclass
class Hub:
    """Repositories by OWNER/NAME, those of data by datasets/OWNER/NAME; and what was asked."""

    repositories: dict[str, Repository]
    address: str = ""
    requests: list[str] = field(default_factory=list)
    broken: int = 0

    @property
    def storage(self) -> str:
        """Where the large storage is: a host of another name."""
        return self.address.replace("127.0.0.1", "localhost")


Answer = tuple[int, dict[str, str], bytes]


def _error(status: int, code: str = "", message: str = "") -> Answer:
    return status, {"X-Error-Code": code, "X-Error-Message": message or code}, b""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._send(body=True)

    def do_HEAD(self) -> None:
        self._send(body=False)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def _send(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {unquote(path)}")
        status, headers, content = self._answer(path.strip("/"))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _answer(self, path: str) -> Answer:
        if self.hub.broken:
            return _error(self.hub.broken)
        if path.startswith("storage/"):
            return self._stored(unquote(path))
        is_api = path.startswith("api/")
        kind, name, rest = _divided(path.removeprefix("api/"), is_api=is_api)
        repository = self.hub.repositories.get(f"{kind}{name}")
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            return _error(401, message="Invalid credentials in Authorization header")
        if repository is None or (repository.private and not token):
            return _error(404 if token else 401, "RepoNotFound", "Repository not found")
        word, _, rest = rest.partition("/")
        parts = rest.partition("/") if word else ("main", "", "")
        revision, _, file = map(unquote, parts)  # a slash of the revision is written as %2F
        commit = repository.commit(revision)
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if is_api:
            return self._told(name, repository, revision, commit)
        if repository.gated:
            return _error(403, "GatedRepo", "Access to the model is restricted")
        files = repository.files(revision)
        if file not in files:
            status, headers, content = _error(404, "EntryNotFound", "Entry not found")
            return status, headers | {"X-Repo-Commit": commit}, content
        content = files[file]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        if file not in repository.stored:
            return 200, {"ETag": etag, "X-Repo-Commit": commit}, content
        moved = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.hub.storage}/storage/{kind}{name}/{revision}/{file}",
        }
        return 302, moved, b""

    def _stored(self, path: str) -> Answer:
        if "Authorization" in self.headers:
            return _error(400, message="A token is not for this host")
        for name, repository in self.hub.repositories.items():
            for revision, files in repository.revisions.items():
                for file in repository.stored & files.keys():
                    if path == f"storage/{name}/{revision}/{file}":
                        return 200, {}, files[file]
        return _error(404)

    def _told(self, name: str, repository: Repository, revision: str, commit: str) -> Answer:
        record = {
            "_id": "0",
            "id": name,
            "modelId": name,
            "private": repository.private,
            "sha": commit,
            "siblings": [{"rfilename": file} for file in repository.files(revision)],
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(record).encode()


def _divided(path: str, *, is_api: bool) -> tuple[str, str, str]:
    """The kind, OWNER/NAME and the rest of a path."""
    kind = "datasets/" if path.startswith("datasets/") else ""
    parts = path.removeprefix("models/" if is_api and not kind else kind).split("/", 2)
    return kind, "/".join(parts[:2]), "/".join(parts[2:])


@contextlib.contextmanager
def served(hub: Hub, port: int = 0) -> Iterator[Hub]:
    """The hub while it answers, at `hub.address`."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def _of_folder(folder: Path) -> Hub:
    found: dict[str, Repository] = {}
    for place in folder.glob("*/*"):
        files = {
            path.relative_to(place).as_posix(): path.read_bytes()
            for path in place.rglob("*")
            if path.is_file()
        }
        found[place.relative_to(folder).as_posix()] = Repository({"main": files})
    return Hub(found)


if __name__ == "__main__":
    with served(_of_folder(Path(sys.argv[1])), int(sys.argv[2])) as found:
        print(f"HF_ENDPOINT={found.address}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
