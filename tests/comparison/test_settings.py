"""Settings of two evaluations: equal decoding has equal words, other decoding is flagged."""

import json

import pytest

from dsmoe_eval.comparison import Selection
from dsmoe_eval.comparison.compare import compare
from dsmoe_eval.comparison.readers import read_results
from dsmoe_eval.comparison.settings import generation, merged, setting_differences
from dsmoe_eval.errors import UserError


@pytest.mark.parametrize(
    "arguments",
    [
        {}, {"do_sample": False}, {"do_sample": False, "temperature": 0.0}, {"temperature": 0},
        {"do_sample": True, "temperature": 0.0}, {"do_sample": False, "temperature": 0.7},
        {"top_p": 0.9, "top_k": 20, "do_sample": None},
    ],
)  # fmt: skip
def test_case_11_greedy_is_greedy_however_it_is_written(arguments):
    assert generation(arguments) == {"decoding": "greedy"}


def test_case_11_sampling_keeps_what_acts_on_it():
    words = generation(
        {"temperature": 0.6, "top_p": 0.9, "max_tokens": 10, "stop_seqs": ["b", "a"]}
    )
    assert words == {
        "decoding": "sampling", "temperature": "0.6", "top_p": "0.9", "max_gen_toks": "10",
        "until": '["a", "b"]',
    }  # fmt: skip


def test_settings_that_differ_by_item_say_so():
    assert merged([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"a": "1"}]) == {
        "a": "1", "b": "differs by item",
    }  # fmt: skip
    assert merged([]) == {}


def test_only_what_both_record_can_differ():
    a = {"generation": {"decoding": "greedy"}, "limit": {}}
    b = {"generation": {"decoding": "greedy", "top_k": "5"}, "epochs": {"epochs": "3"}}
    assert setting_differences(a, b) == ["top_k not set in A, 5 in B"]
    assert setting_differences(a, {"limit": {"limit": "10"}}) == ["limit not set in A, 10 in B"]
    assert setting_differences(a, a) == []


def samples(path, arguments, filters=("strict",)):
    rows = [
        {
            "doc_id": i, "doc": {"question": f"what is {i}?"}, "target": f"{i}", "resps": [["x"]],
            "arguments": {"gen_args_0": {"arg_0": f"what is {i}?", "arg_1": arguments}},
            "exact_match": float((i + k) % 2),
        } | ({"filter": name} if name else {})
        for k, name in enumerate(filters)
        for i in range(12)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GREEDY = {"do_sample": False, "max_gen_toks": 256, "until": ["\n\n"]}
SAMPLED = {"do_sample": True, "temperature": 0.6, "max_gen_toks": 32768, "until": []}


def test_case_11_other_sampling_settings_are_flagged(tmp_path):
    a, b = samples(tmp_path / "a.jsonl", GREEDY), samples(tmp_path / "b.jsonl", SAMPLED)
    (warning,) = (w for w in compare(a, b).warnings if "settings" in w)
    for part in ("decoding greedy in A, sampling in B", "256 in A, 32768 in B", "0.6 in B"):
        assert part in warning
    assert not [w for w in compare(a, a).warnings if "settings" in w]


def test_case_11_other_limits_and_few_shot_are_flagged(tmp_path):
    paths = []
    for side, limit, shots in (("a", None, 0), ("b", 12.0, 5)):
        (tmp_path / side).mkdir()
        time = "2025-01-01T00-00-00.000000"
        paths.append(samples(tmp_path / side / f"samples_t_{time}.jsonl", GREEDY))
        summary = {"n-shot": {"t": shots}, "config": {"limit": limit}, "versions": {"t": 1}}
        (tmp_path / side / f"results_{time}.json").write_text(json.dumps(summary))
    for a, b in (paths, (tmp_path / "a", tmp_path / "b")):
        (warning,) = compare(a, b).warnings
        assert "few-shot examples 0 in A, 5 in B; limit not set in A, 12.0 in B" in warning


def test_case_13_filters_without_a_name_are_chosen_by_number(tmp_path):
    path = samples(tmp_path / "a.jsonl", GREEDY, (None, None))
    with pytest.raises(UserError, match=r"2 scores per document.*--filter 1 or --filter 2"):
        read_results(path)
    first, second = (read_results(path, Selection(filter=n)) for n in "12")
    assert first.table["score"].tolist() == [0, 1] * 6
    assert second.table["score"].tolist() == [1, 0] * 6
    assert second.measures == {"a": ("exact_match", "number 2")}
    with pytest.raises(UserError, match=r"of filter '3'; .* number: --filter 1 or --filter 2"):
        read_results(path, Selection(filter="3"))
    named = samples(tmp_path / "n.jsonl", GREEDY, ("strict", "loose"))
    assert read_results(named, Selection(filter="loose")).table["score"].tolist() == [1, 0] * 6
