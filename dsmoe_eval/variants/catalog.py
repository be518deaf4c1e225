"""The catalogue of variants. A steering claim without its controls is not a claim.

A built-in variant is a file in `benchmarks/variants`. A user's variant is a file in a folder
`variants` beside the plan or one level above it, or in the working directory or one level above
that. A result identifies variants by name alone and is read in the working directory, so a run
accepts only the variants that are visible from there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

from ..cards import ExpertSource, Kind, Variant
from ..errors import UserError
from ..experts import all_methods
from ..registry import builtin_folder, builtin_names, load_variant, search_card

BASE = "base"
_SOURCES: Mapping[str, ExpertSource] = {
    "": "method", "matched": "random_matched", "wrong": "other_domain"
}  # fmt: skip
"""The endings of the names of combinations, and the sources of their experts."""


@functools.cache
def all_variants() -> Mapping[str, Variant]:
    """Return the built-in variants by name."""
    folder = builtin_folder() / "variants"
    return {name: load_variant(folder / f"{name}.yaml") for name in builtin_names("variants")}


def get_variant(name: str, beside: Path | None = None) -> Variant:
    """Return a variant by name, or any method with any intervention as `METHOD+INTERVENTION`.

    `METHOD+INTERVENTION+matched` and `...+wrong` are its controls: random experts of the same
    layers and exposure, and another domain's experts.

    Args:
        name: a name, or the path of a YAML file.
        beside: a file, such as a plan, near which a user's variants may be.

    Raises:
        UserError: unknown; the message lists the known names. Or a user's file is not valid, or has
            the name of another variant.
    """
    own = own_file(name, beside)
    if own is not None:
        return _own_variant(own)
    variant = all_variants().get(name) or _combination(name)
    if variant is None:
        raise UserError(
            f"no variant {name!r}; there are: {', '.join(all_variants())}; or "
            "METHOD+INTERVENTION, such as frequency+bias, and its controls frequency+bias+matched "
            "and +wrong; or your own, as a .yaml file in a folder variants beside the plan, or "
            "where the command is started"
        )
    return variant


def planned_variant(name: str, plan: Path) -> Variant:
    """Return a variant that a plan names, after checking that its results can be read.

    Args:
        name: a name, or the path of a YAML file from the plan's folder.
        plan: the plan's file.

    Raises:
        UserError: as `get_variant`; or the plan's results would be of an unknown variant here.
    """
    variant = get_variant(name, plan)
    own = own_file(name, plan)
    if own is not None and own_file(variant.name) is None:
        raise UserError(
            f"{own}: results tell variants by name, and {variant.name!r} is not found from where "
            f"the command is started; start it in {own.resolve().parent.parent}, with the file in "
            "its folder variants"
        )
    if own is not None and get_variant(variant.name) != variant:
        raise UserError(f"{own}: {own_file(variant.name)} is another variant of the same name")
    return variant


def own_file(name: str, beside: Path | None = None) -> Path | None:
    """Return the file of a user's variant; None if the name is built in or combined.

    Raises:
        UserError: the name is a path, and there is no such file.
    """
    path = search_card("variants", name, beside)
    builtin = (builtin_folder() / "variants").resolve()
    return None if path is None or path.resolve().parent == builtin else path


def _own_variant(path: Path) -> Variant:
    variant = load_variant(path)
    if variant.name != path.stem:
        raise UserError(f"{path}: its name is {variant.name!r}; name file and variant alike")
    known = all_variants().get(variant.name) or _combination(variant.name)
    if known not in (None, variant):
        raise UserError(
            f"{path}: {variant.name!r} is a variant of dsmoe-eval's; results tell variants by "
            "name alone, so give yours another"
        )
    if variant.method is not None and variant.method not in all_methods():
        raise UserError(
            f"{path}: no method {variant.method!r}; there are: {', '.join(all_methods())}"
        )
    return variant


def _combination(name: str) -> Variant | None:
    method, _, rest = name.partition("+")
    kind, _, experts = rest.partition("+")
    whole = f"{method}+{kind}" + (f"+{experts}" if experts else "")
    known = method in all_methods() and kind in get_args(Kind)
    if name != whole or not known or experts not in _SOURCES:
        return None
    return Variant.model_validate(
        {
            "name": name,
            "kind": "steered",
            "method": method,
            "intervention": kind,
            "expert_source": _SOURCES[experts],
            "control_of": f"{method}+{kind}" if experts else None,
            "summary": f"{experts or 'best'} experts by {method}, {kind}",
        }
    )


def control_for(variant: Variant, source: ExpertSource, among: Iterable[Variant]) -> Variant | None:
    """Return the control that is the variant with other experts; None if there is none.

    Args:
        variant: the arm.
        source: `random_matched`: the placebo; `other_domain`: the specificity control.
        among: the plan's variants.
    """
    controls = (
        one
        for one in among
        if one.control_of == variant.name
        and one.expert_source == source
        and one.intervention == variant.intervention
        and not one.zero_strength
    )
    return next(controls, None)
