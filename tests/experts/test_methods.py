"""The registry of methods, and how others extend it."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest

from dsmoe_eval.experts import Method, all_methods, count_routing, get_method, methods

from .conftest import random_pass

EXPECTED = {
    "dsmoe", "dsmoe-code", "frequency", "preference", "risk-difference", "npmi", "esft-gate",
    "esft-token", "easy-ep", "reap", "lape", "influence", "influence-net", "router-lens",
    "random",
}  # fmt: skip


def first_expert(counts, domain):
    """The first expert of every layer."""
    counts.of(domain)
    return np.eye(1, counts.experts).repeat(len(counts.layers), 0)


THEIRS = Method("first", first_expert)


def installed(monkeypatch, *values):
    points = tuple(
        EntryPoint(f"p{place}", f"{__name__}:{value}", methods.ENTRY_POINTS)
        for place, value in enumerate(values)
    )
    monkeypatch.setattr(
        methods, "entry_points", lambda group: points if group == methods.ENTRY_POINTS else ()
    )
    found = methods._installed.__wrapped__()  # as if the process had begun with them
    monkeypatch.setattr(methods, "_installed", lambda: found)


def test_all_methods_are_there_and_say_what_they_are():
    assert set(all_methods()) == EXPECTED
    for method in all_methods().values():
        assert method.summary.endswith((".", "]", "N."))
        assert len(method.summary) > 20


def test_an_installed_package_adds_a_method(monkeypatch):
    installed(monkeypatch, "THEIRS")
    method = get_method("first")
    assert method.summary == "The first expert of every layer."
    with random_pass(0) as (seen, _):
        assert method.score(count_routing(seen), "one").tolist() == [[1, 0, 0, 0, 0]] * 2


@pytest.mark.parametrize("values", [("first_expert",), ("THEIRS", "THEIRS")])
def test_what_is_no_method_or_takes_a_name_is_refused(monkeypatch, values):
    installed(monkeypatch, *values)
    with pytest.raises(ValueError, match="is no Method, or its name is in use"):
        all_methods()


def test_an_unknown_method_lists_what_there_is():
    with pytest.raises(ValueError, match="no method 'dsmo'; there are: dsmoe, dsmoe-code"):
        get_method("dsmo")
