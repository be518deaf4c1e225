"""The leakage of a plan: of its suite, and of the answers that only some plans read."""

from dsmoe_eval.runs.leakage import plan_leakage


def pairs(found):
    return {(row.split, row.other_split) for row in found.overlaps}


def test_a_plans_leakage_is_that_of_its_suite(one_split_plan):
    assert pairs(plan_leakage(one_split_plan())) >= {("test", "tuning")}


def test_a_targets_identification_items_count_where_a_run_reads_their_answers(one_split_plan):
    read = [
        plan_leakage(one_split_plan(variants=["base", name])).checked["identification"]
        for name in ("contrast", "influence+bias")
    ]
    assert read[1] > read[0]
