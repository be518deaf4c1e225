"""lm-eval's tasks, loaded with the items of one part."""

from types import SimpleNamespace

import pytest

from dsmoe_eval.cards import Split, Splits
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_suite
from dsmoe_eval.tasks import loading
from dsmoe_eval.tasks.decoding import read_decoding
from dsmoe_eval.tasks.loading import (
    check_preamble,
    in_format,
    load_tasks,
    most_tokens,
    with_preamble,
    without,
)

SUITE = load_suite("lab")


@pytest.fixture(scope="module")
def test_split():
    return load_tasks(SUITE, SUITE.tasks, "test", 30)


def test_items_are_named_by_question_options_and_gold(test_split):
    named, unnamed = test_split["lab_law_named"], test_split["lab_math_unnamed"]
    assert len(named.items) == 30
    assert len({item.id for item in named.items}) == 30
    for item in (*named.items, *unnamed.items):
        assert item.gold in item.options
        assert "~" not in item.id
    assert named.items[0].question.startswith("In law, what is the ")
    assert test_split["lab_arithmetic"].items[0].options == ()


def test_the_same_question_with_another_gold_is_another_item(test_split):
    one = {item.question: item.id for item in test_split["lab_math_unnamed"].items}
    two = {item.question: item.id for item in test_split["lab_physics_unnamed"].items}
    assert one.keys() == two.keys()
    assert not set(one.values()) & set(two.values())


def test_an_item_knows_its_question_and_options_without_the_frame(test_split):
    named = test_split["lab_law_named"].items[0]
    assert named.stem == named.question
    assert named.choices == named.options
    assert test_split["lab_arithmetic"].items[0].choices == ()


def test_ids_are_those_of_the_content_alone(test_split):
    """Results are keyed by them, so what is added to items must not change them."""
    assert test_split["lab_law_named"].items[0].id == "d98d5baad664800b"
    assert test_split["lab_arithmetic"].items[0].id == "9b52b4b65925d62b"


def test_what_lm_eval_does_not_know_is_refused():
    task = SUITE.tasks[0].model_copy(update={"name": "lab_alchemy"})
    with pytest.raises(UserError, match="lm-eval has no task lab_alchemy"):
        load_tasks(SUITE, [task], "test", None)
    task = SUITE.tasks[0].model_copy(update={"splits": Splits(test="dev")})
    with pytest.raises(UserError, match="has no split 'dev'"):
        load_tasks(SUITE, [task], "test", None)


def test_answers_join_prompt_and_gold_as_the_task_does(test_split):
    prompt, answer = test_split["lab_math_unnamed"].answers()[0]
    item = test_split["lab_math_unnamed"].items[0]
    assert prompt + answer == f"{item.question} {item.gold}"


def test_splits_are_declared():
    assert Splits(identification="identification", tuning="tuning", test="test") == SUITE.splits


def test_shares_of_a_split_are_disjoint_whole_and_by_question():
    task, parts = SUITE.tasks[0], []
    for share in (
        {"split": "test", "buckets": [0, 10]},
        {"split": "test", "buckets": [10, 25]},
        {"split": "test", "buckets": [25, 100]},
    ):
        card = task.model_copy(update={"splits": Splits(test=share)})
        parts.append(load_tasks(SUITE, [card], "test", None)[task.name])
    whole = load_tasks(SUITE, [task], "test", None)[task.name]
    found = [item.id for part in parts for item in part.items]
    assert sorted(found) == sorted(item.id for item in whole.items)
    assert len(parts[0].items) < len(parts[1].items) < len(parts[2].items)
    for part in parts:
        assert len(part.requests) == sum(len(item.options) for item in part.items)
    few = load_tasks(SUITE, [card], "test", 3)[task.name]
    assert few.items == parts[2].items[:3]


def test_a_task_without_items_of_its_own_for_a_part_is_left_out():
    task = SUITE.tasks[0].model_copy(update={"splits": Splits(test="test")})
    assert load_tasks(SUITE, [task], "tuning", 3) == {}


