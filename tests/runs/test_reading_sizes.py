"""The sizes of what identification reads, by loops over the items."""

import pytest

from dsmoe_eval.cards import Task
from dsmoe_eval.runs.reading_sizes import reading_sizes
from dsmoe_eval.tasks.identification import TextTask, identification_text
from dsmoe_eval.tasks.items import Item


def test_influence_reads_all_options_and_generated_answers():
    tasks = dict(identification_text("lab", 4, answered=True).tasks)
    card = Task(name="t", domain="words", roles=("identification",))
    tasks["t"] = TextTask(card, (Item("x", "What is it?" * 20, (), "", cluster="x"),))
    items = [item for task in tasks.values() for item in task.items]
    read = [i for task in tasks.values() if "identification" in task.card.roles for i in task.items]
    found = reading_sizes(tasks, influence=True)
    assert (found["identification_texts"], found["influence_items"]) == (len(read), len(items))
    plain = sum(len(item.question) for item in read)
    options = [(i.question, one) for i in items for one in i.options or (i.gold,)]
    characters = sum(len(question) + len(one) for question, one in options)
    assert 4 * found["identification_tokens"] == pytest.approx(plain, rel=0.1)
    assert 4 * found["influence_tokens"] == pytest.approx(characters, rel=0.1)
    assert reading_sizes(tasks, influence=False) == found | {
        "influence_items": 0, "influence_tokens": 0
    }  # fmt: skip
