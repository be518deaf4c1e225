"""Items with their outcomes: prompts, right options, and the model's answers."""

from dataclasses import replace

import pytest

from dsmoe_eval.engines.load import load_engine
from dsmoe_eval.errors import UserError
from dsmoe_eval.runs.outcome_items import outcome_items, own_answers
from dsmoe_eval.tasks.identification import identification_text
from dsmoe_eval.tasks.scoring import answer_tasks, judge


@pytest.fixture(scope="module")
def ours():
    return load_engine("lab-poly", device="cpu")


@pytest.fixture(scope="module")
def text():
    return identification_text("lab", 3, answered=True)


def test_questions_are_put_into_a_chat_template(ours, text, monkeypatch):
    tasks = {n: text.tasks[n] for n in ("lab_math_unnamed", "lab_arithmetic")}
    with pytest.raises(UserError, match="no chat template"):
        outcome_items(ours, tasks, chat=True)
    template = "{% for m in messages %}In what, {{ m.content }} {% endfor %}"
    monkeypatch.setattr(ours.tokenizer, "chat_template", template)
    plain, chat = outcome_items(ours, tasks), outcome_items(ours, tasks, chat=True)
    before = tuple(ours.tokenizer("In what,")["input_ids"])
    for one, other in zip(plain, chat, strict=True):
        for own, wrapped in zip(one.texts, other.texts, strict=True):
            assert wrapped.tokens[: len(before)] == before
            assert wrapped.tokens[wrapped.start :] == own.tokens[own.start :]


def test_an_item_without_a_right_option_is_refused(ours, text):
    task = text.tasks["lab_math_unnamed"]
    broken = replace(task, items=(replace(task.items[0], rights=()), *task.items[1:]))
    with pytest.raises(UserError, match=r"is none of its options, so it has no log-probability"):
        outcome_items(ours, {"t": broken})


def test_own_right_answers_are_the_outcome_of_generated_tasks(ours, text, tmp_path):
    """Of sums, some of which the model gets wrong; the answers are generated once."""
    task = {"sums": text.tasks["lab_arithmetic"]}
    (answers,) = answer_tasks(ours.language_model(), [task["sums"]])
    right = [one[0] for one in judge(task["sums"], answers) if one[0].score]
    path = tmp_path / "generated.jsonl"
    items = outcome_items(ours, task, generated=path)
    assert 0 < len(items) == len(right)
    assert [
        ours.tokenizer.decode(i.texts[0].tokens[i.texts[0].start :]).strip() for i in items
    ] == [one.text.strip() for one in right]
    written = path.read_bytes()
    assert outcome_items(ours, task, generated=path) == items
    assert path.read_bytes() == written


def test_models_that_share_a_folder_of_passes_have_their_own_answers(ours, tmp_path):
    class Other:
        identity = ours.identity.model_copy(update={"fingerprint": "f" * 64})

        def __getattr__(self, name):
            return getattr(ours, name)

    paths = {own_answers(engine, tmp_path) for engine in (ours, Other(), ours)}
    assert len(paths) == 2
    assert {path.parent for path in paths} == {tmp_path}


def test_a_task_that_the_model_never_answers_is_refused(ours, text, tmp_path, monkeypatch):
    def wrong(task, answers):
        return [tuple(replace(one, score=0.0) for one in each) for each in judge(task, answers)]

    monkeypatch.setattr("dsmoe_eval.runs.outcome_items.judge", wrong)
    with pytest.raises(UserError, match="answers none of its 3 items correctly"):
        outcome_items(ours, {"t": text.tasks["lab_arithmetic"]}, generated=tmp_path / "answers")
