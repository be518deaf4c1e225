"""Copies in memory and in folders: complete or not there, and nothing is moved twice."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.errors import UserError
from dsmoe_eval.files import seal, to_json, write_bytes
from dsmoe_eval.results import manifest
from dsmoe_eval.storage import copies, shown
from dsmoe_eval.storage.copies import COPY, MANIFEST, PART, local_copy, receive, send
from dsmoe_eval.storage.remote import Remote, open_url

from .conftest import FILES, QUIET, contents, originals

ROOT = Path(__file__).resolve().parents[2]


def put(url, name, content):
    open_url(url).write(name, content)


def list_of(url, name=COPY):
    return open_url(url).read_list(name)


PART_OF_PATH = st.text(
    st.characters(categories=("L", "N"), include_characters=" -_+%&'~?*[]#@="),
    min_size=1, max_size=6,
)  # fmt: skip
TREES = st.dictionaries(
    st.tuples(st.sampled_from(["cells", "report", "ü b"]), PART_OF_PATH).map("/".join)
    | PART_OF_PATH.map(lambda name: f"top-{name}"),
    st.binary(max_size=40),
    min_size=1,
)


@pytest.mark.parametrize("kind", ["memory", "file"])
@given(tree=TREES)
@settings(max_examples=20)
def test_out_and_back_are_the_same_bytes(kind, tree, tmp_path_factory):
    place = tmp_path_factory.mktemp("copies")
    for name, content in tree.items():
        write_bytes(place / "run" / name, content)
    url = f"{kind}://{place}/bucket/run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "BLOCK", 8)  # some of the files are streamed
        done = send(originals(place / "run"), url, QUIET)
        again = send(originals(place / "run"), url, QUIET)
    back = receive(url, place / "back", QUIET)
    assert contents(place / "back") == tree
    size = sum(map(len, tree.values()))
    assert (done.files, done.moved, done.size) == (len(tree), len(tree), size)
    assert (again.files, again.moved, again.size, again.changed) == (len(tree), 0, 0, ())
    assert (back.files, back.moved, back.size) == (len(tree), len(tree), size)
    assert receive(url, place / "back", QUIET).moved == 0


def test_the_manifest_and_then_the_list_come_last(folder, url, monkeypatch):
    for name in ("manifest.json", "inner/manifest.json"):
        write_bytes(folder / name, b"{}")
    order, write = [], Remote.write

    def noted(self, name, content):
        order.append(name)
        write(self, name, content)

    monkeypatch.setattr(Remote, "write", noted)
    send(originals(folder), url, QUIET)
    assert order[0] == PART
    assert order[-1] == COPY
    assert {name.rpartition("/")[2] for name in order[-3:-1]} == {MANIFEST}
    assert PART not in open_url(url).sizes()
    assert manifest.MANIFEST == MANIFEST


def test_a_second_copy_writes_nothing_at_all(folder, url, monkeypatch):
    send(originals(folder), url, QUIET)
    monkeypatch.setattr(Remote, "write", lambda *_: pytest.fail("written"))
    assert send(originals(folder), url, QUIET).moved == 0


def test_only_what_has_changed_is_moved(folder, url):
    send(originals(folder), url, QUIET)
    (folder / "report" / "index.html").write_bytes(b"<p>e</p>")
    write_bytes(folder / "cells" / "c" / "cell.json", b"3")
    done = send(originals(folder), url, QUIET)
    assert (done.files, done.moved, done.changed) == (len(FILES) + 1, 2, ())
    receive(url, folder.parent / "back", QUIET)
    assert contents(folder.parent / "back") == contents(folder)


def test_an_interrupted_copy_goes_on_and_is_no_copy_before(folder, url, monkeypatch):
    monkeypatch.setattr(copies, "_THREADS", 1)
    write = Remote.write

    def failing(self, name, content):
        if name == sorted(FILES)[3]:
            raise OSError("the network is gone")
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "write", failing)
        with pytest.raises(OSError, match="is gone"):
            send(originals(folder), url, QUIET)
    assert sorted(list_of(url, PART)) == sorted(FILES)[:3]
    for read in (
        lambda: receive(url, folder.parent / "back", QUIET),
        lambda: local_copy(url, QUIET),
    ):
        with pytest.raises(UserError, match=r"run: the copy is unfinished; copy the folder there"):
            read()
    assert send(originals(folder), url, QUIET).moved == len(FILES) - 3
    receive(url, folder.parent / "back", QUIET)
    assert contents(folder.parent / "back") == FILES


def test_a_killed_copy_goes_on(folder, tmp_path):
    """SIGKILL at the fourth file, once the list of what has arrived has the first three."""
    url = f"file://{tmp_path}/bucket/run"
    code = f"""
