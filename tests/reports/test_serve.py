"""Serving reports to this machine: pages, side files, Inspect's viewer, and nothing else."""

import http.client
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import inspect_ai
import pytest
from inspect_ai.dataset import MemoryDataset, Sample

from dsmoe_eval.errors import UserError
from dsmoe_eval.reports.serve import listen, make_server, open_site


@contextmanager
def served(site):
    listener, server = listen(0), make_server(site)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield port
    server.should_exit = True
    thread.join()


def response(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    return connection.getresponse()


def ask(port, path, method="GET", **headers):
    answer = response(port, path, method, **headers)
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
        assert ask(port, "/run/report/items/t.js")[:2] == (200, "text/javascript; charset=utf-8")
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
        assert ask(port, "/", Host=f"elsewhere.example:{port}")[0] == 400
        assert ask(port, "/", Host="")[0] == 400
        with pytest.raises(UserError, match=f"port {port}: .*give another --port"):
            listen(port)


def test_it_listens_on_the_loopback_address_only():
    with listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        ("bytes=0-2", 206, "dsm"), ("bytes=9-", 206, "s()"), ("bytes=-2", 206, "()"),
        ("bytes=0-99", 206, "dsmoeItems()"), ("bytes=-99", 206, "dsmoeItems()"),
    ],
)  # fmt: skip
def test_parts_of_files_as_inspects_viewer_asks_for_them(root, viewer, asked, status, text):
    with served(open_site(root, viewer)) as port:
        assert ask(port, "/run/report/items/t.js", Range=asked)[::2] == (status, text)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("bytes=99-", 416), ("bytes=12-", 416), (f"bytes={10**30}-", 416), ("bytes=99-100", 416),
        ("bytes=-", 400), ("bytes=5-2", 400), ("bytes=a-b", 400), ("lines=1-2", 400),
    ],
)  # fmt: skip
def test_case_17_a_range_that_no_file_has_is_refused(root, viewer, asked, status, capfd):
    with served(open_site(root, viewer)) as port:
        answer = response(port, "/run/report/items/t.js", Range=asked)
        assert answer.status == status
        assert answer.getheader("Content-Range") == ("bytes */12" if status == 416 else None)
        assert ask(port, "/run/report/items/t.js")[0] == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "path",
    [
        "/a%00b", "/run/report/index.html%00", "/loop", "/loop/index.html", "/fifo", "/run/fifo",
        "/" + "a" * 5000, "/" + "a/" * 5000, "/%ff%fe", "/index.html/x", "/closed.txt", "/inside",
        "/run/%2e%2e/%2e%2e/secret.txt", "/%2Fetc/passwd", "/..%5csecret.txt", "/out/secret.txt",
        "/.git/../.git/index.html", "/%2egit/index.html", "/run", "/inspect", "/inspect/",
    ],
)  # fmt: skip
def test_case_17_what_is_no_regular_file_of_the_folder_is_not_found(root, viewer, path, capfd):
    (root / "loop").symlink_to(root / "loop")
    (root / "inside").symlink_to(root / ".git" / "index.html")
    (root / "out").symlink_to(root.parent)
    (root / "index.html").symlink_to(root / "run" / "report" / "index.html")
    os.mkfifo(root / "fifo")
    os.mkfifo(root / "run" / "fifo")
    with served(open_site(root, viewer)) as port:
        assert ask(port, path)[::2] == (404, "Not Found")
        assert ask(port, path, "HEAD")[0] == 404
        assert ask(port, "/")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_case_17_loops_and_fifos_among_the_pages_are_passed_over(root, viewer):
    for name in ("loop", "pipe"):
        (root / name).mkdir()
    (root / "loop" / "index.html").symlink_to(root / "loop" / "index.html")
    (root / "loop" / "logs").symlink_to(root / "loop")
    os.mkfifo(root / "pipe" / "index.html")
    assert [path for _, path in open_site(root, viewer).pages] == ["run/report/index.html"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/links.js", "/run/report/index.html", "/new.txt"])
def test_case_17_nothing_can_be_written(root, viewer, method, path):
    before = sorted(root.rglob("*"))
    with served(open_site(root, viewer)) as port:
        assert ask(port, path, method)[0] == 405
    assert sorted(root.rglob("*")) == before


def test_case_17_headers_and_escapes_leave_nothing_to_guess(root, viewer):
    (root / "x").mkdir()
    (root / "x" / "index.html").write_text("<title></script><script>alert(1)</script></title>")
    site = replace(open_site(root, viewer), links={"t": {"</script>": []}})
    with served(site) as port:
        for path in ("/", "/links.js", "/run/report/index.html", "/run/report/items/t.js", "/none"):
            answer = response(port, path)
            assert answer.getheader("X-Content-Type-Options") == "nosniff"
            assert answer.getheader("Cache-Control") == "no-store"
            assert answer.getheader("Server") != "BaseHTTP"
        assert "<script" not in ask(port, "/")[2]
        assert "</" not in ask(port, "/links.js")[2]


def resident():
    """Return this process's memory in bytes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads Linux's /proc")
@pytest.mark.parametrize("name", ["large.bin", "large.html"])
def test_case_17_slow_clients_cost_no_memory(root, viewer, name):
    with (root / name).open("wb") as file:
        file.write(b"<html><head></head>")
        file.truncate(250_000_000)  # a sparse file
    site = replace(open_site(root, viewer), links={"t": {}})
    with served(site) as port:
        assert ask(port, "/")[0] == 200
        before = resident()
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        for one in slow:
            one.sendall(f"GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert one.recv(4) == b"HTTP"
        time.sleep(0.5)
        assert ask(port, "/run/report/items/t.js")[0] == 200
        assert resident() - before < 50_000_000
        for one in slow:
            one.close()


def test_case_17_a_page_of_several_parts_arrives_whole(root, viewer):
    text = "<html><head></head>" + "0123456789" * 50_000
    (root / "long.html").write_text(text)
    with served(replace(open_site(root, viewer), links={"t": {}})) as port:
        script = '<script src="/links.js"></script>'
        assert ask(port, "/long.html")[2] == text.replace("<head>", f"<head>{script}")


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
        assert '<head><script src="/links.js"></script>' in ask(port, "/run/report/index.html")[2]
        links = ask(port, "/links.js")[2].removeprefix("window.dsmoeLinks = ").rstrip(";")
        assert json.loads(links) == site.links


def test_a_folder_without_pages(tmp_path, viewer):
    with pytest.raises(UserError, match="holds no report or leaderboard"):
        open_site(tmp_path, viewer)
