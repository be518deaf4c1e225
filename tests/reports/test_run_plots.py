"""The plots hold every arm once, with the figures of `comparisons.json`."""

from dsmoe_eval.reports import run_plots


def test_every_arm_is_in_both_forests(result):
    own, rest, over = run_plots.forests(result)
    assert [row.label for row in over.rows] == ["contrast"] * 2  # the one with a placebo
    arms = {(arm.variant, arm.target): arm for arm in result.arms}
    for forest, part in ((own, "target_result"), (rest, "non_target_result")):
        assert len(forest.rows) == len(arms)
        for row in forest.rows:
            (target,) = row.facets["domain"]
            figures = getattr(arms[row.label, target], part)
            assert (row.value, [row.low, row.high]) == (figures.delta, list(figures.ci95))
            assert row.n == figures.n
            if forest is rest:
                assert row.kind == ("mark" if figures.non_inferiority.non_inferior else "")
            assert row.trace == (
                f"comparisons.json: arms[{row.label}, {target}].{part}.delta; {figures.test}"
            )
    assert (own.margin, rest.margin) == (None, result.margin)
    assert [row.group for row in own.rows] == ["math"] * 3 + ["physics"] * 3


def test_every_arm_is_a_point(result):
    plane = run_plots.plane(result)
    assert [point.label for point in plane.points] == [
        f"{arm.variant} on {arm.target}" for arm in result.arms
    ]
    for point, arm in zip(plane.points, result.arms, strict=True):
        assert point.x == arm.non_target_result.delta
        assert [point.x_low, point.x_high] == list(arm.non_target_result.ci95)
        assert point.y == arm.target_result.delta
        assert [point.y_low, point.y_high] == list(arm.target_result.ci95)
        assert point.dim == (arm.variant in {"sham", "random"})  # the controls
    assert plane.groups == ("sham", "contrast", "random")
