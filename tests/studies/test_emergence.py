"""Checkpoints in a row: their labels, what is kept of each, and what is refused."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.studies import emergence
from dsmoe_eval.studies.emergence import labels_of, summarise_map
from dsmoe_eval.studies.existence import existence
from dsmoe_eval.studies.existence_maps import ExistenceMaps

from .test_existence import routing


def maps_of(excess, layers=None):
    model = routing(excess)
    found = existence(model, {"random": [routing()]}, permutations=999)
    about = {"fingerprint": str(excess), "suite": "lab", "file": None, "limit": None}
    return ExistenceMaps({"counts": found | about | ({"layers": layers} if layers else {})})


def test_each_checkpoint_is_tested_in_order():
    said = []
    excess = {"run/step-2": 0.0, "run/step-9": 0.4}
    found = emergence(list(excess), lambda name: maps_of(excess[name]), None, said.append)
    assert said == ["step-2", "step-9"] == [row["label"] for row in found["checkpoints"]]
    assert [row["tests"]["counts"]["specific"] for row in found["checkpoints"]] == [0, 1]
    last = found["checkpoints"][1]
    assert (last["fingerprint"], last["model"]) == ("0.4", "run/step-9")
    assert last["tests"]["counts"]["by_domain"] == {"math": 0, "law": 1, "music": 0}
    assert last["tests"]["counts"]["beyond"] == {"random": 1}
    assert last["tests"]["counts"]["controls"]["random"]["discoveries"] == [0]
    assert (found["source"], found["bases"], found["form"]) == ("suite lab", ["counts"], None)


def test_specific_experts_that_are_not_listed_are_counted():
    maps = maps_of(0.4)
    rows = [row | {"specific": []} for row in maps.tests["counts"]["domains"]]
    found = summarise_map(maps.tests["counts"] | {"domains": rows})
    assert (found["specific"], found["by_domain"]["law"]) == (1, 1)


def test_labels_are_short_and_different():
    assert labels_of(["org/model@step-1", "org/model@step-2"]) == ["step-1", "step-2"]
    assert labels_of(["a/last", "b/last"]) == ["a/last", "b/last"]
    with pytest.raises(UserError, match="a/last is given 2 times"):
        labels_of(["a/last", "a/last"])
    with pytest.raises(UserError, match="a/last is given 2 times"):
        labels_of(["a/last", "./a/last/"])


def test_a_checkpoint_whose_path_is_written_in_two_ways_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "last").symlink_to("a")
    for other in ("a/", "./a", "b/../a", str(tmp_path / "a"), "last"):
        with pytest.raises(UserError, match="checkpoint a is given 2 times") as refused:
            labels_of(["a", "b", other])
        assert f"(also as {other})" in str(refused.value)
    assert labels_of(["a/", "b/"]) == ["a", "b"]
    assert labels_of(["x/a/", "y/a"]) == ["x/a/", "y/a"]


def test_another_model_is_refused():
    made = {"a": maps_of(0.1), "b": maps_of(0.1, layers=[1])}
    with pytest.raises(UserError, match="b has 1 layers of 6 experts, and a has 2 of 6"):
        emergence(["a", "b"], made.__getitem__)
