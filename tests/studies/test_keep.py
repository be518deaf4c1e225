"""Keep-k curves on the lab model, against profiles built by hand."""

import numpy as np
import pytest
from rich.console import Console

from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.studies import KeepGrid, keep_curves
from dsmoe_eval.studies.keep import kept_numbers
from dsmoe_eval.studies.keep_rows import ALL, RANDOM

QUIET = Console(quiet=True)
GRID = KeepGrid(
    methods=("frequency",), shares=(1.0, 0.5), draws=2, role="non-target",
    domains=("law", "arithmetic"), items=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def engine():
    return load_engine("lab-poly", device="cpu")


@pytest.fixture(scope="module")
def found(engine, tmp_path_factory):
    root = tmp_path_factory.mktemp("passes")
    return keep_curves(engine, "lab", GRID, root=root, console=QUIET)


@pytest.mark.full
def test_rows_are_those_of_each_method_number_and_domain(found):
    cells = [(row["domain"], row["method"], row["kept"]) for row in found["rows"]]
    domains = ["law", "arithmetic", ALL]
    assert cells == [(one, name, 12) for name in (RANDOM, "frequency") for one in domains]
    assert [row["items"] for row in found["base"]] == [4, 4, 8]
    by = {(row["domain"], row["method"]): row for row in found["rows"]}
    assert by["arithmetic", "frequency"]["gold_logprob"] is None  # its answers are generated
    law = by["law", "frequency"]
    assert law["exposure_kept"] > by["law", RANDOM]["exposure_kept"] > 0
    both = [by[one, "frequency"]["score"]["value"] for one in domains]
    assert both[2] == pytest.approx(np.mean(both[:2]))
    # Of all items only those with options have a log-probability.
    assert by[ALL, "frequency"]["gold_logprob"] == law["gold_logprob"]
    assert law["score"]["over_random"] == pytest.approx(
        law["score"]["value"] - by["law", RANDOM]["score"]["value"]
    )
    assert by["law", RANDOM]["score"]["over_random"] is None


@pytest.mark.full
def test_a_domain_is_answered_by_the_experts_that_it_uses_most(engine, found, tmp_path):
    """The log-probability of law's answers, from the model itself with experts masked by hand."""
    import torch

    from dsmoe_eval.models.probing import trial_profile
    from dsmoe_eval.registry import load_suite
    from dsmoe_eval.steering import ChosenExpert, Intervention, steer
    from dsmoe_eval.tasks.identification import identification_text
    from dsmoe_eval.tasks.loading import load_tasks

    texts = [
        item.question
        for task in identification_text("lab").tasks.values()
        for item in task.items
        if task.card.domain == "law"
    ]
    usage = engine.usage(texts)
    worst = np.argsort(-usage, axis=1, kind="stable")[:, 12:]
    profile = trial_profile(engine.identity, Intervention(kind="mask", strength=1.0), [])
    experts = tuple(
        ChosenExpert(layer=layer, expert=int(one), score=0.0)
        for layer, row in zip(engine.identity.layers, worst, strict=True)
        for one in row
    )
    suite = load_suite("lab")
    (task,) = load_tasks(suite, [suite.task("lab_law_named")], "test", 4).values()
    values = []
    with steer(engine.loaded.model, profile.model_copy(update={"experts": experts})):
        for item in task.items:
            sums = []
            for option in item.options:
                prompt = engine.tokenizer(item.question)["input_ids"]
                whole = engine.tokenizer(f"{item.question} {option}")["input_ids"]
                with torch.no_grad():
                    logits = engine.loaded.model(torch.tensor([whole])).logits[0]
                chances = logits.log_softmax(-1)
                places = range(len(prompt), len(whole))
                sums.append(sum(float(chances[at - 1, whole[at]]) for at in places))
            values.append(sums[item.rights[0]] - np.logaddexp.reduce(sums))
    (row,) = (
        one for one in found["rows"] if (one["domain"], one["method"]) == ("law", "frequency")
    )
    assert row["gold_logprob"]["value"] == pytest.approx(np.mean(values), abs=1e-4)


def test_numbers_are_the_nearest_and_enough_for_a_token():
    assert kept_numbers((1.0, 0.75, 0.5, 0.125), 24, 2) == (18, 12, 3)
    assert kept_numbers((0.5, 0.55), 16, 2) == (9, 8)
    assert kept_numbers((0.3, 0.6), 16, 2, groups=4) == (8, 4)
    with pytest.raises(UserError, match="--keep 5: 1 of 24 experts are fewer than the 2 that"):
        kept_numbers((0.5, 0.05), 24, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"domains": ("alchemy",)}, "has no non-target task of alchemy; domains: math, biology"),
        ({"methods": ("influence",)}, "methods of influence read right answers"),
        ({"methods": ("magic",)}, "no method 'magic'"),
    ],
)
def test_what_cannot_be_is_refused(engine, tmp_path, changes, words):
    from dataclasses import replace

    with pytest.raises(UserError, match=words):
        keep_curves(engine, "lab", replace(GRID, **changes), root=tmp_path, console=QUIET)
