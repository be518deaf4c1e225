"""Ways to run vLLM in which a layer's tokens are not those of the worker's step."""

from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

from dsmoe_eval.engines.vllm.reach import check_rows
from dsmoe_eval.steering import SteeringError

pytestmark = pytest.mark.vllm

PLAIN = {"data_parallel_size": 1, "prefill_context_parallel_size": 1, "use_ubatching": False}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"data_parallel_size": 2}, "data parallelism"),
        ({"prefill_context_parallel_size": 2}, "prefill context parallelism"),
        ({"use_ubatching": True}, "dual batch overlap"),
    ],
)
def test_moved_tokens_are_refused(change, word):
    check_rows(False, SimpleNamespace(**PLAIN))
    with pytest.raises(SteeringError, match=f"with {word} the tokens of a step are moved"):
        check_rows(False, SimpleNamespace(**PLAIN | change))
    with pytest.raises(SteeringError, match="with sequence parallelism"):
        check_rows(True, SimpleNamespace(**PLAIN))
