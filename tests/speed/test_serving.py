"""The benchmark of vLLM's engine runs, its passes agree, and another answer is seen."""

import math
from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed"


@pytest.fixture
def serving(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    import serving

    return serving


def test_passes_take_turns_and_the_first_round_is_left_out(serving):
    order = []
    passes = [lambda name=name: order.append(name) or [(-1.0, True)] for name in "ab"]
    seconds, answers = serving.take_turns(passes, 2)
    assert "".join(order) == "abbaab"
    assert [len(taken) for taken in seconds] == [2, 2]
    rows = serving.rows_of(["ours", "theirs"], seconds, answers)
    assert [row.difference for row in rows] == [0.0, 0.0]
    assert rows[0].ratio.median == 1
    with pytest.raises(ValueError, match=r"theirs is 0.5 off ours"):
        serving.rows_of(["ours", "theirs"], seconds, [[(-1.0, True)], [(-1.5, True)]])


@pytest.mark.vllm
@pytest.mark.full
def test_all_passes_give_the_same(serving, monkeypatch):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    settings = serving.Settings(
        items=2, slow_items=1, rounds=1, profiles=2, pairs=1, prefill=256, layers=1
    )
    report = serving.measure(settings)
    assert 1 < report.computed / report.tree < report.bar
    rows = [*report.scoring, *report.profiles, *report.answers, *report.overhead["decode"]]
    assert all(row.difference < 1e-4 and math.isfinite(row.items_s.median) for row in rows)
    assert "| lm-eval `vllm` |" in serving.markdown(report)
