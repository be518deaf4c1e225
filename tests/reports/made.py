"""A run's result with other figures, and the figures that traces lead to."""

import re


def with_figures(result, variant, **figures):
    """The result with other figures of a variant on its targets."""
    arms = tuple(
        arm.model_copy(update={"target_result": arm.target_result.model_copy(update=figures)})
        if arm.variant == variant
        else arm
        for arm in result.arms
    )
    return result.model_copy(update={"arms": arms})


def shown(table):
    """Every cell's text."""
    return [tuple(cell.text for cell in row.cells) for row in table.rows]


def follow(result, trace):
    """What stands where a trace says, the test that it names, and the test that it should name."""
    place, _, test = trace.partition("; ")
    variant, target, path = re.fullmatch(
        r"comparisons\.json: arms\[([^,]+), (\w+)\]\.(.+)", place
    ).groups()
    (found,) = (arm for arm in result.arms if (arm.variant, arm.target) == (variant, target))
    domain = re.match(r"domains\[(\w+)\]\.", path)
    if domain:
        (found,) = (row for row in found.domains if row.domain == domain[1])
        path = path[domain.end() :]
    named = getattr(found, "test", None)
    for name in path.split("."):
        if name == "non_inferiority":
            found, named = found.non_inferiority, found.bound_test
            continue
        found = getattr(found, name)
        named = getattr(found, "test", named)
    return found, test, named
