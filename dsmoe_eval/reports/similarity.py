"""Renders expert similarity: a page, a picture, the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..experts.similarity import ALIKE, KERNELS
from ..files import write_json, write_text
from . import figures
from .tables import Grid

NAMES = {"linear": "Linear", "rbf": "RBF"}
PICTURE = "similarity.png"


def render_similarity(result: dict[str, Any], target: Path) -> Path:
    """Write `similarity.json`, `similarity.md` and `similarity.png`; the path of the page."""
    write_json(target / "similarity.json", result)
    figures.style()
    figures.similarity(result, target / PICTURE)
    page = target / "similarity.md"
    write_text(page, similarity_page(result, picture=True))
    return page


def similarity_page(result: dict[str, Any], *, picture: bool = False) -> str:
    """The page, in Markdown; everything in it follows from `similarity.json`."""
    parts = [
        f"# How alike the experts of {result['model']['name']} are",
        f"Outputs of all {result['experts']} experts of each layer on the same {result['tokens']} "
        f"distinct tokens of {result['texts']} texts ({result['source']}; a beginning that texts "
        "share counts once), compared by debiased CKA: 1 where one is the other rotated, shifted "
        "and scaled, 0 where they are independent.",
        _bullets(_findings(result)),
    ]
    if picture:
        parts.append(f"![CKA and effective rank by layer]({PICTURE})")
    for kernel in KERNELS:
        parts += [f"## {NAMES[kernel]} kernel", _markdown(_layers(result, kernel))]
    if result["profile"]:
        parts += [_profile_title(result["profile"]), _markdown(_profile(result["profile"]))]
        parts.append(_PROFILE_NOTE.format(draws=result["profile"]["draws"]))
    parts += ["## How to read this", _bullets(_NOTES), _how(result)]
    return "\n\n".join(parts) + "\n"


_NOTES = (
    "shuffled: the same outputs with the tokens of every expert in a random order of its own; what "
    "experts that have nothing in common show. It should be 0, and its effective rank the number "
    "of experts.",
    "random: experts with weights drawn at random, with the mean and the spread of the trained "
    "ones, on the same tokens. Experts are alike to this degree because their input is the same; "
    "a CKA is a sign of collapse only above it.",
    f"pairs > {ALIKE:g}: SimSMoE (arXiv 2406.15883) takes experts above this CKA for too much "
    "alike. It used a biased estimate, which is higher.",
    "effective rank: how many experts the layer would have if they were all different; "
    "exp(entropy) of the eigenvalues of the CKA matrix.",
    "Every expert is run on every token, also on those that the router does not give it; experts "
    "that agree here may still be used for different tokens. “never selected”: experts that the "
    "router selects for none of the tokens; that those are alike costs the model little.",
    "Linear CKA weighs tokens by the size of their outputs, so a few large ones can rule it; RBF "
    "CKA, by the median distance, does not. Read what both say.",
    "That experts differ does not show that they differ by domain, nor that steering works.",
)
_PROFILE_NOTE = (
    "Pairs within a layer, pooled over the layers that have a chosen expert. The null is {draws:,} "
    "random sets with as many experts in each layer; p is two-sided and not adjusted for the "
    "number of rows. Compare a row with its random sets, not with another row: layers differ, and "
    "weigh differently in each row."
)


def _findings(result: dict[str, Any]) -> list[str]:
    layers, found = result["layers"], []
    for kernel in KERNELS:
        means = {
            name: float(np.mean([layer[kernel][name]["mean"] for layer in layers]))
            for name in ("experts", "random", "shuffled")
        }
        above = [x["layer"] for x in layers if _mean(x, kernel) > x[kernel]["random"]["mean"]]
        found.append(
            f"{NAMES[kernel]} CKA of two experts is {means['experts']:.2f} on average; of random "
            f"experts {means['random']:.2f}, of shuffled outputs {_round(means['shuffled'])}. "
            f"Experts are more alike than random ones in {_named(above, len(layers))}."
        )
    collapsed = [x["layer"] for x in layers if min(_mean(x, k) for k in KERNELS) > ALIKE]
    found.append(
        f"Mean CKA is above {ALIKE:g} by both kernels in {_named(collapsed, len(layers))}."
    )
    top = max(layers, key=lambda layer: float(layer["linear"]["experts"]["largest"]))
    one, other = top["linear"]["experts"]["pair"]
    found.append(
        f"The most similar pair is in layer {top['layer']}: experts {one} and {other}, with a "
        f"linear CKA of {top['linear']['experts']['largest']:.2f}; the router selects them for "
        f"{top['used'][one]:.1%} and {top['used'][other]:.1%} of the tokens."
    )
    return found


def _mean(layer: dict[str, Any], kernel: str) -> float:
    return float(layer[kernel]["experts"]["mean"])


def _named(layers: list[int], total: int) -> str:
    listed = f" ({', '.join(map(str, layers))})" if layers else ""
    return f"{len(layers)} of {total} layers{listed}"


def _layers(result: dict[str, Any], kernel: str) -> Grid:
    header = (
        "layer", "never selected", "mean CKA", "random", "shuffled", f"pairs > {ALIKE:g}",
        "random's", "most alike", "effective rank", "random's", "shuffled",
    )  # fmt: skip
    rows = []
    for layer in result["layers"]:
        own, random, shuffled = (layer[kernel][n] for n in ("experts", "random", "shuffled"))
        one, other = own["pair"]
        rows.append(
            (
                str(layer["layer"]),
                str(sum(share == 0 for share in layer["used"])),
                _round(own["mean"]),
                _round(random["mean"]),
                _round(shuffled["mean"]),
                f"{own['alike']:.1%}",
                f"{random['alike']:.1%}",
                f"{one} and {other}: {own['largest']:.2f}",
                *(f"{x['effective_rank']:.1f}" for x in (own, random, shuffled)),
            )
        )
    return Grid(header, tuple(rows))


def _profile_title(profile: dict[str, Any]) -> str:
    return (
        f"## The {profile['experts']} experts of profile {profile['id']} "
        f"({profile['method']}, {profile['domain']})"
    )


def _profile(profile: dict[str, Any]) -> Grid:
    header = ("kernel", "pairs of", "n", "mean CKA", "random sets", "95 % of them", "p")
    rows = []
    for kernel in KERNELS:
        for key, name in (("within", "two chosen"), ("across", "a chosen and another")):
            rows.append((NAMES[kernel], name, *_contrast(profile[kernel][key])))
        others = profile[kernel]["others"]
        value = "none" if others is None else _round(others)
        rows.append((NAMES[kernel], "two others", "", value, "", "", ""))
    return Grid(header, tuple(rows))


def _contrast(figures_of: dict[str, Any] | None) -> tuple[str, ...]:
    if figures_of is None:
        return ("0", "none", "", "", "")
    return (
        str(figures_of["pairs"]),
        _round(figures_of["mean"]),
        _round(figures_of["null_mean"]),
        f"{_round(figures_of['null_low'])} to {_round(figures_of['null_high'])}",
        f"{figures_of['p_value']:.4f}",
    )


def _how(result: dict[str, Any]) -> str:
    check = max(layer["check"] for layer in result["layers"])
    return (
        f"{result['dtype']} on {result['device']}, seed {result['seed']}. Single experts, weighted "
        f"and summed, give the layers' own output to {check:.1g} of its size."
    )


def _round(value: float) -> str:
    """Three decimals, and no minus before a zero."""
    return f"{round(value, 3) + 0.0:.3f}"


def _bullets(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _markdown(grid: Grid) -> str:
    rule = ("---", *("---:" for _ in grid.header[1:]))
    return "\n".join(f"| {' | '.join(row)} |" for row in (grid.header, rule, *grid.rows))
