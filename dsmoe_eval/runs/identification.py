"""Expert identification on a suite's identification text, or on text documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ..cards import Identification
from ..engines.base import Engine, run_facts
from ..errors import UserError
from ..experts import (
    Document,
    Marker,
    Method,
    Observations,
    RoutingCounts,
    StreamMeans,
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
from ..steering import EXPERTS, Intervention, Profile, Source
from ..tasks.identification import (
    IdentificationText,
    TextSource,
    domain_groups,
    domain_texts,
    identification_text,
)
from ..tasks.items import WithItems
from ..variants import spared_experts, with_sigmas
from .answered import with_answers
from .influence import texts_read
from .specification import IdentificationSpec

PAPER_STRENGTH = 4.0
"""The strength of `reweight` at alpha = 5, the best of the DSMoE paper."""


def identify(
    engine: Engine,
    source: str | TextSource | IdentificationText,
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
    spared: Sequence[tuple[int, int]] = (),
) -> Profile:
    """Find a domain's experts and build a profile from them.

    Args:
        engine: the model's engine, which records the routing.
        source: a suite's name or path, or text documents, or text that was loaded before.
        domain: one of the text's domains.
        method: a name in `experts.all_methods`.
        intervention: by default the DSMoE paper's, `reweight` with alpha 5 (strength 4). In units
            of sigma it gets the sigmas of the layers here.
        experts: the size of E*; by default that of the method, else 1 % of all experts.
        limit: the limit of items per task, and of documents per domain.
        settings: the presentation of the text; by default the plain text.
        markers: the marker tokens for `npmi`; by default those of the suite.
        root: the folder in which passes are stored, for the next method or after a crash.
        console: the console on which progress is shown; by default stderr.
        data: folders of data sets; if empty, they come from the hub.
        spared: (layer, expert) of those that are not masked or forced out; see `guards.guard_text`.

    Raises:
        UserError: unknown suite, domain or method, too few experts with a positive score, or the
            engine cannot show what the method needs.
    """
    text = text_of_domain(source, domain, method, limit, data)
    chosen_method, settings = get_method(method), settings or Identification()
    kind = intervention or Intervention(kind="reweight", strength=PAPER_STRENGTH)
    counts = count_text(engine, text, chosen_method, settings, markers, root=root, console=console)
    counts = replace(counts, spared=tuple(spared))
    try:
        chosen = spared_experts(chosen_method, counts, domain, experts, kind.kind)
    except ValueError as error:
        raise UserError(f"method {method!r}, domain {domain!r}: {error}") from error
    return Profile(
        model=engine.identity,
        method=method,
        experts=chosen,
        intervention=with_sigmas(kind, counts),
        source=identification_source(text, domain, settings, engine.name),
    )


def count_text(
    engine: Engine,
    text: IdentificationText,
    method: Method,
    settings: Identification,
    markers: Mapping[str, float] | None = None,
    *,
    root: Path | None = None,
    console: Console | None = None,
) -> RoutingCounts:
    """Count what a method needs of the routing of identification text.

    See `identify` for the arguments.

    Raises:
        UserError: the text, the tokenizer or the engine does not allow it; the message says why.
    """
    of_suite = {} if text.suite is None else text.suite.markers
    wanted = IdentificationSpec.by([method], settings, of_suite if markers is None else markers)
    texts = texts_read(text.tasks, method.influence)
    shown, root = console or Console(stderr=True), root or Path("out") / "observations"
    with progress_bar(shown, "identify experts", texts, "texts") as advance:
        return count_domains(engine, text.tasks, wanted, root, advance)


def text_of_domain(
    source: str | TextSource | IdentificationText,
    domain: str,
    method: str,
    limit: int | None = None,
    data: Sequence[Path] = (),
) -> IdentificationText:
    """Load the text, and check that domain and method exist, before a model is loaded.

    Raises:
        UserError: unknown suite, domain or method, or text that cannot be read.
    """
    try:
        answered = get_method(method).reads_answers
    except ValueError as error:
        raise UserError(str(error)) from error
    text = source
    if not isinstance(text, IdentificationText):
        text = identification_text(text, limit, data, answered)
    if domain not in text.domains:
        raise UserError(
            f"{text.source} has no identification text of {domain!r}; it has: "
            f"{', '.join(text.domains)}"
        )
    return text


def count_domains(
    engine: Engine,
    tasks: Mapping[str, WithItems],
    wanted: IdentificationSpec,
    root: Path,
    advance: Callable[[int], None],
) -> RoutingCounts:
    """Count the routing over the tasks' questions, or over the answers that the model generates.

    Right answers are read only where a method needs them. Chunks of a document count together.

    Raises:
        UserError: the text, the tokenizer or the engine does not allow it; the message says why.
    """
    _check_units(engine, wanted)
    try:
        documents = read_documents(engine, tasks, wanted.settings, root)
        seen = observe_text(engine, tasks, documents, wanted, root, advance)
        counts = count_seen(seen, engine.tokenizer, wanted)
        return with_answers(engine, tasks, counts, root, wanted, advance)
    except ValueError as error:
        raise UserError(str(error)) from error


def _check_units(engine: Engine, wanted: IdentificationSpec) -> None:
    """Refuse what needs routed experts where neurons are counted, before anything is read."""
    if wanted.router_tuning and engine.identity.sites != EXPERTS:
        raise UserError(
            "router-lens: of routed experts only, which a dense model lacks; take another "
            "method for neurons, such as dsmoe or frequency"
        )


def observe_text(
    engine: Engine,
    tasks: Mapping[str, WithItems],
    documents: Sequence[Document],
    wanted: IdentificationSpec,
    root: Path,
    advance: Callable[[int], None],
) -> Observations:
    """Record a pass over the documents of the tasks; see `Engine.observe`."""
    other = wanted.settings.saliency_model
    reader = _reader(engine, domain_texts(tasks), other) if wanted.saliency else None
    return engine.observe(
        documents,
        root,
        reader=reader,
        contributions=wanted.contributions,
        activity=wanted.activity,
        advance=advance,
    )


def count_seen(
    seen: Observations, tokenizer: Tokenizer, wanted: IdentificationSpec
) -> RoutingCounts:
    """Count the routing of a pass, with that of the marker tokens."""
    given = wanted.markers.items()
    markers = [Marker(text, _marker_token(tokenizer, text), weight) for text, weight in given]
    return count_routing(seen, markers=markers).in_phase(wanted.settings.phase)


def average_streams(
    engine: Engine,
    tasks: Mapping[str, WithItems],
    settings: Identification,
    root: Path,
    advance: Callable[[int], None],
) -> StreamMeans:
    """Average the residual stream over the tokens whose routing `count_domains` counts.

    Raises:
        UserError: the text, the tokenizer or the engine does not allow it; the message says why.
    """
    try:
        documents = read_documents(engine, tasks, settings, root)
        return engine.mean_streams(in_phase(documents, settings.phase), root, advance)
    except ValueError as error:
        raise UserError(str(error)) from error


def identification_source(
    text: IdentificationText, domain: str, settings: Identification, engine: str
) -> Source:
    """Return the source of a domain's identification text, with the ids of its items."""
    return Source(
        suite=None if text.suite is None else text.suite.name,
        domain=domain,
        split=text.split,
        items=text.ids(domain),
        file=text.file,
        chunks=text.chunks,
        phase=settings.phase,
        chat_template=settings.chat_template,
        saliency_model=settings.saliency_model,
        engine=engine,
    )


def read_documents(
    engine: Engine, tasks: Mapping[str, WithItems], settings: Identification, root: Path
) -> tuple[Document, ...]:
    """Encode the texts, with the model's answers where these are to be read."""
    documents = encode_documents(
        engine.tokenizer,
        domain_texts(tasks),
        chat_template=settings.chat_template,
        groups=domain_groups(tasks),
    )
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
