"""The rows of a step's tokens, on a stand-in for vLLM's model runner."""

from types import SimpleNamespace

import pytest
import torch

from dsmoe_eval.engines.vllm.table import PROFILE, ProfileTable
from dsmoe_eval.steering import SteeringError


class _Runner:
    """What the table uses of vLLM's first model runner."""

    def __init__(self):
        self.input_batch = SimpleNamespace(req_ids=[])

    def _prepare_inputs(self, output, *_args):
        self.input_batch.req_ids = list(output.num_scheduled_tokens)

    def execute_model(self, output):
        if output.num_scheduled_tokens:
            self._prepare_inputs(output, None)


class _SecondRunner:
    """Its second runner returns the batch."""

    def prepare_inputs(self, output, *_args):
        return SimpleNamespace(req_ids=list(output.num_scheduled_tokens))

    def execute_model(self, output):
        self.prepare_inputs(output)


def _step(counts, new=(), finished=()):
    starting = [
        SimpleNamespace(
            req_id=name, sampling_params=SimpleNamespace(extra_args=profile and {PROFILE: profile})
        )
        for name, profile in dict(new).items()
    ]
    return SimpleNamespace(
        num_scheduled_tokens=counts, scheduled_new_reqs=starting, finished_req_ids=set(finished)
    )


@pytest.mark.parametrize("kind", [_Runner, _SecondRunner])
def test_each_token_has_the_row_of_its_request(kind):
    rows, runner = torch.zeros(8, dtype=torch.int64), kind()
    table = ProfileTable(runner, rows, 2)
    first, second = table.add("math"), table.add("law")
    assert (first, second, table.profiles) == (1, 2, ("math", "law"))
    runner.execute_model(_step({"a": 2, "b": 1, "c": 3}, new={"a": "law", "b": None, "c": "math"}))
    assert rows.tolist() == [2, 2, 0, 1, 1, 1, 0, 0]
    runner.execute_model(_step({"c": 1, "a": 1}))  # in another order, without b
    assert rows.tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    with pytest.raises(SteeringError, match="law is in use by running requests"):
        table.remove("law")
    runner.execute_model(_step({"c": 1}, finished=["a"]))
    assert table.remove("law") == 2
    with pytest.raises(SteeringError, match="law is not loaded"):
        table.remove("law")
    runner.execute_model(_step({"d": 1}, new={"d": "math"}))
    assert table.remove("math", idle=True) == 1  # "d" has ended, as no step has shown yet
    assert table.add("math") == 1
    table.default = table.add("*")
    runner.execute_model(_step({"b": 2, "c": 1}, new={"c": "math"}))
    assert rows.tolist() == [2, 2, 1, 0, 0, 0, 0, 0]
    table.default = 0
    runner.execute_model(_step({"b": 1}))
    assert not rows.any()


def test_names_that_are_not_loaded_and_full_tables_are_refused():
    runner = _Runner()
    table = ProfileTable(runner, torch.zeros(8, dtype=torch.int64), 1)
    with pytest.raises(SteeringError, match="profile math is not loaded"):
        runner.execute_model(_step({"a": 1}, new={"a": "math"}))
    table.add("law")
    with pytest.raises(SteeringError, match="1 profiles are loaded, as many as vLLM was started"):
        table.add("math")


def test_an_unknown_runner_is_refused():
    with pytest.raises(SteeringError, match="SimpleNamespace is not known"):
        ProfileTable(SimpleNamespace(), torch.zeros(1, dtype=torch.int64), 1)
