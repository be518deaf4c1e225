"""Records of a run in a file of JSON lines: whole lines, safe texts, nothing left behind."""

import json
import logging
import warnings

import pytest

from dsmoe_eval.errors import EvalWarning, QuotingError, UserError
from dsmoe_eval.log import LOGGER, log_file, note


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_has_time_level_stage_message_and_fields(tmp_path):
    with log_file(tmp_path / "log.jsonl"):
        note("cell done", logging.DEBUG, task="a", seconds=1.5)
    (row,) = rows(tmp_path / "log.jsonl")
    assert row.pop("time").endswith("+00:00")
    assert row == {
        "level": "debug", "stage": None, "message": "cell done",
        "fields": {"task": "a", "seconds": 1.5},
    }  # fmt: skip


def test_a_second_start_appends_and_an_unfinished_line_goes(tmp_path):
    path = tmp_path / "log.jsonl"
    with log_file(path):
        note("one")
    with path.open("a") as stream:
        stream.write('{"time": "20')
    with log_file(path):
        note("two")
    assert [row["message"] for row in rows(path)] == ["one", "two"]


def test_outside_nothing_is_logged_and_nothing_stays(tmp_path):
    before = LOGGER.level, list(LOGGER.handlers), warnings.showwarning
    with log_file(tmp_path / "log.jsonl"):
        pass
    note("too late")
    assert rows(tmp_path / "log.jsonl") == []
    assert (LOGGER.level, LOGGER.handlers, warnings.showwarning) == before


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("no such file"), "no such file"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (QuotingError("no token for 'Paris'"), None),
        (ValueError("the answer is Paris"), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_what_ended_a_run_is_logged_and_quotes_no_item(tmp_path, error, text):
    def fail():
        raise error

    with pytest.raises(type(error)), log_file(tmp_path / "log.jsonl"):
        fail()
    (row,) = rows(tmp_path / "log.jsonl")
    assert row["level"] == "error"
    assert (row["fields"]["type"], row["fields"]["text"]) == (type(error).__name__, text)
    assert row["fields"]["at"][-1].endswith(" fail")
    assert "Paris" not in (tmp_path / "log.jsonl").read_text()


def test_warnings_are_shown_and_logged_with_the_text_of_our_own(tmp_path):
    def warn():
        with log_file(tmp_path / "log.jsonl"):
            warnings.warn("slower from here on", EvalWarning, stacklevel=1)
            warnings.warn("I read 'Paris'", UserWarning, stacklevel=1)

    with pytest.warns() as shown:
        warn()
    assert [str(one.message) for one in shown] == ["slower from here on", "I read 'Paris'"]
    own, others = rows(tmp_path / "log.jsonl")
    assert own["level"] == others["level"] == "warning"
    assert (own["fields"]["type"], own["fields"]["text"]) == ("EvalWarning", "slower from here on")
    assert others["fields"]["text"] is None
    assert "test_log.py" in others["fields"]["at"]
