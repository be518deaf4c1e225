"""A file system's errors in one sentence each, and without what is secret."""

import sys

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.storage.remote import open_url, pump

HIDDEN = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    "url",
    [
        f"s3://key:{HIDDEN}@bucket/run",
        f"s3://key:{HIDDEN}/K7MDENG@bucket/run",
        f"gs://bucket/run?X-Goog-Signature={HIDDEN}",
        f"https://host/run#{HIDDEN}",
        f"simplecache::s3://key:{HIDDEN}@bucket/run",
        f"simplecache::s3://{HIDDEN}",
    ],
)
def test_credentials_in_urls_are_refused_and_not_shown(url):
    with pytest.raises(UserError, match=r"has one of @ \? # \* \[ \] or :: in it") as refused:
        open_url(url)
    assert HIDDEN not in str(refused.value)
    assert refused.value.__cause__ is None


def test_an_unknown_kind_and_a_missing_package(monkeypatch):
    with pytest.raises(UserError, match=r"foo://b/run: cannot be used \(Protocol not known: foo\)"):
        open_url("foo://b/run")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"s3://b/run: cannot be used .*dsmoe-eval\[s3\]'$"):
        open_url("s3://b/run")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://b/run: cannot be used \(.*gcsfs.*that package$"):
        open_url("gs://b/run")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("Access Denied"), r"\(Access Denied\); give credentials as"),
        (FileNotFoundError("no such bucket"), r"\(no such bucket\); check its name, or make"),
        (TimeoutError(), r"\(TimeoutError\); check the URL, the network"),
        (RuntimeError(f"no answer from https://me:{HIDDEN}@host/a?sig={HIDDEN}"),
         r"\(no answer from https://host/a\)"),
    ],
)  # fmt: skip
def test_errors_of_libraries_become_sentences(error, words, monkeypatch):
    def fail(*_args, **_options):
        raise error

    place = open_url("memory://bucket/run/")
    monkeypatch.setattr(type(place.files), "find", fail)
    with pytest.raises(UserError, match=rf"^memory://bucket/run: cannot be used {words}") as found:
        place.sizes()
    assert HIDDEN not in str(found.value)


def test_a_full_disk_at_the_target_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    place = open_url(f"file://{tmp_path}/bucket")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"bucket/x: cannot be written \(No space left.*free some"):
        place.write("x", b"1")
    with pytest.raises(UserError, match=r"bucket/y: cannot be written"), place.sink("y") as sink:
        sink.write(b"1")
    assert list((tmp_path / "bucket").iterdir()) == []


def test_the_parent_keeps_its_url():
    place = open_url("s3://bucket/out/run/")
    assert (place.name, place.root, place.url) == ("run", "bucket/out/run", "s3://bucket/out/run")
    assert (place.parent.root, place.parent.url) == ("bucket/out", "s3://bucket/out")
    assert place.parent.parent.parent.name == ""


def test_only_the_first_bytes_are_pumped(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    with (tmp_path / "x").open("rb") as source, (tmp_path / "y").open("wb") as sink:
        size, digest = pump(source, sink, 4)
    assert (size, (tmp_path / "y").read_bytes()) == (4, b"0123")
    assert digest == "1be2e452b46d7a0d9656bbb1f768e8248eba1b75baed65f5d99eafa948899a6a"
