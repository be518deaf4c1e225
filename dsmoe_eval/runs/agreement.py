"""How often two engines, or a model and its quantized form, select the same experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ..engines.base import Engine
from ..engines.load import load_engine
from ..experts import Document, encode_documents
from ..log import note
from ..models import rounded_experts
from ..results.regression import RoutingAgreement
from ..results.schema import EngineRouting, QuantizedRouting
from ..tasks.identification import IdentificationText, domain_groups, domain_texts
from ..tasks.items import WithItems
from .job import Job
from .roles import modules

LEARNER = "transformers"
TOKENS = 4096
"""The tokens of identification text after which no other document is compared."""


class UnlikeRoutingError(Exception):
    """An error: the selections of two models cannot be compared, and why."""


def measure_agreement(job: Job) -> None:
    """Compare the routing of both engines on some identification text, and store the figures.

    vLLM is run eagerly for it. Where vLLM learned, there is nothing to compare.
    """
    path = job.folder.engine_routing
    if not job.roles.are_two or job.plan.learner == "vllm":
        return
    with job.leases.turn("agreement"):
        if not job.folder.has(path):
            _measure(job, path)


def _measure(job: Job, path: Path) -> None:
    tasks, chat = job.identification.tasks, job.plan.identification.chat_template
    documents = sampled(_encoded(job.engine, tasks, chat))
    root = job.folder.observations / "compared"
    learned = _selections(job.learner, documents, root)
    with job.roles.seen() as engine:
        answered = _selections(engine, documents, root)
    found = compare_routing(learned, answered, job.engine.identity.layers, job.plan.learner)
    note("routing compared", tokens=found.tokens, different=found.different)
    job.folder.write_json(path, found.model_dump(mode="json"))


def measure_rounding(job: Job) -> None:
    """Compare the routing of each quantized model of a run with that of base, by the learner."""
    path = job.folder.quantized_routing
    forms = [one.quantized for one in job.variants if one.quantized is not None]
    if not forms or job.folder.has(path):
        return
    with job.leases.turn("quantized-routing"):
        if job.folder.has(path):
            return
        tasks, chat = job.identification.tasks, job.plan.identification.chat_template
        learner, root = job.learner, job.folder.observations / "compared"
        documents = sampled(_encoded(learner, tasks, chat))
        plain, loaded = _selections(learner, documents, root / "base"), modules(learner)
        found, identity = [], learner.identity
        for form in dict.fromkeys(forms):
            with rounded_experts(loaded.model, form):
                rounded = _selections(learner, documents, root / form)
            agreement = compare_selections(plain, rounded, identity.layers, identity.experts)
            found.append(QuantizedRouting(form=form, agreement=agreement).model_dump(mode="json"))
        job.folder.write_json(path, found)


def probe_agreement(
    model: str, text: IdentificationText, load: Callable[[], Engine]
) -> EngineRouting:
    """Compare the routing of transformers and of vLLM on some of a suite's identification text.

    One engine is in memory at a time.

    Args:
        model: as for `load_model`.
        text: the identification text.
        load: loads the model in transformers.

    Raises:
        UserError: vLLM is not installed, or cannot run this model.
    """
    with TemporaryDirectory() as folder:
        root = Path(folder)
        with closing(load()) as engine:
            documents = sampled(_encoded(engine, text.tasks))
            learned, layers = _selections(engine, documents, root), engine.identity.layers
        dtype, sites = engine.dtype, engine.identity.sites
        del engine
        with closing(
            load_engine(model, "vllm", dtype=dtype, sites=sites, enforce_eager=True)
        ) as other:
            return compare_routing(learned, _selections(other, documents, root), layers, LEARNER)


def sampled(documents: Sequence[Document]) -> tuple[Document, ...]:
    """Return the first documents of each domain in turn, of about `TOKENS` tokens in all."""
    by_domain: dict[str, list[Document]] = {}
    for one in documents:
        by_domain.setdefault(one.domain, []).append(one)
    chosen: list[Document] = []
    for one in filter(None, chain.from_iterable(zip_longest(*by_domain.values()))):
        if chosen and sum(sum(other.kept) for other in chosen) >= TOKENS:
            break
        chosen.append(one)
    return tuple(chosen)


def compare_routing(a: Tensor, b: Tensor, layers: Sequence[int], learner: str) -> EngineRouting:
    """Compare two engines' selections of the same tokens, integers of shape [tokens, layers, k]."""
    differs = (a.sort(-1).values != b.sort(-1).values).any(-1).double()
    return EngineRouting(
        learner=learner,
        tokens=len(differs),
        layers=tuple(layers),
        different=float(differs.mean()),
        different_by_layer=tuple(differs.mean(0).tolist()),
    )


def compare_selections(
    a: Tensor, b: Tensor, layers: Sequence[int], experts: int
) -> RoutingAgreement:
    """Compare two models' selections, integers of shape [tokens, layers, k].

    Args:
        a: the selections of one model.
        b: those of another, of the same tokens in the same order.
        layers: the numbers of the layers.
        experts: the number of experts in each layer.

    Raises:
        UnlikeRoutingError: the models select another number of experts per token.
    """
    if a.shape != b.shape:
        raise UnlikeRoutingError("the models do not select the same number of experts per token")
    tokens, _, k = a.shape
    shared, by_chance = [], []
    for place in range(len(layers)):  # layer by layer: a pass may be large
        one, other = a[:, place].long(), b[:, place].long()
        same = (one.unsqueeze(2) == other.unsqueeze(1)).sum()
        shared.append(int(same) / (tokens * k))
        use = [
            side.flatten().bincount(minlength=experts).double() / tokens for side in (one, other)
        ]
        by_chance.append(float(use[0] @ use[1]) / k)
    return RoutingAgreement(
        tokens=tokens,
        layers=tuple(layers),
        shared=sum(shared) / len(shared),
        by_chance=min(sum(by_chance) / len(by_chance), 1.0),
        shared_by_layer=tuple(shared),
    )


def _encoded(
    engine: Engine, tasks: Mapping[str, WithItems], chat_template: bool = False
) -> tuple[Document, ...]:
    return encode_documents(
        engine.tokenizer,
        domain_texts(tasks),
        chat_template=chat_template,
        groups=domain_groups(tasks),
    )


def _selections(engine: Engine, documents: Sequence[Document], root: Path) -> Tensor:
    """Return an engine's selected experts of all tokens, document by document."""
    seen = engine.observe(documents, root, reader=None, contributions=False, advance=lambda _: None)
    batches = list(seen.read())
    order = torch.cat([batch.document for batch in batches]).argsort(stable=True)
    return torch.cat([batch.experts for batch in batches])[order]
