"""Expert identification on a suite's identification text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..cards import Identification, Suite
from ..engines.base import Engine, run_facts
from ..errors import UserError
from ..experts import (
    Document,
    Marker,
    Method,
    RoutingCounts,
    StreamMeans,
    choose_experts,
    count_routing,
    documents_hash,
    encode_documents,
    get_method,
    in_phase,
    with_answer,
)
from ..experts.tokenizer import Tokenizer
from ..files import read_json, seal, unseal, write_json
from ..models import SaliencyModel, load_saliency_model
from ..progress import progress_bar
from ..registry import load_suite
from ..steering import Intervention, Profile, Source
from ..tasks.loading import LoadedTask, load_tasks

PAPER_STRENGTH = 4.0
"""The strength of `reweight` at alpha = 5, the best of the DSMoE paper."""


@dataclass(frozen=True, slots=True)
class IdentificationSpec:
    """The data that a pass over the identification text must give.

    Attributes:
        settings: the presentation of the text.
        saliency: whether the saliency of tokens is needed.
        contributions: whether experts' contributions are needed.
        markers: the tokens whose routing is counted separately -> their coefficients.
    """

    settings: Identification
    saliency: bool
    contributions: bool
    markers: Mapping[str, float]

    @classmethod
    def by(
        cls, methods: Sequence[Method], settings: Identification, markers: Mapping[str, float]
    ) -> IdentificationSpec:
        """Return the specification of the data that the methods need, and no more."""
        return cls(
            settings,
            saliency=any(method.saliency for method in methods),
            contributions=any(method.contributions for method in methods),
            markers=markers,
        )


def identify(
    engine: Engine,
    suite_name: str,
    domain: str,
    method: str = "dsmoe",
    *,
    intervention: Intervention | None = None,
    experts: int | None = None,
    limit: int | None = None,
    settings: Identification | None = None,
    markers: Mapping[str, float] | None = None,
    root: Path | None = None,
    console: Console | None = None,
    data: Sequence[Path] = (),
) -> Profile:
    """Find a domain's experts and build a profile from them.

    Args:
        engine: the model's engine, which records the routing.
        suite_name: a suite's name or path; only its identification split is read.
        domain: one of the suite's identification domains.
        method: a name in `experts.all_methods`.
        intervention: by default the DSMoE paper's, `reweight` with alpha 5 (strength 4).
        experts: the size of E*; by default that of the method, else 1 % of all experts.
        limit: the limit of items per task.
        settings: the presentation of the text; by default the plain questions.
        markers: the marker tokens for `npmi`; by default those of the suite.
        root: the folder in which passes are stored, for the next method or after a crash.
        console: the console on which progress is shown; by default stderr.
        data: folders of data sets; if empty, they come from the hub.

    Raises:
        UserError: unknown suite, domain or method, too few experts with a positive score, or the
            engine cannot show what the method needs.
    """
    suite = identification_suite(suite_name, domain, method)
    chosen_method, settings = get_method(method), settings or Identification()
    kind = intervention or Intervention(kind="reweight", strength=PAPER_STRENGTH)
    tasks, counts = count_suite(
        engine,
        suite,
        chosen_method,
        settings,
        suite.markers if markers is None else markers,
        limit=limit,
        root=root,
        console=console,
        data=data,
    )
    try:
        chosen = choose_experts(chosen_method, counts, domain, experts, signed=kind.kind == "force")
    except ValueError as error:
        raise UserError(f"method {method!r}, domain {domain!r}: {error}") from error
    return Profile(
        model=engine.identity,
        method=method,
        experts=chosen,
        intervention=kind,
        source=identification_source(suite, tasks, domain, settings, engine.name),
    )


def count_suite(
    engine: Engine,
    suite: Suite,
    method: Method,
    settings: Identification,
    markers: Mapping[str, float],
    *,
    limit: int | None = None,
    root: Path | None = None,
    console: Console | None = None,
    data: Sequence[Path] = (),
) -> tuple[dict[str, LoadedTask], RoutingCounts]:
    """Load a suite's identification text, and count what a method needs of its routing.

    See `identify` for the arguments.

    Raises:
        UserError: the text, the tokenizer or the engine does not allow it; the message says why.
    """
    wanted = IdentificationSpec.by([method], settings, markers)
    tasks = load_tasks(suite, suite.identification_tasks, "identification", limit, data)
    texts = sum(len(task.items) for task in tasks.values())
    with progress_bar(
        console or Console(stderr=True), "identify experts", texts, "texts"
    ) as advance:
        root = root or Path("out") / "observations"
        return tasks, count_domains(engine, tasks, wanted, root, advance)


def identification_suite(suite_name: str, domain: str, method: str) -> Suite:
    """Load the suite, and check that domain and method exist, before a model is loaded.

    Raises:
        UserError: unknown suite, domain or method.
    """
    suite = load_suite(suite_name)
    try:
        get_method(method)
    except ValueError as error:
        raise UserError(str(error)) from error
    if domain not in suite.identification_domains:
        there = ", ".join(suite.identification_domains)
        raise UserError(
            f"suite {suite.name!r} has no identification text of {domain!r}; it has: {there}"
        )
    return suite


def domain_texts(tasks: Mapping[str, LoadedTask]) -> dict[str, list[str]]:
    """Return the tasks' questions, without answers, by domain."""
    texts: dict[str, list[str]] = {}
    for task in tasks.values():
        texts.setdefault(task.card.domain, []).extend(item.question for item in task.items)
    return texts


