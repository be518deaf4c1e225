"""Settings and probes of steered arms, each with its source."""

from dsmoe_eval.reports.run_settings import probes, settings
from dsmoe_eval.results.arms import Settings

from .made import shown


def test_every_probe_has_its_source(result):
    table = probes(result)
    assert len(table.rows) == 6
    assert table.rows[0].cells[2].source == (
        "comparisons.json: arms[contrast, math].probe.null_max_difference"
    )


def test_strength_is_shown_with_what_it_adds_to_the_logits(result):
    shown_of = {row[0]: row[5] for row in shown(settings(result))}
    assert shown_of["sham"].startswith("0 (log-odds 0, sigma 0")
    assert shown_of["contrast"].partition(" (")[0] in ("1", "3")
    assert "(log-odds 0.69, sigma " in shown_of["contrast"] or "1.4" in shown_of["contrast"]
    (arm, *_) = (one for one in result.arms if one.variant == "contrast")
    own = Settings(
        expert_count=2, strength=2.0, activation_share=0.1, qualified_on_tuning=True,
        unit="sigma", log_odds=(0.12, 0.26), sigmas=(2.0, 2.0),
    )  # fmt: skip
    changed = result.model_copy(update={"arms": (arm.model_copy(update={"settings": own}),)})
    assert shown(settings(changed))[0][5] == "2 sigma (log-odds 0.12 to 0.26)"
