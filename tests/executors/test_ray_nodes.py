"""Workers on a real Ray cluster: the death of a node, and who is let in."""

import pytest

from dsmoe_eval.results.folder import RunFolder

from ..cluster import cluster
from .trials import PYTHON, Trial, small_plan

CLIENT = "import ray; ray.init(address='{}', log_to_driver=False); print('let in')"
NODES = "import ray; ray.init(address='{}', log_to_driver=False); print(len(ray.nodes()), 'nodes')"
REFUSED = "Authentication token is missing or incorrect"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_plan(tmp_path_factory.mktemp("plan"), ["dsmoe", "contrast"], limit=40)


@pytest.mark.slow
def test_a_node_dies_and_strangers_are_refused(small, tmp_path):
    with cluster() as made:
        trial = Trial(made, small, RunFolder(tmp_path / "run"), tmp_path / "driver.txt")
        trial.start()
        refused = strangers(made, tmp_path)
        trial.at_work()[0][0].kill()
        said = trial.end()
        trial.check(in_work=1)
        assert "report: " in said
        for path, process in refused.items():
            assert process.wait(60) != 0
            assert REFUSED in path.read_text()
            assert "let in" not in path.read_text()
        nodes = made.nodes[0].run(PYTHON, "-c", NODES.format(made.address))
        assert nodes.stdout == "3 nodes\n"  # the dead one included, the stranger not


def strangers(made, folder):
    """Start clients and a node without the cluster's token; return what each prints, and it."""
    head, machine = made.nodes[0], made.machine()
    client = [PYTHON, "-c", CLIENT.format(made.address)]
    no_token = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
    started = {}
    for name, node, command, environment in (
        ("client without.txt", head, client, no_token),
        ("client with another.txt", head, client, {"RAY_AUTH_TOKEN": "0" * 64}),
        ("node without.txt", machine, made.ray_start(machine), no_token),
    ):
        path = folder / name
        started[path] = node.start(*command, to=path, **environment)
    return started
