"""The existence test on a model, by counts and by influence, and how far the two agree.

By influence, an expert is specific to a domain if raising it (above the layer's others) raises the
log-likelihood of the domain's text more than that of the others' text. Documents, shuffles, false
discovery rate and control models are those of the test by counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import hypergeom, spearmanr

from ..progress import progress_bar
from ..stats import DocumentSums, excess_use
from ..steering import EXPERTS, Sites
from ..tasks.identification import TextSource
from .documents import ComparedRouting, DocumentRouting, route_documents
from .existence import CONTROL_MODELS, MOST_LISTED, PERMUTATIONS, existence
from .influence import FormName
from .map_results import BothExistence, MapAgreementRow
from .results import Basis, DomainExistenceRow, ExistenceResult

RESAMPLES = 200
"""The number of resamples of the documents, for the intervals of the rank correlations."""


@dataclass(frozen=True, slots=True)
class ExistenceMaps:
    """The results of the test on one model.

    Attributes:
        tests: the result by each basis.
        agreement: one row per domain; empty with one basis.
    """

    tests: dict[Basis, ExistenceResult]
    agreement: tuple[MapAgreementRow, ...] = ()

    def content(self) -> ExistenceResult | BothExistence:
        """Return the content of `existence.json`."""
        if len(self.tests) == 1:
            return next(iter(self.tests.values()))
        counts, influence = self.tests["counts"], self.tests["influence"]
        return BothExistence(
            by="both", counts=counts, influence=influence, agreement=list(self.agreement)
        )


def existence_maps(
    name: str,
    source: str | TextSource,
    bases: Sequence[Basis] = ("counts", "influence"),
    form: FormName = "exact",
    *,
    permutations: int = PERMUTATIONS,
    controls: int = CONTROL_MODELS,
    limit: int | None = None,
    device: str | None = None,
    console: Console | None = None,
    data: Sequence[Path] = (),
    dtype: str | None = None,
    attn_implementation: str | None = None,
    sites: Sites = EXPERTS,
) -> ExistenceMaps:
    """Test a model on identification text by every basis; see `route_documents`, `existence`.

    Args:
        name: as for `load_model`.
        source: as for `route_documents`.
        bases: the bases of the test.
        form: the form of influence.
        permutations: shuffles of labels.
        controls: number of control models of each kind.
        limit: as for `route_documents`; so are the rest.
        device: a torch device.
        console: the console that shows progress.
        data: folders with the data sets.
        dtype: as for `load_model`.
        attn_implementation: as for `load_model`.
        sites: the units that are tested. The forms of influence are one for neurons.

    Raises:
        UserError: unknown model or suite, or too few domains or documents.
        SteeringError: by influence, if the model's routers or experts do not allow it.
    """
    if sites != EXPERTS:
        form = "gradient"  # which for neurons is exact
    console = console or Console(stderr=True)
    routing = route_documents(
        name, source, range(controls), limit=limit, device=device, console=console, data=data,
        dtype=dtype, attn_implementation=attn_implementation,
        form=form if "influence" in bases else None, sites=sites,
    )  # fmt: skip
    return judge_maps(routing, bases, form, permutations, console)


def judge_maps(
    routing: ComparedRouting,
    bases: Sequence[Basis],
    form: FormName,
    permutations: int,
    console: Console,
) -> ExistenceMaps:
    """Test what was routed, by every basis."""
    listed = MOST_LISTED if "units" in routing.about else None  # of neurons there are thousands
    models = 1 + sum(map(len, routing.controls.values()))
    total, tests = len(bases) * models * permutations, dict[Basis, ExistenceResult]()
    with progress_bar(console, "shuffle labels", total, "shuffles") as advance:
        for by in bases:
            found = existence(
                routing.model, routing.controls, permutations=permutations, most_listed=listed,
                on_block=advance, by=by,
            )  # fmt: skip
            said = {} if by == "counts" else {"by": by, "form": form}
            tests[by] = cast(ExistenceResult, routing.about | dict(found) | said)
    agreement = () if len(bases) < 2 else map_agreement(routing.model, tests)
    return ExistenceMaps(tests, agreement)


def map_agreement(
    model: DocumentRouting, tests: dict[Basis, ExistenceResult], seed: int = 0
) -> tuple[MapAgreementRow, ...]:
    """Compare a model's two maps domain by domain; see `MapAgreementRow`."""
    counts, influence = model.sums("counts"), model.sums("influence")
    value = _correlations(counts, influence, np.arange(len(model.labels)))
    generator = np.random.default_rng([seed, 2])
    members = [np.flatnonzero(model.labels == index) for index in range(len(model.domains))]
    drawn = [
        _correlations(
            counts, influence, np.concatenate([generator.choice(m, len(m)) for m in members])
        )
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    units = model.used[0].size
    pairs = zip(tests["counts"]["domains"], tests["influence"]["domains"], strict=True)
    return tuple(
        MapAgreementRow(
            domain=one["domain"],
            spearman=float(value[at]),
            spearman_ci95=(float(low[at]), float(high[at])),
            **_overlap(_experts(one), _experts(other), units),
        )
        for at, (one, other) in enumerate(pairs)
    )


def _correlations(
    counts: DocumentSums, influence: DocumentSums, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Compute the rank correlation of the two maps of t by domain, [domains]."""
    one, other = (
        excess_use(type(sums)(sums.used[rows], sums.tokens[rows], sums.labels[rows])).statistic
        for sums in (counts, influence)
    )
    return np.array([spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)])


def _experts(row: DomainExistenceRow) -> set[tuple[int, int]]:
    return {(one["layer"], one["expert"]) for one in row["specific"]}


class _Overlap(TypedDict):
    by_counts: int
    by_influence: int
    both: int
    both_by_chance: float
    p_value: float


def _overlap(one: set[tuple[int, int]], other: set[tuple[int, int]], units: int) -> _Overlap:
    both, sizes = len(one & other), (len(one), len(other))
    return _Overlap(
        by_counts=sizes[0],
        by_influence=sizes[1],
        both=both,
        both_by_chance=sizes[0] * sizes[1] / units,
        p_value=float(hypergeom.sf(both - 1, units, *sizes)),
    )
