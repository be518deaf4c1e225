"""URLs and the paths of their local copies; imported by every command, so without fsspec."""

from __future__ import annotations

import re
from pathlib import Path

_URL = re.compile(r"([a-z][a-z0-9+.-]*)(?:://|::)", re.I)
_SHOWN: dict[str, str] = {}


def is_url(text: str) -> bool:
    """Return whether a text is a URL and no path."""
    return _URL.match(text) is not None


def scheme_of(url: str) -> str:
    """Return the kind of a URL: `s3` of `s3://bucket/run`."""
    found = _URL.match(url)
    return found[1] if found else ""


def show_as(path: Path, url: str) -> None:
    """Show a local copy by its URL from now on."""
    _SHOWN[str(path)] = url


def shown(text: str) -> str:
    """Replace the paths of local copies by their URLs, in a text for the user."""
    for path, url in _SHOWN.items():
        text = text.replace(path, url)
    return text
