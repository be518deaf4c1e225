"""A server of rendered runs and leaderboards for this machine only, with their Inspect logs."""

from __future__ import annotations

import html
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ..errors import UserError
from ..storage import shown

HOST = "127.0.0.1"
Links = Mapping[str, Mapping[str, list[dict[str, str]]]]
"""Task -> item -> its samples in Inspect logs, each with `label` (the model) and `url`."""


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
        if any(part.startswith(".") for part in place.parts) or not path.is_file():
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


def listen(port: int) -> socket.socket:
    """Make a socket that listens on the loopback address only; port 0 takes a free one.

    Raises:
        UserError: the port is taken.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(f"port {port}: {error.strerror}; give another --port") from error


def make_server(site: Site) -> uvicorn.Server:
    """Make a server of the site and Inspect's viewer, which runs on a socket of `listen`."""
    root = _Pages if site.links else _Files
    mounts = [Mount("/", root(directory=site.root))]
    if site.viewer is not None:
        mounts.insert(0, Mount("/inspect", _Files(directory=site.viewer)))
    # Another site may make its host name resolve to this machine (DNS rebinding).
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app = Starlette(routes=[*_made(site), *mounts], middleware=[hosts])
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",  # the terminal is for the user
        ws="none",
        lifespan="off",
        headers=[("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")],
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def _made(site: Site) -> list[Route]:
    """Return the list of pages, and the links into Inspect's viewer as a script."""
    links = json.dumps(site.links).replace("<", "\\u003c")
    script = Response(f"window.dsmoeLinks = {links};", media_type="text/javascript")
    index = HTMLResponse(_index(site))
    return [Route("/", lambda _: index), Route("/links.js", lambda _: script)]


class _Files(StaticFiles):
    """A folder's regular files, but those with a name, or in a folder, that begins with a dot."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Return the file's path and status; no status: it is not served."""
        try:
            found, status = super().lookup_path(path)
        except (OSError, ValueError):  # loops of links, names with NUL, names that are too long
            return "", None
        if status is None:
            return "", None
        # Both where the request points and where a link leads.
        real = os.path.relpath(found, os.path.realpath(str(self.directory)))
        hidden = any(part.startswith(".") for name in (path, real) for part in Path(name).parts)
        return ("", None) if hidden else (found, status)


class _Pages(_Files):
    """A folder's files, of which pages load the links into Inspect's viewer."""

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Return the response with the file's content."""
        if Path(full_path).suffix == ".html":
            return StreamingResponse(_with_links(Path(full_path)), media_type="text/html")
        return super().file_response(full_path, stat_result, scope, status_code)


def _with_links(page: Path) -> Iterator[bytes]:
    with page.open("rb") as file:
        yield file.read(2**16).replace(b"<head>", b'<head><script src="/links.js"></script>', 1)
        yield from iter(partial(file.read, 2**16), b"")


def _index(site: Site) -> str:
    rows = [(title, quote(path)) for title, path in site.pages]
    if site.viewer is not None:
        rows.append(("Inspect's viewer of the logs", "inspect/index.html"))
    items = "".join(f'<li><a href="{url}">{html.escape(title)}</a></li>' for title, url in rows)
    name = html.escape(shown(str(site.root)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" '
        f'content="light dark"><title>{name}</title></head><body><h1>{name}</h1>'
        f"<ul>{items}</ul></body></html>"
    )
