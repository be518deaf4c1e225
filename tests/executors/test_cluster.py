"""Connections to Ray: sentences for what is missing, and a cluster that only this machine sees."""

import json
import re
import socket
import sys

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.executors.cluster import connected

from ..cluster import machine

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
STARTED = """
import json, os
from pathlib import Path
from dsmoe_eval.executors.cluster import connected
with connected() as name:
    import ray
    worker = ray.remote(lambda: [os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]])
    mode, token = ray.get(worker.remote())
    lines = [line.split() for kind in ("tcp", "tcp6") for line in
             Path("/proc/net", kind).read_text().splitlines()[1:]]
    listens = [fields[1] for fields in lines if fields[3] == "0A"]
print(json.dumps([name, mode, token, listens, os.environ["RAY_USAGE_STATS_ENABLED"]]))
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def refused(match):
    with pytest.raises(UserError, match=match), connected():
        pass


def test_without_ray_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(r"the executor ray needs Ray .*; pip install 'dsmoe-eval\[ray\]'")


def test_settings_of_access_are_needed_before_ray_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", sys)
    refused("Ray was imported before the run; start the run in another process")


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port", ":6379"])
def test_an_address_has_a_host_and_a_port(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    refused(f"RAY_ADDRESS={re.escape(address)}: is not the address of a cluster's head")


def test_an_address_where_nothing_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    refused("no cluster answers there .*Connection refused")


@pytest.mark.slow
def test_a_cluster_of_this_machine_is_open_to_nobody_else():
    with machine() as node:
        done = node.run(sys.executable, "-c", STARTED)
        assert done.returncode == 0, done.stderr
        name, mode, token, listens, usage = json.loads(done.stdout)
        assert (name, mode, usage) == ("a Ray cluster of this machine", "token", "0")
        assert re.fullmatch("[0-9a-f]{64}", token)
        assert token not in done.stderr
        addresses = {address.partition(":")[0] for address in listens}
        assert listens
        assert addresses <= LOOPBACK
        left = node.run("ls", node.environment["TMPDIR"]).stdout
        assert left == ""
