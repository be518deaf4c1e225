"""Serving reports to this machine: pages, side files, Inspect's viewer, and nothing else."""

import http.client
import json
import threading
from contextlib import contextmanager

import inspect_ai
import pytest
from inspect_ai.dataset import MemoryDataset, Sample

from dsmoe_eval.errors import UserError
from dsmoe_eval.reports.serve import make_server, open_site


@contextmanager
def served(site):
    with make_server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.getheader("Content-Type"), answer.read().decode()


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "site"
    (folder / "run" / "report" / "items").mkdir(parents=True)
    page = "<!doctype html><html><head><title>a &lt;run&gt;</title></head><body></body></html>"
    (folder / "run" / "report" / "index.html").write_text(page)
    (folder / "run" / "report" / "items" / "t.js").write_text("dsmoeItems()")
    (folder / ".git").mkdir()
    (folder / ".git" / "index.html").write_text("<title>no</title>")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


@pytest.fixture
def viewer(tmp_path):
    (tmp_path / "viewer").mkdir()
    return tmp_path / "viewer"


def test_pages_and_what_lies_beside_them(root, viewer):
    site = open_site(root, viewer)
    assert site.pages == (("a <run>", "run/report/index.html"),)
    with served(site) as port:
        status, kind, text = ask(port, "/")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert '<a href="run/report/index.html">a &lt;run&gt;</a>' in text
        assert ask(port, "/run/report/index.html")[2].endswith("<body></body></html>")
        assert ask(port, "/run/report/items/t.js")[:2] == (200, "text/javascript")
        assert ask(port, "/run/report/index.html", "HEAD")[::2] == (200, "")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/%2e%2e/secret.txt", "/link.txt", "/.git/index.html", "/run/",
        "//etc/passwd", "/none.html", "/inspect/index.html",
    ],
)  # fmt: skip
def test_nothing_else_is_served(root, viewer, path):
    with served(open_site(root, viewer)) as port:
        assert ask(port, path)[0] == 404


def test_only_requests_that_name_this_machine_are_answered(root, viewer):
    with served(open_site(root, viewer)) as port:
        assert ask(port, "/", Host=f"localhost:{port}")[0] == 200
        assert ask(port, "/", Host=f"elsewhere.example:{port}")[0] == 403
        assert make_server_fails(open_site(root, viewer), port)


def make_server_fails(site, port):
    with pytest.raises(UserError, match=f"port {port}: .*give another --port"):
        make_server(site, port)
    return True


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        ("bytes=0-2", 206, "dsm"), ("bytes=9-", 206, "s()"), ("bytes=-2", 206, "()"),
        ("bytes=0-99", 206, "dsmoeItems()"), ("bytes=99-", 200, "dsmoeItems()"),
        ("bytes=-", 200, "dsmoeItems()"), ("bytes=0-1,3-4", 200, "dsmoeItems()"),
    ],
)  # fmt: skip
def test_parts_of_files_as_inspects_viewer_asks_for_them(root, viewer, asked, status, text):
    with served(open_site(root, viewer)) as port:
        assert ask(port, "/run/report/items/t.js", Range=asked)[::2] == (status, text)


def test_samples_have_links_into_inspects_viewer(root, viewer):
    samples = [Sample(id="0a1~1", input="<b>1+1</b>", target="2"), Sample(id="ff", input="2+2")]
    task = inspect_ai.Task(name="sums", dataset=MemoryDataset(samples), epochs=2)
    inspect_ai.eval(task, model="mockllm/model", log_dir=str(root / "logs"), display="none")
    site = open_site(root, viewer)
    first = site.links["sums"]["0a1~1"]
    assert [one["label"] for one in first] == [f"mockllm/model, sample {n}" for n in (1, 2)]
    with served(site) as port:
        page, _, place = first[0]["url"].partition("#")
        assert page == "/inspect/index.html"
        assert ask(port, page)[0] == 200
        assert place.startswith("/logs/")
        assert place.endswith(".eval/samples/sample/0a1~1/1")
        name = place.removeprefix("/logs/").partition("/")[0].replace("%2F", "/")
        assert ask(port, f"/inspect/logs/{name}", "HEAD")[0] == 200
        assert '<script src="/links.js"></script></head>' in ask(port, "/run/report/index.html")[2]
        links = ask(port, "/links.js")[2].removeprefix("window.dsmoeLinks = ").rstrip(";")
        assert json.loads(links) == site.links


def test_a_folder_without_pages(tmp_path, viewer):
    with pytest.raises(UserError, match="holds no report or leaderboard"):
        open_site(tmp_path, viewer)
