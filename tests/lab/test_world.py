"""The world: drawn from a seed, ambiguous by construction, split by question."""

from collections import Counter

from dsmoe_eval.lab.world import (
    DOMAINS,
    NAME_COUNT,
    RELATIONS,
    WORDS,
    build_world,
    named_question,
    unnamed_question,
)

WORLD = build_world()


def test_the_seed_makes_the_world():
    assert build_world() == WORLD
    assert build_world(1) != WORLD


def test_its_size():
    assert len(WORLD.facts) == len(DOMAINS) * len(WORDS) * len(RELATIONS)
    assert len(set(WORLD.names)) == NAME_COUNT
    assert len({*WORDS, *RELATIONS, *DOMAINS, *WORLD.names}) == sum(
        map(len, (WORDS, RELATIONS, DOMAINS, WORLD.names))
    )


def test_every_question_has_one_answer_a_domain_and_all_differ():
    for fact in WORLD.facts:
        assert len(set(fact.options)) == len(DOMAINS)
        assert fact.answer in fact.options
    golds = {}
    for fact in WORLD.facts:
        golds.setdefault(unnamed_question(fact), set()).add(fact.answer)
    assert all(len(answers) == len(DOMAINS) for answers in golds.values())


def test_the_place_of_the_answer_tells_nothing():
    for domain in DOMAINS:
        places = Counter(f.options.index(f.answer) for f in WORLD.facts if f.domain == domain)
        expected = len(WORLD.facts) / len(DOMAINS) ** 2
        assert all(abs(count - expected) < 5 * expected**0.5 for count in places.values())


def test_splits_share_no_question_named_or_unnamed():
    for question in (named_question, unnamed_question):
        splits = {}
        for fact in WORLD.facts:
            splits.setdefault(question(fact), set()).add(fact.split)
        assert all(len(found) == 1 for found in splits.values())
    share = Counter(fact.split for fact in WORLD.facts)
    assert share["identification"] == share["tuning"] == share["test"] // 2


def test_sums_are_right():
    for item in WORLD.sums:
        right = item.left + item.right if item.operator == "+" else item.left - item.right
        assert item.answer == right >= 0
