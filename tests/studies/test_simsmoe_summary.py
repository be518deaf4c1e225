"""Summaries over seeds and documents, from measures made by hand."""

import numpy as np
import pytest
from scipy import stats

from dsmoe_eval.studies.simsmoe_summary import objective_rows, saturation_rows

SIMILAR = {"experts": 0.2, "shuffled": 0.0, "random": 0.4, "effective_rank": 12.0}


def measures(objective, seed, per_character, specific, losses=()):
    characters = [100, 150, 250]
    bits = [size * (per_character + 0.1 * at) for at, size in enumerate(characters)]
    counts = {"specific": specific, "random": 1, "shuffled": 2}
    return {
        "objective": objective, "seed": seed, "bits": bits, "characters": characters,
        "entropy": 0.9, "largest": 0.1,
        "linear": SIMILAR | {"experts": per_character / 10}, "rbf": SIMILAR,
        "checkpoints": [{"step": 100, "counts": counts, "influence": counts}],
        "losses": list(losses),
    }  # fmt: skip


def study(losses=()):
    return [
        measures(name, seed, 2 + shift + 0.01 * seed, specific + seed, losses)
        for seed in range(3)
        for name, shift, specific in (("balance", 0.0, 10), ("debiased", 0.05, 12))
    ]


def test_differences_are_paired_by_seed():
    balance, debiased = objective_rows(study())
    assert balance["less_balance"] is None
    assert debiased["less_balance"]["mean"] == pytest.approx(0.05)
    assert debiased["less_balance"]["over_seeds"] == pytest.approx((0.05, 0.05))
    assert debiased["counts_less_balance"]["mean"] == pytest.approx(2)
    assert debiased["less_balance_over_documents"] == pytest.approx((0.05, 0.05))


def flat(found):
    """The numbers of an interval, or of a mean with its interval."""
    return (
        []
        if found is None
        else np.hstack(list(found.values() if isinstance(found, dict) else found))
    )


def test_partners_are_found_by_their_seed_in_any_order():
    models = study()
    for order in (models[::-1], models[::2] + models[:0:-2]):
        rows = {row["objective"]: row for row in objective_rows(order)}
        expected = {row["objective"]: row for row in objective_rows(models)}
        for name in ("balance", "debiased"):
            for field in ("less_balance", "counts_less_balance", "less_balance_over_documents"):
                one, other = (found[name][field] for found in (rows, expected))
                assert flat(one) == pytest.approx(flat(other)), (name, field)


def test_a_missing_partner_is_an_error():
    models = study()
    with pytest.raises(ValueError, match="no model of balance has seed 2, as debiased has"):
        objective_rows([one for one in models if (one["objective"], one["seed"]) != ("balance", 2)])
    with pytest.raises(ValueError, match="two models of debiased have seed 1"):
        objective_rows([*models, models[3]])
    with pytest.raises(ValueError, match="of seed 0 have other documents"):
        objective_rows([models[0] | {"characters": [1, 2, 3]}, *models[1:]])
    alone = [one for one in models if one["objective"] == "debiased"]
    assert objective_rows(alone)[0]["less_balance"] is None


def test_the_interval_over_seeds_is_students():
    row = objective_rows(study())[0]
    values = [2 + 0.01 * seed + 0.1 * (150 + 2 * 250) / 500 for seed in range(3)]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert row["bits"]["mean"] == pytest.approx(np.mean(values))
    assert row["bits"]["over_seeds"] == pytest.approx((expected.low, expected.high))


def test_the_similarity_that_the_loss_saw():
    seen = (None, 0.1, None, 0.5, 1.0)
    losses = [{"step": 10 * at, "similarities": value} for at, value in enumerate(seen)]
    assert objective_rows(study(losses))[0]["pairs"] == pytest.approx((0.6, 0.1, 1.0))
    assert objective_rows(study())[0]["pairs"] is None


def test_levels_of_the_estimators():
    rows = saturation_rows()
    for row in rows:
        assert row["published"] > 0.85
        assert abs(row["debiased"]) < 0.1
    biased = {row["tokens"]: row["biased"] for row in rows if row["deviation"] == 1}
    assert biased[8] == pytest.approx(0.70, abs=0.03)  # anchors.md, C, b
    assert biased[32] == pytest.approx(0.33, abs=0.03)
