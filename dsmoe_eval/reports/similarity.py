"""Rendering of expert similarity: a page, a picture, the figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..experts.set_similarity import Contrast, SetSimilarity
from ..experts.similarity import ALIKE, KERNELS, Kernel, Summary
from ..files import write_json
from ..studies.results import (
    KernelRow,
    LayerRow,
    ProfileRow,
    SimilarityResult,
)
from . import formats, study_figures
from .figures import style
from .formats import fixed
from .table import Figure, Table, Value, make_table, markdown, otherwise, words, write_markdown

NAMES = {"linear": "Linear", "rbf": "RBF"}
PICTURE = "similarity.png"


def render_similarity(result: SimilarityResult, target: Path) -> Path:
    """Write `similarity.json`, `similarity.md` and `similarity.png`; return the page's path."""
    write_json(target / "similarity.json", result)
    style()
    study_figures.similarity_figure(result, target / PICTURE)
    page = target / "similarity.md"
    write_markdown(page, similarity_page(result, picture=True))
    return page


def similarity_page(result: SimilarityResult, *, picture: bool = False) -> str:
    """Return the page in Markdown; everything in it follows from `similarity.json`."""
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
        parts += [f"## {NAMES[kernel]} kernel", markdown(_layers(result, kernel)).rstrip()]
    if result["profile"]:
        parts += [_profile_title(result["profile"]), markdown(_profile(result["profile"])).rstrip()]
        parts.append(_PROFILE_NOTE.format(draws=result["profile"]["draws"]))
    parts += ["## How to read this", _bullets(_NOTES), _how(result)]
    return "\n\n".join(parts) + "\n"


def _interval(low: float, high: float) -> str:
    return f"{fixed(low)} to {fixed(high)}"


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


def _findings(result: SimilarityResult) -> list[str]:
    layers, found = result["layers"], []
    for kernel in KERNELS:
        means = {
            name: float(np.mean([layer[kernel][name]["mean"] for layer in layers]))
            for name in ("experts", "random", "shuffled")
        }
        above = [x["layer"] for x in layers if _mean(x, kernel) > x[kernel]["random"]["mean"]]
        found.append(
            f"{NAMES[kernel]} CKA of two experts is {means['experts']:.2f} on average; of random "
            f"experts {means['random']:.2f}, of shuffled outputs {fixed(means['shuffled'])}. "
            "Experts are more alike than random ones in "
            f"{formats.named(above, len(layers), 'layers')}."
        )
    collapsed = [x["layer"] for x in layers if min(_mean(x, k) for k in KERNELS) > ALIKE]
    found.append(
        f"Mean CKA is above {ALIKE:g} by both kernels in "
        f"{formats.named(collapsed, len(layers), 'layers')}."
    )
    top = max(layers, key=lambda layer: float(layer["linear"]["experts"]["largest"]))
    one, other = top["linear"]["experts"]["pair"]
    found.append(
        f"The most similar pair is in layer {top['layer']}: experts {one} and {other}, with a "
        f"linear CKA of {top['linear']['experts']['largest']:.2f}; the router selects them for "
        f"{top['used'][one]:.1%} and {top['used'][other]:.1%} of the tokens."
    )
    return found


def _mean(layer: LayerRow, kernel: Kernel) -> float:
    return float(layer[kernel]["experts"]["mean"])


def _layers(result: SimilarityResult, kernel: Kernel) -> Table:
    rows = [(layer["layer"], layer["used"], layer[kernel]) for layer in result["layers"]]
    return make_table(f"layers-{kernel}", "", _LAYERS, rows)


Layer = tuple[int, list[float], KernelRow]
"""A layer, how often its experts are used, and how similar they are."""
_LAYERS: tuple[Figure[Layer], ...] = (
    Figure("layer", lambda row: row[0]),
    Figure("never selected", lambda row: sum(share == 0 for share in row[1])),
    Figure("mean CKA", lambda row: row[2]["experts"]["mean"], fixed),
    Figure("random", lambda row: row[2]["random"]["mean"], fixed),
    Figure("shuffled", lambda row: row[2]["shuffled"]["mean"], fixed),
    Figure(f"pairs > {ALIKE:g}", lambda row: row[2]["experts"]["alike"], formats.percent),
    Figure("random's", lambda row: row[2]["random"]["alike"], formats.percent),
    Figure("most alike", lambda row: _most_alike(row[2]["experts"]), "{} and {}: {:.2f}".format),
    Figure("effective rank", lambda row: row[2]["experts"]["effective_rank"], formats.decimal),
    Figure("random's", lambda row: row[2]["random"]["effective_rank"], formats.decimal),
    Figure("shuffled", lambda row: row[2]["shuffled"]["effective_rank"], formats.decimal),
)  # fmt: skip


def _most_alike(experts: Summary) -> Value:
    one, other = experts["pair"]
    return one, other, experts["largest"]


def _profile_title(profile: ProfileRow) -> str:
    return (
        f"## The {profile['experts']} experts of profile {profile['id']} "
        f"({profile['method']}, {profile['domain']})"
    )


class ExpertPairs(NamedTuple):
    """Pairs of experts in a profile's layers, by one kernel; without `contrast` only the mean."""

    kernel: str
    name: str
    contrast: Contrast | None
    size: int | None
    mean: float | None


_PAIRS: tuple[Figure[ExpertPairs], ...] = (
    words("kernel", lambda pairs: pairs.kernel),
    words("pairs of", lambda pairs: pairs.name),
    Figure("n", lambda pairs: pairs.size),
    Figure("mean CKA", lambda pairs: otherwise(pairs.mean, "none"), fixed),
    Figure("random sets", lambda pairs: pairs.contrast and pairs.contrast["null_mean"], fixed),
    Figure("95 % of them", lambda pairs: pairs.contrast and _null(pairs.contrast), _interval),
    Figure("p", lambda pairs: pairs.contrast and pairs.contrast["p_value"], "{:.4f}".format),
)  # fmt: skip


def _profile(profile: ProfileRow) -> Table:
    rows = [row for kernel in KERNELS for row in _pairs(NAMES[kernel], profile[kernel])]
    return make_table("profile", "", _PAIRS, rows)


def _pairs(kernel: str, figures: SetSimilarity) -> Iterator[ExpertPairs]:
    within, across = figures["within"], figures["across"]
    for name, contrast in (("two chosen", within), ("a chosen and another", across)):
        if contrast is None:
            yield ExpertPairs(kernel, name, None, 0, None)
        else:
            yield ExpertPairs(kernel, name, contrast, contrast["pairs"], contrast["mean"])
    yield ExpertPairs(kernel, "two others", None, None, figures["others"])


def _null(contrast: Contrast) -> Value:
    return contrast["null_low"], contrast["null_high"]


def _how(result: SimilarityResult) -> str:
    check = max(layer["check"] for layer in result["layers"])
    return (
        f"{result['dtype']} on {result['device']}, seed {result['seed']}. Single experts, weighted "
        f"and summed, give the layers' own output to {check:.1g} of its size."
    )


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