import os, signal, time
from pathlib import Path
from tests.storage.conftest import *
from dsmoe_eval.storage import copies, remote
copies._EVERY, copies._THREADS, write = -1.0, 1, remote.Remote.write
def killing(self, name, content):
    if name == {sorted(FILES)[3]!r}:
        while len(self.read_list(copies.PART)) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, content)
remote.Remote.write = killing
copies.send(originals(Path({str(folder)!r})), {url!r}, QUIET)
"""
    command = [sys.executable, "-c", code]
    killed = subprocess.run(command, cwd=ROOT, timeout=60, check=False)  # noqa: S603
    assert killed.returncode == -9
    assert send(originals(folder), url, QUIET).moved == len(FILES) - 3
    receive(url, tmp_path / "back", QUIET)
    assert contents(tmp_path / "back") == FILES


def test_another_size_at_the_target_is_noticed_and_written_again(folder, url):
    send(originals(folder), url, QUIET)
    put(url, "cells/a/cell.json", b"12")
    with pytest.raises(UserError, match=r"cells/a/cell.json: is not the file that was copied"):
        local_copy(url, QUIET)
    done = send(originals(folder), url, QUIET)
    assert (done.moved, done.changed) == (1, ("cells/a/cell.json",))
    assert contents(local_copy(url, QUIET)) == FILES


def test_a_change_in_the_bucket_is_noticed_and_the_way_out_works(folder, url):
    send(originals(folder), url, QUIET)
    put(url, "cells/a/cell.json", b"2")
    back = folder.parent / "back"
    with pytest.raises(UserError, match=r"run/cells/a/cell.json: is not .* remove that file and"):
        receive(url, back, QUIET)
    assert not (back / "cells/a/cell.json").exists()
    open_url(url).remove("cells/a/cell.json")
    assert send(originals(folder), url, QUIET).moved == 1
    receive(url, back, QUIET)
    assert contents(back) == FILES


def test_a_file_that_is_missing_in_the_bucket_is_named(folder, url):
    send(originals(folder), url, QUIET)
    open_url(url).remove("cells/a/cell.json")
    with pytest.raises(UserError, match=r"run/cells/a/cell\.json: cannot be used"):
        receive(url, folder.parent / "back", QUIET)


def test_what_a_copy_would_destroy_is_left(folder, url):
    send(originals(folder), url, QUIET)
    all_of = originals(folder)
    with pytest.raises(UserError, match=r"cells/b/cell.json: is not in the folder to be copied"):
        send({n: e for n, e in all_of.items() if "/b/" not in n}, url, QUIET)
    (folder / "run.json").write_bytes(b"[]")
    with pytest.raises(UserError, match=r"run.json: is of another run; give another URL"):
        send(originals(folder), url, QUIET)
    put(f"{url}s", "thesis.pdf", b"")
    with pytest.raises(UserError, match=r"runs: has files that `copy` did not write, such as thes"):
        send(originals(folder), f"{url}s", QUIET)


def test_a_folder_with_another_file_is_left(folder, url):
    send(originals(folder), url, QUIET)
    write_bytes(folder.parent / "back" / "run.json", b"mine")
    with pytest.raises(UserError, match=r"back/run.json: is another file than .*run.json; give an"):
        receive(url, folder.parent / "back", QUIET)
    assert contents(folder.parent / "back") == {"run.json": b"mine"}


@pytest.mark.parametrize("block", [0, 2**20])
def test_a_file_that_changes_while_it_is_copied_is_not_copied(folder, url, monkeypatch, block):
    monkeypatch.setattr(copies, "BLOCK", block)
    before = originals(folder)
    (folder / "cells/a/cell.json").write_bytes(b"2")
    with pytest.raises(UserError, match=r"cells/a/cell.json: was changed while it was copied"):
        send(before, url, QUIET)
    assert "cells/a/cell.json" not in list_of(url, PART)
    (folder / "cells/a/cell.json").unlink()
    with pytest.raises(UserError, match=r"cells/a/cell.json: was changed while it was copied"):
        send(before, url, QUIET)


BAD = ["../x", "/etc/x", "a//b", "a/../b", ".lock", "a/.ssh/x", "a\\b", "a\x1b", "a\nb", "", "a/"]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("kind", [COPY, MANIFEST])
def test_bad_names_are_refused(folder, url, name, kind, tmp_path):
    send(originals(folder), url, QUIET)
    open_url(url).remove(COPY)
    put(url, kind, to_json(seal({"run.json": "0" * 64, name: "1" * 64})).encode())
    before = contents(tmp_path)
    for read in (lambda: receive(url, tmp_path / "back", QUIET), lambda: local_copy(url, QUIET)):
        with pytest.raises(UserError, match=r"which is no path in a folder, or no SHA-256"):
            read()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"sha256": "0", "content": {}}', to_json(seal([1])).encode(),
     to_json(seal({"a": "0" * 63})).encode(), to_json(seal({"a": 1})).encode(), b"[" * 100_000],
)  # fmt: skip
def test_damaged_lists_are_refused(content, tmp_path):
    url = f"file://{tmp_path}/run"
    put(url, COPY, content)
    with pytest.raises(UserError, match=r"run/dsmoe-copy.json: (damaged|has 'a')"):
        local_copy(url, QUIET)


def test_a_local_copy_is_read_only_once_and_shown_as_its_url(folder, url, cache, monkeypatch):
    write_bytes(folder / "adapters" / "math--sft" / "adapter_model.safetensors", b"large")
    send(originals(folder), url, QUIET)
    found = local_copy(f"{url}/", QUIET)
    assert found.parent == cache
    assert contents(found) == FILES  # without what no result is read from
    assert shown(f"{found}/run.json: damaged") == f"{url}/run.json: damaged"
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "source", lambda *_: pytest.fail("read again"))
        assert local_copy(url, QUIET) == found
        assert local_copy(f"{url}/cells/a", QUIET) == found / "cells" / "a"
        assert local_copy(f"{url}/report/index.html", QUIET) == found / "report" / "index.html"
    (found / "run.json").write_bytes(b"changed here")
    (found / "stale.json").write_bytes(b"")
    assert contents(local_copy(url, QUIET)) == FILES


def test_what_is_not_in_a_copy_is_not_there(folder, url):
    with pytest.raises(UserError, match=r"run: there is no copy .*dsmoe-eval copy FOLDER"):
        local_copy(url, QUIET)
    with pytest.raises(UserError, match=r"run: there is no copy"):
        receive(url, folder.parent / "back", QUIET)
    send(originals(folder), url, QUIET)
    with pytest.raises(UserError, match=r"run/cells/z: there is no copy"):
        local_copy(f"{url}/cells/z", QUIET)


def test_a_run_that_others_copied_is_read_by_its_manifest(folder, url):
    files = {
        name: original.sha256 for name, original in originals(folder).items() if name[0] != "r"
    }
    for name, content in contents(folder).items():
        put(url, name, content)
    sealed = to_json(seal(files)).encode()
    put(url, MANIFEST, sealed)
    expected = {name: content for name, content in FILES.items() if name in files}
    assert contents(local_copy(url, QUIET)) == expected | {MANIFEST: sealed}
