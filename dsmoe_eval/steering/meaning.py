"""The interventions that keep their definition under a router's scoring rule.

Where the definition of an intervention does not apply to a rule, `check_meaning` raises with the
reason; nothing is approximated silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .errors import SteeringError
from .profile import ChosenExpert, Intervention
from .scoring import Groups, Scoring


def check_meaning(
    intervention: Intervention,
    chosen: Sequence[ChosenExpert],
    scoring: Scoring,
    experts: int,
    top_k: int,
) -> None:
    """Check that the definition of an intervention applies to a layer's scoring rule.

    Raises:
        SteeringError: it does not; the message has the reason and what to use instead.
    """
    if intervention.channel == "score" and not scoring.correction_bias:
        raise SteeringError(
            "bias in the score channel needs a router that chooses by score + correction bias; "
            "this router does not, so use the logit channel"
        )
    if intervention.kind == "reweight" and top_k == 1:
        raise SteeringError(
            "reweight keeps the sum of a token's weights, so it changes nothing in a router that "
            "selects one expert per token; use bias or amplify instead"
        )
    if intervention.kind == "mask":
        _check_mask(chosen, scoring, experts, top_k)
    elif intervention.kind == "force":
        _check_force(chosen, scoring, experts, top_k)


def _check_mask(chosen: Sequence[ChosenExpert], scoring: Scoring, experts: int, top_k: int) -> None:
    if experts - len(chosen) < top_k:
        raise SteeringError(
            f"mask of {len(chosen)} of {experts} experts leaves fewer than the {top_k} that every "
            "token needs; mask fewer"
        )
    if scoring.groups and scoring.groups.leaks:
        raise SteeringError(
            "mask cannot be kept by this router: it gives the experts of groups that a token does "
            "not keep the score 0, above kept ones whose correction bias makes them negative, so "
            "that masked experts would be selected; use bias in the score channel instead"
        )
    if scoring.groups:
        # With a correction bias of -inf, the sum of a group's two best scores is -inf as well where
        # only one expert is left: such a group is kept only if there are too few others.
        needed = 2 if scoring.correction_bias else 1
        _check_left("mask", chosen, scoring.groups, experts, top_k, needed)


def _check_force(
    chosen: Sequence[ChosenExpert], scoring: Scoring, experts: int, top_k: int
) -> None:
    if not scoring.shift_invariant:
        raise SteeringError(
            "force is defined on log_softmax of the logits, but the constant that log_softmax "
            "subtracts changes this router's output; use bias instead"
        )
    if scoring.correction_bias:
        raise SteeringError(
            "force puts a logit above all others, which does not force a router that chooses by "
            "score + correction bias; use bias in the score channel instead"
        )
    active = sum(expert.activate for expert in chosen)
    if active > top_k or len(chosen) - active > experts - top_k:
        raise SteeringError(
            f"force cannot activate {active} experts and deactivate {len(chosen) - active} in a "
            f"layer that selects {top_k} of {experts}; force fewer"
        )
    if scoring.groups:
        _check_kept(chosen, scoring.groups, experts)
        _check_left("force", chosen, scoring.groups, experts, top_k, 1)


def _check_kept(chosen: Sequence[ChosenExpert], groups: Groups, experts: int) -> None:
    """Check that the groups of all activated experts are kept for every token."""
    active = Counter(
        expert.expert * groups.count // experts for expert in chosen if expert.activate
    )
    alone = [] if groups.by_best else [group for group, number in active.items() if number < 2]
    if len(active) > groups.kept or alone:
        raise SteeringError(
            f"force cannot activate experts of {len(active)} groups in a router that keeps "
            f"{groups.kept} of {groups.count} groups"
            + (", each by the sum of its two best scores" if alone else "")
            + "; force experts of fewer groups"
            + (", at least two of each" if alone else "")
        )


def _check_left(
    kind: str,
    chosen: Sequence[ChosenExpert],
    groups: Groups,
    experts: int,
    top_k: int,
    needed: int,
) -> None:
    """Check that the groups that a token keeps always have enough experts that are not excluded.

    Args:
        kind: of the intervention: `mask` excludes all chosen experts, `force` those not activated.
        chosen: the experts of the layer.
        groups: the router's.
        experts: their number in the layer.
        top_k: how many a token selects.
        needed: experts that must be left in a group, so that it is rated above an empty one.
    """
    left = [experts // groups.count] * groups.count
    sure = set()
    for expert in chosen:
        group = expert.expert * groups.count // experts
        if kind == "mask" or not expert.activate:
            left[group] -= 1
        else:
            sure.add(group)
    others = [number for group, number in enumerate(left) if group not in sure]
    others.sort(key=lambda number: (number < needed, number))
    fewest = sum(left[group] for group in sure) + sum(others[: groups.kept - len(sure)])
    if fewest < top_k:
        raise SteeringError(
            f"{kind} leaves as few as {fewest} experts in the {groups.kept} of {groups.count} "
            f"groups from which this router selects a token's {top_k}, so that it would select "
            f"excluded ones; {kind} fewer experts of a group"
        )
