"""The overlap of the experts that resamples of the identification text choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

from rich.console import Console

from ..cards import Identification
from ..engines.base import Engine
from ..errors import UserError
from ..experts import RoutingCounts, choose_experts, get_method
from ..results.stability import ExpertOverlap
from ..stats import expected_jaccard, jaccard
from ..steering import ChosenExpert
from ..tasks.identification import IdentificationText, TextSource
from .identification import count_text, text_of_domain
from .influence import resampled_counts

Choice = Sequence[ChosenExpert]
Unit = tuple[int, int, bool]
"""Layer, expert, and whether it is activated: deactivated, it is another choice."""


@dataclass(frozen=True, slots=True)
class DomainStability:
    """The experts of a domain, and how far they depend on the sample of its text.

    Attributes:
        documents: number of documents of the domain.
        resamples: number of resamples of all domains' documents.
        overlap: the overlap of the resamples' choices.
        experts: the full text's choice, each with the number of resamples that choose it too.
        chunks: the most chunks that were read of each document of the user's; None: as the suite
            says.
    """

    documents: int
    resamples: int
    overlap: ExpertOverlap
    experts: tuple[tuple[ChosenExpert, int], ...]
    chunks: int | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return {
            "documents": self.documents,
            "chunks": self.chunks,
            "resamples": self.resamples,
            **self.overlap.model_dump(mode="json"),
            "chosen": [
                {"layer": one.layer, "expert": one.expert, "score": one.score, "resamples": times}
                for one, times in self.experts
            ],
        }


def resampled_choices(
    resamples: Sequence[RoutingCounts], choose: Callable[[RoutingCounts], Choice]
) -> list[Choice | None]:
    """Choose experts by each resample; None where the method cannot name enough of them."""
    choices: list[Choice | None] = []
    for counts in resamples:
        try:
            choices.append(choose(counts))
        except ValueError:  # the full text could name as many
            choices.append(None)
    return choices


def overlap(choices: Sequence[Choice | None], full: Choice, units: int) -> ExpertOverlap:
    """Compare the choices of resamples with each other, with the full text's, and with blind ones.

    Args:
        choices: the choice of each resample, or None.
        full: the choice of the full text.
        units: number of experts in each layer.
    """
    named = [one for one in choices if one is not None]
    pairs = [shared_experts(a, b, units) for a, b in combinations(named, 2)]
    return ExpertOverlap(
        experts=len(full),
        named=len(named),
        between=_mean([shared for shared, _ in pairs]),
        by_chance=_mean([by_chance for _, by_chance in pairs]),
        with_full=_mean([jaccard(_units(one), _units(full)) for one in named]),
    )


def shared_experts(a: Choice, b: Choice, units: int) -> tuple[float, float]:
    """Return the Jaccard index of two choices, and the mean one of blind choices of their sizes.

    Args:
        a: a choice.
        b: another choice, of the same layers.
        units: number of experts in each layer.

    Raises:
        ValueError: both are empty.
    """
    return jaccard(_units(a), _units(b)), _by_chance(a, b, units)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _units(choice: Choice) -> set[Unit]:
    return {(one.layer, one.expert, one.activate) for one in choice}


def _by_chance(a: Choice, b: Choice, units: int) -> float:
    layers = sorted({one.layer for one in (*a, *b)})

    def sizes(choice: Choice) -> list[tuple[int, int]]:
        count = Counter((one.layer, one.activate) for one in choice)
        return [(count[layer, True], count[layer, False]) for layer in layers]

    return expected_jaccard(sizes(a), sizes(b), units)


def domain_stability(
    engine: Engine,
    source: str | TextSource | IdentificationText,
    domain: str,
    method: str = "dsmoe",
    *,
    experts: int | None = None,
    resamples: int = 5,
    seed: int = 0,
    limit: int | None = None,
    root: Path | None = None,
    console: Console | None = None,
    data: Sequence[Path] = (),
) -> DomainStability:
    """Compare the experts that resamples of the documents choose for a domain.

    Args:
        engine: the model's engine, which records the routing.
        source: a suite's name or path, text documents, or text that was loaded before.
        domain: one of the text's domains.
        method: a name in `experts.all_methods`.
        experts: the size of E*; by default that of the method, else 1 % of all experts.
        resamples: number of resamples.
        seed: the seed of the resamples.
        limit: the limit of items per task, and of documents per domain.
        root: the folder in which passes are stored.
        console: the console on which progress is shown; by default stderr.
        data: folders of data sets; if empty, they come from the hub.

    Raises:
        UserError: unknown suite, domain or method, or too few experts with a positive score.
    """
    text, chosen_method = text_of_domain(source, domain, method, limit, data), get_method(method)
    if chosen_method.router_tuning:
        fault = "tunes routers on right answers, which stability does not resample"
        raise UserError(f"method {method!r} {fault}; take another method")
    root = root or Path("out") / "observations"
    counts = count_text(engine, text, chosen_method, Identification(), root=root, console=console)

    def choose(of: RoutingCounts) -> Choice:
        return choose_experts(chosen_method, of, domain, experts)

    try:
        full = choose(counts)
    except ValueError as error:
        raise UserError(f"method {method!r}, domain {domain!r}: {error}") from error
    numbers, read = range(1, resamples + 1), Identification()
    drawn = resampled_counts(engine, text.tasks, counts, root, numbers, seed, read)
    choices = resampled_choices(drawn, choose)
    times = Counter(unit for one in choices if one is not None for unit in _units(one))
    return DomainStability(
        documents=int((counts.domain == counts.domains.index(domain)).sum()),
        resamples=resamples,
        overlap=overlap(choices, full, counts.experts),
        experts=tuple((one, times[one.layer, one.expert, one.activate]) for one in full),
        chunks=text.chunks,
    )
