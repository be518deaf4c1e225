"""Documents' routing adds up to what identification counts, and bad requests end early."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from dsmoe_eval.cards import DocumentFile, Identification
from dsmoe_eval.engines.transformers.engine import TransformersEngine
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import load_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.identification import count_domains
from dsmoe_eval.runs.specification import IdentificationSpec
from dsmoe_eval.steering import ChosenExpert, Intervention
from dsmoe_eval.studies import documents
from dsmoe_eval.studies.documents import document_routing, route_documents
from dsmoe_eval.tasks import identification
from dsmoe_eval.tasks.identification import text_tasks
from dsmoe_eval.tasks.loading import load_tasks
from dsmoe_eval.tasks.texts import TextDocument

QUIET = Console(quiet=True)


def test_documents_add_up_to_their_domains(tmp_path):
    suite, loaded = load_suite("lab"), load_model("lab-poly", "cpu")
    tasks = load_tasks(suite, suite.identification_tasks, "identification", 5)
    done = []
    routing = document_routing(loaded.model, loaded.tokenizer, tasks, done.append)
    wanted = IdentificationSpec(Identification(), saliency=True, contributions=False, markers={})
    engine = TransformersEngine(loaded)
    counts = count_domains(engine, tasks, wanted, tmp_path, lambda _: None)
    assert routing.domains == counts.domains
    assert sum(done) == len(routing.tokens) == 5 * len(tasks)
    for index, domain in enumerate(counts.domains):
        own = routing.labels == index
        assert (routing.used[own].sum(0) == counts.of(domain).used).all()
        assert routing.tokens[own].sum() == counts.of(domain).tokens
    # Of each document by itself, whatever batch it came in.
    (alone,) = (task for task in tasks.values() if task.card.domain == "arithmetic")
    one = {"arithmetic": dataclasses.replace(alone, items=alone.items[:1])}
    single = document_routing(loaded.model, loaded.tokenizer, one, done.append)
    first = int(np.flatnonzero(routing.labels == routing.domains.index("arithmetic"))[0])
    assert (single.used[0] == routing.used[first]).all()


def test_the_progress_counts_texts_and_models(monkeypatch):
    seen = []

    def stop(_console, *said):
        seen.append(said)
        raise KeyboardInterrupt

    monkeypatch.setattr(documents, "progress_bar", stop)
    with pytest.raises(KeyboardInterrupt):
        route_documents("lab-poly", "lab", (0, 1, 2), limit=2, device="cpu", console=QUIET)
    texts = 2 * len(load_suite("lab").identification_tasks)
    assert seen == [(f"route {texts} texts through 7 models", 7 * texts, "texts")]


def test_the_trained_model_is_routed_and_two_kinds_of_control():
    routing = route_documents("lab-poly", "lab", (0, 1), limit=3, device="cpu", console=QUIET)
    assert routing.about["model"] == "lab-poly"
    assert routing.about["limit"] == 3
    assert {kind: len(models) for kind, models in routing.controls.items()} == {
        "random": 2, "shuffled": 2,
    }  # fmt: skip
    controls = [each.used for models in routing.controls.values() for each in models]
    used = [routing.model.used, *controls]
    assert len({each.tobytes() for each in used}) == 5
    top_k = 2
    for each in used:
        assert (each.sum(2) == top_k * routing.model.tokens[:, None]).all()


def test_too_little_to_compare_is_refused_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(documents, "load_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=r"domain 'math': 1 identification text.*--limit"):
        route_documents("lab-poly", "lab", (0,), limit=1, console=QUIET)
    suite = load_suite("lab")
    alone = suite.model_copy(update={"tasks": suite.identification_tasks[:1]})
    monkeypatch.setattr(identification, "load_suite", lambda _: alone)
    with pytest.raises(UserError, match="1 domain"):
        route_documents("lab-poly", "lab", (0,), console=QUIET)


def documents_of(texts, chunks):
    made = [TextDocument(domain, text, "") for domain, text in texts]
    return text_tasks(made, None, DocumentFile(file="", characters=60, chunks=chunks))


def test_a_documents_influence_is_what_raising_the_expert_does_less_the_layers_mean():
    """Measured: each expert of the last layer, above which nothing changes, raised by a bias."""
    loaded, suite, layer = load_model("lab-poly", "cpu"), load_suite("lab"), 3
    read = load_tasks(suite, suite.identification_tasks, "identification", 2)
    words = [item.question for item in read["lab_law_named"].items]
    tasks = documents_of([("law", " ".join(words)), ("math", words[0])], None)
    routing = document_routing(loaded.model, loaded.tokenizer, tasks, lambda _: None, "exact")
    engine = TransformersEngine(loaded)
    ids = [
        loaded.tokenizer(item.question)["input_ids"]
        for task in tasks.values()
        for item in task.items
    ]
    law = ids[: len(tasks["documents-law"].items)]
    assert len(law) > 1  # several chunks, one document
    assert routing.scored[0] == sum(len(one) - 1 for one in law)
    logits = []
    gate = loaded.model.model.layers[layer].mlp.gate
    handle = gate.register_forward_hook(
        lambda gate, given, _: logits.append(given[0].reshape(-1, 96) @ gate.weight.T)
    )
    with torch.no_grad():
        for one in ids:
            loaded.model(torch.tensor([one]))
    handle.remove()
    step = 0.5 * float(torch.cat(logits).std(-1, correction=0).mean())

    def likelihood():
        total = 0.0
        for one in law:
            with torch.no_grad():
                logits = loaded.model(torch.tensor([one])).logits[0].double()
            total += float(logits.log_softmax(-1)[range(len(one) - 1), one[1:]].sum())
        return total

    profile = trial_profile(
        loaded.identity, Intervention(kind="bias", strength=math.expm1(step)), [0]
    )
    before, changes = likelihood(), []
    for expert in range(24):
        chosen = (ChosenExpert(layer=layer, expert=expert, score=1.0),)
        with engine.steer(profile.model_copy(update={"experts": chosen})):
            changes.append(likelihood() - before)
    measured, foretold = np.array(changes) - np.mean(changes), routing.influence[0, layer]
    # What is left is the curvature of the outcome in the experts' output.
    assert foretold == pytest.approx(measured, abs=0.1 * np.abs(measured).max())
    assert np.abs(measured).max() > 0.01


def test_influence_that_was_not_computed_is_refused():
    loaded = load_model("lab-poly", "cpu")
    tasks = documents_of([("law", "what is the rule"), ("math", "what is the sum")], 1)
    routing = document_routing(loaded.model, loaded.tokenizer, tasks, lambda _: None)
    with pytest.raises(ValueError, match="was not computed"):
        routing.sums("influence")