def test_a_split_without_items_is_named(monkeypatch):
    monkeypatch.setattr(loading, "bucket_of", lambda _item: 99)
    splits = Splits(test=Split(split="test", buckets=(0, 10)))
    task = SUITE.tasks[0].model_copy(update={"splits": splits})
    with pytest.raises(UserError, match=r"left in the split 'test', buckets \[0, 10\]; give"):
        load_tasks(SUITE, [task], "test", None)


def test_items_are_left_out_by_id():
    task = load_tasks(SUITE, SUITE.tasks[:1], "test", 5)[SUITE.tasks[0].name]
    second = task.items[1].id
    left = without(task, {second})
    assert [item.id for item in left.items] == [i.id for i in task.items if i.id != second]
    assert len(left.requests) == sum(len(item.options) for item in left.items)
    with pytest.raises(UserError, match="no item is left"):
        without(left, {item.id for item in left.items})


def drawn(**settings):
    return SUITE.task("lab_arithmetic").model_copy(update={"temperature": 0.6, **settings})


def test_a_task_is_asked_as_often_and_as_hot_as_its_card_says():
    card = drawn(samples=3, top_p=0.9)
    task = load_tasks(SUITE, [card], "test", 2)[card.name]
    assert {request.repeats for request in task.requests} == {3}
    settings = task.requests[0].args[1]
    assert (settings["do_sample"], settings["temperature"], settings["top_p"]) == (True, 0.6, 0.9)
    assert settings["max_gen_toks"] == task.answer_tokens <= most_tokens(2)
    assert read_decoding(task.generation).describe(3) == "3 samples at temperature 0.6, top-p 0.9"
    with pytest.raises(UserError, match="scores options"):
        load_tasks(SUITE, [SUITE.tasks[0].model_copy(update={"temperature": 0.6})], "test", 2)


def test_requests_stand_in_the_template_and_items_stay_what_they_are():
    def template(messages, **_):
        return "".join(f"[{m['role']}] {m['content']}" for m in messages) + " [you]"

    lm = SimpleNamespace(uses_chat_template=True, apply_chat_template=template, tokenizer_name="t")
    task = load_tasks(SUITE, [SUITE.task("lab_arithmetic")], "test", 2)["lab_arithmetic"]
    before = task.items_hash
    for item, request in zip(task.items, in_format(task, lm).requests, strict=True):
        assert request.args[0] == f"[user] {item.question} [you]"
    assert task.items_hash == before
    assert task.answers(lm)[0] == (f"[user] {task.items[0].question} [you]", task.items[0].gold)
    lm.uses_chat_template = False
    assert task.answers(lm)[0][0] == task.items[0].question


def test_a_line_before_a_prompt_is_apart_from_it(test_split):
    """Glued to the question, its last and the question's first word would be one unknown word."""
    loaded = test_split["lab_math_named"]
    before, after = loaded.requests[0], with_preamble(loaded, "In math,").requests[0]
    assert after.args == (f"In math, {before.args[0]}", before.args[1])


def test_a_chat_template_that_leaves_a_line_out_is_refused():
    """The arm `prompt` would else be base, and nobody would see it."""
    shown = {"user"}

    def template(messages, **_):
        return "".join(f"[{m['role']}] {m['content']}" for m in messages if m["role"] in shown)

    lm = SimpleNamespace(uses_chat_template=True, apply_chat_template=template, tokenizer_name="t")
    lm.check_context_length = lambda _: None
    loaded = load_tasks(SUITE, [SUITE.task("lab_arithmetic")], "test", 2)["lab_arithmetic"]
    with pytest.raises(UserError, match=r"do not show the line 'In math,'.*`prompt: plain`"):
        check_preamble(in_format(loaded, lm), "In math,", lm)
    check_preamble(loaded, "In math,", lm)  # a prompt without the template
    shown.add("system")
    check_preamble(in_format(loaded, lm), "In math,", lm)
