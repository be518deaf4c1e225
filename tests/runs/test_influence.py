"""Items of suites with their outcomes, and the influence that methods get, on the lab model."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from dsmoe_eval.cards import Identification, Task
from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.experts import Form, OutcomeItem, ScoredText, get_method, resample_documents
from dsmoe_eval.runs.identification import count_domains, identify
from dsmoe_eval.runs.influence import (
    _drawn,
    answers_read,
    influence_of,
    resampled_counts,
    texts_read,
)
from dsmoe_eval.runs.outcome_items import outcome_items
from dsmoe_eval.runs.specification import IdentificationSpec
from dsmoe_eval.steering import Intervention
from dsmoe_eval.tasks.identification import TextTask, domain_texts, identification_text
from dsmoe_eval.tasks.items import Item


@pytest.fixture(scope="module")
def ours():
    return load_engine("lab-poly", device="cpu")


@pytest.fixture(scope="module")
def text():
    return identification_text("lab", 3, answered=True)


def right_options(lm, task):
    """The log-probability of each item's right option among its options."""
    values = np.array([value for value, _ in lm.log_likelihoods([r.args for r in task.requests])])
    shares = values.reshape(len(task.items), -1)
    shares = shares - np.log(np.exp(shares).sum(1, keepdims=True))
    return [row[item.rights[0]] for row, item in zip(shares, task.items, strict=True)]


def test_outcomes_are_those_of_the_harness(ours, text, tmp_path):
    """`gold_logprob` by the engine's scoring; an answer's and a text's log-likelihood."""
    lm = ours.language_model()
    tasks = {n: text.tasks[n] for n in ("lab_math_unnamed", "lab_law_named", "lab_arithmetic")}
    words = Item("x", "What is the keeper of the base?", (), "", cluster="x")
    card = Task(name="t", domain="words", roles=("identification",))
    tasks["t"] = TextTask(card, (words,))
    items = outcome_items(ours, tasks)
    seen = influence_of(ours, items, Form(), tmp_path)
    expected = []
    for task in list(tasks.values())[:2]:
        expected += right_options(lm, task)
    expected += [v for v, _ in lm.log_likelihoods(tasks["lab_arithmetic"].answers())]
    ((rest, _),) = lm.log_likelihoods([("What", words.question.removeprefix("What"))])
    expected.append(rest / (len(ours.tokenizer(words.question)["input_ids"]) - 1))
    np.testing.assert_allclose(seen.outcome, expected, rtol=1e-4, atol=1e-5)
    assert [one.domain for one in items] == ["math"] * 3 + ["law"] * 3 + ["arithmetic"] * 3 + [
        "words"
    ]


def test_the_targets_questions_are_answered_and_not_counted(ours, text, tmp_path):
    plain = identification_text("lab", 3)
    assert set(text.tasks) - set(plain.tasks) == {
        f"lab_{domain}_unnamed" for domain in ("math", "biology", "physics", "chemistry")
    }
    assert domain_texts(text.tasks) == domain_texts(plain.tasks)
    assert text.ids("math") == plain.ids("math")
    wanted = IdentificationSpec.by([get_method("influence")], Identification(), {})
    done: list[int] = []
    with_targets = count_domains(ours, text.tasks, wanted, tmp_path, done.append)
    assert sum(done) == texts_read(text.tasks, True) == (7 + 11) * 3
    assert texts_read(text.tasks, False) == 7 * 3
    without = count_domains(ours, plain.tasks, wanted, tmp_path, lambda _: None)
    math, law = (with_targets.domains.index(one) for one in ("math", "law"))
    assert np.array_equal(with_targets.influence[law], without.influence[law])
    assert not np.allclose(with_targets.influence[math, 0], without.influence[math, 0])
    assert np.array_equal(with_targets.influence[math, 1], without.influence[math, 1])
    # Unnamed questions are open, named ones are not: what could be gained is in the first.
    assert (
        np.abs(with_targets.influence[math, 0]).max()
        > 10 * np.abs(without.influence[math, 0]).max()
    )


def test_resamples_draw_the_items_of_each_domain(ours, text, tmp_path):
    """Each table is a mean of single items' influence, with whole numbers of each."""
    tasks = {name: text.tasks[name] for name in ("lab_math_unnamed", "lab_math_named")}
    wanted = IdentificationSpec.by([get_method("influence")], Identification(), {})
    counts = count_domains(ours, tasks, wanted, tmp_path, lambda _: None)
    numbers = range(1, 5)
    found = resampled_counts(ours, tasks, counts, tmp_path, numbers, 7, Identification())
    steps = tuple(0.5 * counts.sigmas()[layer] for layer in counts.layers)
    items = outcome_items(ours, {"t": tasks["lab_math_unnamed"]})
    single = influence_of(ours, items, Form(steps=steps), tmp_path).influence.astype(float)
    chosen = set()
    for number, one in zip(numbers, found, strict=True):
        table = one.influence[0, 0]
        (times,) = (
            times
            for times in itertools.product(range(4), repeat=3)
            if sum(times) == 3
            and np.allclose(np.tensordot(times, single, 1) / 3, table, rtol=1e-4, atol=1e-7)
        )
        chosen.add(times)
        of_documents = resample_documents(replace(counts, influence=None), number, 7)
        assert np.array_equal(one.weight, of_documents.weight)
    assert len(chosen) > 1
    (again,) = resampled_counts(ours, tasks, counts, tmp_path, [3], 7, Identification())
    assert np.array_equal(again.influence, found[2].influence)
    (plain,) = resampled_counts(
        ours, tasks, replace(counts, influence=None), tmp_path, [3], 7, Identification()
    )
    assert plain.influence is None


def test_the_answers_that_identify_experts_count(text):
    numbers = {
        name: answers_read(text.tasks, get_method(name), "math")
        for name in ("dsmoe", "influence", "influence-net")
    }
    assert numbers == {"dsmoe": 0, "influence": 3, "influence-net": 3 + 6 * 3}


def test_items_of_a_cluster_are_drawn_together():
    items = [OutcomeItem("law", (ScoredText((1, 2), 1),), cluster=c) for c in ("a", "b", "a", "")]
    draw = np.random.default_rng(0)
    for _ in range(20):
        rows = _drawn(items, [0, 1, 2, 3], draw)
        assert rows.count(0) == rows.count(2)
        assert rows.count(0) + rows.count(1) + rows.count(3) == 3


def test_experts_by_influence_raise_their_own_domain(ours, tmp_path):
    """On the questions that they were chosen by: a check of the sign, and no result."""
    text = identification_text("lab", 12, answered=True)
    task = text.tasks["lab_biology_unnamed"]
    profile = identify(
        ours, text, "biology", "influence", experts=8, root=tmp_path,
        intervention=Intervention(kind="bias", strength=0.65),
    )  # fmt: skip
    lm = ours.language_model()
    before = np.mean(right_options(lm, task))
    with ours.steer(profile):
        assert np.mean(right_options(lm, task)) > before + 0.1