def count_domains(
    engine: Engine,
    tasks: Mapping[str, LoadedTask],
    wanted: IdentificationSpec,
    root: Path,
    advance: Callable[[int], None],
) -> RoutingCounts:
    """Count the routing over the tasks' questions, or over the answers that the model generates.

    The right answers of the tasks are not read.

    Raises:
        UserError: the text, the tokenizer or the engine does not allow it; the message says why.
    """
    settings = wanted.settings
    texts = domain_texts(tasks)
    try:
        documents = _documents(engine, texts, settings, root)
        reader = _reader(engine, texts, settings.saliency_model) if wanted.saliency else None
        seen = engine.observe(
            documents,
            root,
            reader=reader,
            contributions=wanted.contributions,
            advance=advance,
        )
        markers = [
            Marker(text, _marker_token(engine.tokenizer, text), weight)
            for text, weight in wanted.markers.items()
        ]
        return count_routing(seen, markers=markers).in_phase(settings.phase)
    except ValueError as error:
        raise UserError(str(error)) from error


def average_streams(
    engine: Engine,
    tasks: Mapping[str, LoadedTask],
    settings: Identification,
    root: Path,
    advance: Callable[[int], None],
) -> StreamMeans:
    """Average the residual stream over the tokens whose routing `count_domains` counts.

    Raises:
        UserError: the text, the tokenizer or the engine does not allow it; the message says why.
    """
    try:
        documents = _documents(engine, domain_texts(tasks), settings, root)
        return engine.mean_streams(in_phase(documents, settings.phase), root, advance)
    except ValueError as error:
        raise UserError(str(error)) from error


def identification_source(
    suite: Suite,
    tasks: Mapping[str, LoadedTask],
    domain: str,
    settings: Identification,
    engine: str,
) -> Source:
    """Return the source of a domain's identification text, with the ids of its items."""
    items = [i.id for task in tasks.values() if task.card.domain == domain for i in task.items]
    return Source(
        suite=suite.name,
        domain=domain,
        split=str(suite.splits.identification or "by task"),
        items=tuple(items),
        phase=settings.phase,
        chat_template=settings.chat_template,
        saliency_model=settings.saliency_model,
        engine=engine,
    )


def counts_to_json(counts: RoutingCounts, methods: Sequence[Method]) -> dict[str, object]:
    """Return the counts by domain and the methods' scores as JSON data, for the run's folder."""
    sums = [counts.of(domain) for domain in counts.domains]
    scores = {
        method.name: {domain: method.score(counts, domain).tolist() for domain in counts.domains}
        for method in methods
        if method.placebo_of is None
    }
    return {
        "domains": counts.domains,
        "layers": counts.layers,
        "tokens": [one.tokens for one in sums],
        "used": [one.used.tolist() for one in sums],
        "scores": scores,
    }


def _documents(
    engine: Engine, texts: Mapping[str, list[str]], settings: Identification, root: Path
) -> tuple[Document, ...]:
    """Encode the texts, with the model's answers where these are to be read."""
    documents = encode_documents(engine.tokenizer, texts, chat_template=settings.chat_template)
    if settings.phase == "generated":
        return _answered(engine, documents, settings.answer_tokens, root)
    return documents


def _answered(
    engine: Engine, documents: Sequence[Document], limit: int, root: Path
) -> tuple[Document, ...]:
    """Return the documents with the model's answers, which are stored beside the passes.

    Raises:
        UserError: the file of stored answers is damaged.
    """
    facts = [documents_hash(documents), engine.identity.fingerprint, run_facts(engine), limit]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = root / f"answers-{key}.json"
    if not path.is_file():
        write_json(path, seal(engine.answers([one.tokens for one in documents], limit)))
    try:
        answers = unseal(read_json(path))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); remove it and run again") from error
    return tuple(with_answer(one, answer) for one, answer in zip(documents, answers, strict=True))


def _reader(engine: Engine, texts: Mapping[str, list[str]], name: str | None) -> SaliencyModel:
    """Return the model that gives token saliency: the engine's model if `name` is None.

    Raises:
        UserError: the model of this name does not read the same tokens as the engine's model.
    """
    if name is None:
        return engine.reader()
    reader = load_saliency_model(name)
    for members in texts.values():
        if reader.tokenizer(members)["input_ids"] != engine.tokenizer(members)["input_ids"]:
            raise UserError(
                f"saliency model {name!r} does not read the same tokens as "
                f"{engine.identity.name!r}; take one with the same tokenizer"
            )
    return reader


def _marker_token(tokenizer: Tokenizer, text: str) -> int:
    vocabulary = tokenizer.get_vocab()
    if text in vocabulary:
        return int(vocabulary[text])
    tokens = tokenizer.encode(text, add_special_tokens=False)
    if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
        raise UserError(f"the marker {text!r} is not one token of this tokenizer; give one that is")
    return int(tokens[0])
