"""The figures that a probe of vLLM leaves in `cell.json`."""

from dsmoe_eval.engines.vllm.probe_report import VllmProbeReport


def test_all_figures_are_written():
    report = VllmProbeReport(0.0, None, 0.25, None, 12)
    assert report.to_dict() == {
        "null_max_difference": 0.0,
        "selection_changed": None,
        "logit_max_change": 0.25,
        "active_experts": None,
        "tokens": 12,
    }
