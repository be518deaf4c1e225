import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.engines.requests import Answer, Request, Sampling
from dsmoe_eval.engines.response_log import ResponseLog, request_key
from dsmoe_eval.errors import UserError
from dsmoe_eval.files import seal

from ..damage import damaged

ONE = Request((1, 2), 9)
REQUESTS = [
    ONE,
    Request((1, 2, 3), 9),
    Request((1, 2), 8),
    Request((1, 2), 9, stops=("\u2028",)),
    Request((1, 2), 9, after=(3,)),
    Request((1, 2), 9, sampling=Sampling(0.5, 1)),
    Request((1, 2), 9, sampling=Sampling(0.5, 2)),
]


def test_every_field_of_a_request_counts():
    assert len({request_key(request) for request in REQUESTS}) == len(REQUESTS)


@given(st.data())
def test_what_was_written_to_its_end_is_there_whatever_the_cut(data):
    answers = [Answer((place, 7), "stop") for place in range(len(REQUESTS))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j.jsonl"
        journal = ResponseLog(path)
        assert journal.read() == {}
        journal.add(zip(REQUESTS, answers, strict=True))
        whole = path.read_bytes()
        kept = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:kept])
        lines = whole[:kept].count(b"\n")
        keys = [request_key(request) for request in REQUESTS]
        assert journal.read() == dict(zip(keys[:lines], answers[:lines], strict=True))
        journal.add([(ONE, Answer((), "max_tokens"))])
        assert journal.read()[keys[0]] == Answer((), "max_tokens")


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(seal({"request": "a"})),
        json.dumps(seal({"request": "a", "tokens": [1], "reason": "x"})),
        '{"request": "a", "tokens": [1], "reason": "stop"}',
        "[",
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "j.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=r"j\.jsonl: damaged .*delete it"):
        ResponseLog(path).read()


@given(st.data())
def test_case_09_a_flipped_bit_in_an_answer_is_noticed(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j.jsonl"
        ResponseLog(path).add([(ONE, Answer((70, 7), "stop"))])
        before = ResponseLog(path).read()
        with damaged(path, data):
            try:
                found = ResponseLog(path).read()
            except UserError:
                return
            assert found in (before, {})  # without its end a line is no answer, and is asked again
