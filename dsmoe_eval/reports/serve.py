"""A server of rendered runs and leaderboards for this machine only, with their Inspect logs."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ..errors import UserError

HOST = "127.0.0.1"
Links = Mapping[str, Mapping[str, list[dict[str, str]]]]
"""Task -> item -> its samples in Inspect logs, each with `label` (the model) and `url`."""
_MOST_PAGE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Site:
    """The folder that is served.

    Attributes:
        root: the folder.
        pages: title and path, from the root, of every page that the program rendered in it.
        links: links from items to Inspect's viewer.
        viewer: a folder with Inspect's viewer and the logs; None: there is no log.
    """

    root: Path
    pages: tuple[tuple[str, str], ...]
    links: Links = field(default_factory=dict)
    viewer: Path | None = None


def open_site(root: Path, viewer: Path) -> Site:
    """Find the pages and the Inspect logs of a folder.

    Args:
        root: runs, leaderboards, or folders of them.
        viewer: an empty folder, to which Inspect's viewer is written.

    Raises:
        UserError: there is no page in `root`.
    """
    root = root.resolve()
    pages = tuple(sorted(_pages(root)))
    if not pages:
        raise UserError(
            f"{root}: holds no report or leaderboard; dsmoe-eval report RUN or leaderboard build "
            "makes one"
        )
    logs = sorted(path for path in root.rglob("*.eval") if path.is_file())
    if not logs:
        return Site(root, pages)
    return Site(root, pages, _bundle(root, logs, viewer), viewer)


def _pages(root: Path) -> Iterator[tuple[str, str]]:
    for path in root.rglob("index.html"):
        place = path.relative_to(root)
        if any(part.startswith(".") for part in place.parts) or path.stat().st_size > _MOST_PAGE:
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            start = file.read(100_000)
        title = re.search(r"<title>(.*?)</title>", start, re.DOTALL)
        if title is not None:
            yield html.unescape(title[1].strip()), place.as_posix()


def _bundle(root: Path, logs: list[Path], viewer: Path) -> Links:
    """Put Inspect's viewer and the logs into a folder; return the link to each sample."""
    try:
        from inspect_ai.log import bundle_log_dir, read_eval_log, read_eval_log_sample_summaries
    except ImportError as error:
        raise UserError(
            f"{logs[0]}: an Inspect log, and Inspect is not installed to show it; "
            "pip install 'dsmoe-eval[inspect]'"
        ) from error
    bundle_log_dir(str(root), str(viewer), overwrite=True)
    links: dict[str, dict[str, list[dict[str, str]]]] = {}
    for path in logs:
        about = read_eval_log(str(path), header_only=True).eval
        place = quote(path.relative_to(root).as_posix(), safe="")
        for sample in read_eval_log_sample_summaries(str(path)):
            url = (
                f"/inspect/index.html#/logs/{place}/samples/sample/{quote(str(sample.id), safe='')}"
            )
            own = {"label": f"{about.model}, sample {sample.epoch}", "url": f"{url}/{sample.epoch}"}
            links.setdefault(about.task, {}).setdefault(str(sample.id), []).append(own)
    return links


def make_server(site: Site, port: int) -> ThreadingHTTPServer:
    """Make a server on the loopback address, not yet serving; port 0 takes a free one.

    Raises:
        UserError: the port is taken.
    """
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, site))
    except OSError as error:
        raise UserError(f"port {port}: {error.strerror}; give another --port") from error


class _Handler(SimpleHTTPRequestHandler):
    """A handler that serves the site and Inspect's viewer to requests that name this machine."""

    def __init__(self, site: Site, *args: object, **kwargs: object) -> None:
        self.site = site
        super().__init__(*args, directory=str(site.root), **kwargs)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        """Answer as for GET, without the content."""
        self.do_GET()

    def do_GET(self) -> None:
        """Send a page, a file beside it, or 404."""
        # Another site may make its host name resolve to this machine (DNS rebinding).
        if (self.headers.get("Host") or "").rpartition(":")[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            self._send(_index(self.site).encode(), "text/html; charset=utf-8")
        elif path == "/links.js":
            text = json.dumps(self.site.links).replace("<", "\\u003c")
            self._send(f"window.dsmoeLinks = {text};".encode(), "text/javascript; charset=utf-8")
        else:
            self._send_file(path)

    def _send_file(self, path: str) -> None:
        base, rest = self.site.root, path.removeprefix("/")
        if path.startswith("/inspect/") and self.site.viewer is not None:
            base, rest = self.site.viewer, path.removeprefix("/inspect/")
        found = (base / rest).resolve()
        hidden = any(part.startswith(".") for part in Path(rest).parts)
        if hidden or not found.is_relative_to(base.resolve()) or not found.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content, kind = found.read_bytes(), self.guess_type(str(found))
        if self.site.links and base == self.site.root and found.suffix == ".html":
            content = content.replace(b"</head>", b'<script src="/links.js"></script></head>', 1)
        self._send(content, kind)

    def _send(self, content: bytes, kind: str) -> None:
        size, part = len(content), self._range(len(content))
        if part is None:
            self.send_response(HTTPStatus.OK)
        else:
            content = content[part[0] : part[1] + 1]
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {part[0]}-{part[1]}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _range(self, size: int) -> tuple[int, int] | None:
        """Return the first and last byte of a request's single range, as Inspect's viewer sends."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if asked is None or not any(asked.groups()):
            return None
        first, last = asked.groups()
        if not first:  # the last bytes of the content
            return max(0, size - int(last)), size - 1
        end = min(int(last or size), size - 1)
        return (int(first), end) if int(first) <= end else None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Ignore the message: the terminal is for the user."""


def _index(site: Site) -> str:
    rows = [(title, quote(path)) for title, path in site.pages]
    if site.viewer is not None:
        rows.append(("Inspect's viewer of the logs", "inspect/index.html"))
    items = "".join(f'<li><a href="{url}">{html.escape(title)}</a></li>' for title, url in rows)
    name = html.escape(str(site.root))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" '
        f'content="light dark"><title>{name}</title></head><body><h1>{name}</h1>'
        f"<ul>{items}</ul></body></html>"
    )
