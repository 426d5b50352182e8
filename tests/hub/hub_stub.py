"""A hub on this machine: the part of the HTTP interface that downloads use, with faults on demand."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

OLD, NEW = "a" * 40, "b" * 40


@dataclass
class Hub:
    """Repositories and what was asked of them. Change the fields while it runs."""

    repos: dict[str, dict[str, dict[str, bytes]]]
    """repository -> commit -> file -> content."""
    branches: dict[str, str] = field(default_factory=lambda: {"main": NEW})
    requests: list[str] = field(default_factory=list)
    """"METHOD path" of every request, with " from N" where a range was asked for."""
    is_gated: bool = False
    fails: bool = False
    """Answer everything with an internal error."""
    speaks_html: bool = False
    """Answer listings with a page, as a captive portal does."""
    break_once_at: int | None = None
    """Close the connection after so many bytes of the next weight file."""
    served: dict[str, bytes] = field(default_factory=dict)
    """file -> other bytes of the same length that are sent in place of its content."""
    url: str = ""

    def downloads(self) -> list[str]:
        """Names of files whose content was sent, in order."""
        return [line.split("/")[-1] for line in self.requests if line.startswith("GET") and "/resolve/" in line]


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serves the hub on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked = self.headers.get("Range", "")
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
            hub.requests.append(f"{self.command} {path}" + (f" from {start}" if asked else ""))
            if hub.fails:
                return self.send(500, b"down")
            words = path.strip("/").split("/")
            if words[:2] == ["api", "models"]:
                return self.listing("/".join(words[2:4]), words[5] if len(words) > 4 else "main")
            return self.file("/".join(words[:2]), words[3], "/".join(words[4:]), start)

        def commit(self, repo: str, revision: str) -> str | None:
            """Answers with an error and gives None if there is no such commit."""
            if repo not in hub.repos:
                return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
            if hub.is_gated:
                return self.send(403, b"", {"X-Error-Code": "GatedRepo"})
            commit = hub.branches.get(revision, revision)
            if commit not in hub.repos[repo]:
                return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return commit

        def listing(self, repo: str, revision: str) -> None:
            if hub.speaks_html:
                return self.send(200, b"<html>please log in</html>")
            commit = self.commit(repo, revision)
            if commit is None:
                return None
            names = [{"rfilename": name} for name in hub.repos[repo][commit]]
            return self.send(200, json.dumps({"id": repo, "sha": commit, "siblings": names}).encode())

        def file(self, repo: str, revision: str, name: str, start: int) -> None:
            commit = self.commit(repo, revision)
            if commit is None:
                return
            content = hub.repos[repo][commit].get(name)
            if content is None:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                return
            headers = {
                "X-Repo-Commit": commit,
                "ETag": f'"{etag(name, content)}"',
                "Accept-Ranges": "bytes",
                "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}",
            }
            if not start:
                del headers["Content-Range"]
            self.send(206 if start else 200, hub.served.get(name, content)[start:], headers)

        def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.break_once_at is not None and "safetensors" in self.path and len(body) > hub.break_once_at:
                self.wfile.write(body[: hub.break_once_at])
                hub.break_once_at = None
                self.close_connection = True
                return
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def etag(name: str, content: bytes) -> str:
    """Large files go by their sha256, small ones by their git number."""
    if name.endswith((".safetensors", ".bin")):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
