"""One folder at an fsspec URL: its lists of SHA-256 hashes, its files, its errors in words."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ..errors import UserError, one_line, printable
from ..files import full_disk, new_file, seal, to_json, unseal, write_bytes
from .names import scheme_of

MANIFEST = "manifest.json"
"""A run's list of its files: path in the folder -> SHA-256, sealed."""
BLOCK = 2**24
"""Bytes that are read or sent at once."""

_SHA = re.compile(r"[0-9a-f]{64}")
_SECRET = re.compile(r"(?<=//)[^/@\s]*@|\?[^\s\"']*")
_CHUNK, _MOST_LIST = 2**20, 2**28


def pump(
    source: BinaryIO, sink: BinaryIO | None = None, most: int | None = None
) -> tuple[int, str]:
    """Copy a stream, or its first `most` bytes; return the number of bytes and their SHA-256."""
    size, digest = 0, hashlib.sha256()
    while chunk := source.read(_CHUNK if most is None else min(_CHUNK, most - size)):
        digest.update(chunk)
        size += len(chunk)
        if sink is not None:
            sink.write(chunk)
    return size, digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Remote:
    """A folder in a file system of fsspec.

    Its methods raise a UserError where the file system, or its library, fails.

    Attributes:
        files: the file system.
        root: the folder's path in it.
        url: the folder's URL.
    """

    files: AbstractFileSystem
    root: str
    url: str

    @property
    def name(self) -> str:
        """The last part of the path; empty for the topmost folder."""
        return self.root.rpartition("/")[2]

    @property
    def parent(self) -> Remote:
        """The folder that this one is in."""
        root, url = (path.rpartition("/")[0] for path in (self.root, self.url))
        return replace(self, root=root, url=url)

    def sizes(self) -> dict[str, int]:
        """Return path in the folder -> bytes, of every file."""
        with self._asking():
            found = self.files.find(self.root, detail=True)
        start = len(self.root) + 1
        return {path[start:]: int(about["size"]) for path, about in found.items()}

    def read_list(self, name: str) -> dict[str, str] | None:
        """Return the content of a list: path in the folder -> SHA-256; None: there is none.

        Raises:
            UserError: it is damaged, or a path leads out of the folder or is hidden.
        """
        content = self.read(name)
        if content is None:
            return None
        try:
            names = dict(unseal(json.loads(content)))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.url}/{name}: damaged ({one_line(error)}); remove that copy, and copy the "
                "folder again"
            ) from error
        for path, sha in names.items():
            if not (_is_safe(path) and isinstance(sha, str) and _SHA.fullmatch(sha)):
                raise UserError(
                    f"{self.url}/{name}: has {path!r:.100}, which is no path in a folder, or no "
                    "SHA-256, so `copy` did not write it; do not use that copy"
                )
        return names

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None: it is not there."""
        path = f"{self.root}/{name}"
        with (
            self._asking(name),
            suppress(FileNotFoundError, NotADirectoryError, FileExistsError),  # also below a file
            self.files.open(path, "rb", block_size=BLOCK) as stream,
        ):
            content: bytes = stream.read(_MOST_LIST)
            return content
        return None

    def write_list(self, name: str, names: Mapping[str, str]) -> None:
        """Write a list, sealed."""
        self.write(name, to_json(seal(dict(names))).encode())

    def write(self, name: str, content: bytes) -> None:
        """Write a small file at once."""
        with self._asking(name):
            if isinstance(self.files, LocalFileSystem):
                write_bytes(Path(self.root, name), content)
            else:
                self.files.pipe_file(f"{self.root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._asking(name):
            self.files.rm_file(f"{self.root}/{name}")

    @contextmanager
    def source(self, name: str) -> Iterator[BinaryIO]:
        """Yield a stream of a file's content."""
        path = f"{self.root}/{name}"
        with self._asking(name), self.files.open(path, "rb", block_size=BLOCK) as stream:
            yield stream

    @contextmanager
    def sink(self, name: str) -> Iterator[BinaryIO]:
        """Yield a stream whose content appears as a file when it ends without an error."""
        with self._asking(name):
            if isinstance(self.files, LocalFileSystem):
                with new_file(Path(self.root, name)) as stream:
                    yield stream
                return
            path = f"{self.root}/{name}"
            stream = self.files.open(path, "wb", block_size=BLOCK, autocommit=False)
            try:
                yield stream
            except BaseException:
                with suppress(Exception):  # the error inside is what matters
                    stream.close()
                    stream.discard()
                raise
            stream.close()
            stream.commit()

    @contextmanager
    def _asking(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each library has errors of its own
            if full_disk(error):
                raise
            raise _refused(f"{self.url}/{name}".rstrip("/"), error) from error


def open_url(url: str) -> Remote:
    """Open a URL's file system, with the settings that its library finds in the environment.

    Raises:
        UserError: the URL has credentials in it, is of an unknown kind, or a package is missing.
    """
    scheme = scheme_of(url)
    if "::" in url or (scheme not in ("file", "local") and re.search(r"[@?#*\[\]]", url)):
        raise UserError(  # the URL may have a secret in it
            f"a URL of {scheme}:// has one of @ ? # * [ ] or :: in it, as those with credentials "
            "have; give SCHEME://BUCKET/FOLDER, and credentials as the provider's library reads "
            "them from files or the environment"
        )
    url = url.rstrip("/")
    try:
        files, root = url_to_fs(url)
        files.invalidate_cache()  # of an earlier use in this process
    except (ImportError, ValueError, OSError) as error:
        raise _refused(url, error) from error
    return Remote(files, root.rstrip("/"), url)


def _is_safe(name: object) -> bool:
    """Return whether this is the path of a file in a folder, without hidden parts or `..`."""
    return (
        isinstance(name, str)
        and printable(name) == name
        and not re.search(r"[\\\t\n\r]", name)
        and all(part and not part.startswith(".") for part in name.split("/"))
    )


def _refused(where: str, error: Exception) -> UserError:
    words = _SECRET.sub("", one_line(error))
    kinds = {type(one).__name__ for one in (error, error.__cause__)}
    if isinstance(error, ImportError):
        s3 = where.startswith(("s3:", "s3a:"))
        way = "pip install 'dsmoe-eval[s3]'" if s3 else "install that package"
    elif isinstance(error, PermissionError) or any("Credentials" in kind for kind in kinds):
        way = "give credentials as the provider's library reads them; docs/scaling.md says how"
    elif isinstance(error, FileNotFoundError):
        way = "check its name, or make the bucket"
    else:
        way = "check the URL, the network and the server's address"
    return UserError(f"{where}: cannot be used ({words}); {way}")
