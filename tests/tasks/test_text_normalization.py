"""What of a text counts, against pairs written by hand; how alike two are, against brute force."""

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.tasks.text_normalization import (
    LONG_WORDS,
    NEAR,
    RUN_WORDS,
    closest,
    letters,
    normalise,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 0 + 0?", "What is 0 + 1?"),
        ("What is 0 + 1?", "What is 0 - 1?"),
        ("What is -5?", "What is 5?"),
        ("a - b", "a + b"),
        ("a * b", "a / b"),
        ("(x+1)/(x-1)", "(x+1)*(x-1)"),
        ("x^2", "x^3"),
        ("x²", "x³"),
        ("10²", "102"),
        ("1/2", "12"),
        ("1/2", "1.2"),
        ("1.2", "1, 2"),
        ("2½", "21/2"),
        (".5", "5"),
        ("12 3", "1 23"),
        ("5 %", "5"),
        ("5 €", "5 £"),
        ("x < y", "x > y"),
        ("x ≤ y", "x < y"),
        ("∀x Fx", "∃x Fx"),
        ("J >> a?", "J << a?"),
        ("What does 😀 mean?", "What does 😢 mean?"),
        ("दिन", "दान"),  # they differ in a vowel sign
    ],
)
def test_what_makes_another_question_is_kept(one, other):
    assert letters(normalise(one)) != letters(normalise(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 0+1?", "what is 0 + 1"),
        ("x \N{MINUS SIGN} y", "x-y"),
        ("x^2 - 2x^{3}", "x² \N{EN DASH} 2x³"),
        ("well-known", "well known"),
        ("km/h and/or mph", "km h and or mph"),
        ("90,000 items", "90000 items"),
        ("½ a minute", "1/2 a minute"),
        ("fig.5", "fig. 5"),
        ("12\N{ZERO WIDTH SPACE}34", "1234"),
        ("It isn't so.", "It isn\N{RIGHT SINGLE QUOTATION MARK}t so"),
        ("ﬁne \N{FULLWIDTH LATIN CAPITAL LETTER W}ide", "fine wide"),
        ("disinte\N{SOFT HYPHEN}grate", "disintegrate"),
        ("_____ is $9$ or \\(9\\)", "___ is 9 or (9)"),
        ("STRASSE", "straße"),
        ("maybe determined", "may be determined"),
    ],
)
def test_what_makes_no_difference_goes(one, other):
    assert letters(normalise(one)) == letters(normalise(other))


@given(st.text())
def test_normalising_again_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once


WORDS = st.text("abcdefgäöüßéñλжд", min_size=2, max_size=6)
NUMBERS = st.from_regex(r"[0-9]{1,5}(\.[0-9]{1,2})?", fullmatch=True)
TOKENS = st.lists(WORDS | NUMBERS | st.sampled_from("+=<>^%≤⊃±"), min_size=1, max_size=12)
PUNCTUATION = ".,;:!?\"'()[]{}&_@#$\\…“”«»、。"
SPACE = st.text(" \t\n\N{NO-BREAK SPACE}", min_size=1, max_size=3)


@st.composite
def spellings(draw):
    """The same tokens twice: the second time with other case, spacing and punctuation."""
    tokens = draw(TOKENS)
    spelt = draw(SPACE)
    for token in tokens:
        cased = draw(st.sampled_from([token, token.upper(), token.title()]))
        marks = draw(st.text(PUNCTUATION, max_size=3))
        hyphen = draw(st.sampled_from(["", "-", "—"])) if cased[0].isalpha() else ""
        spelt += hyphen + marks + draw(SPACE) + cased
    return " ".join(tokens), spelt


@given(spellings())
def test_case_spacing_and_punctuation_never_hide_a_duplicate(pair):
    one, other = pair
    assert normalise(one) == normalise(other)


@given(st.lists(st.text(string.ascii_lowercase, min_size=1), min_size=1), st.data())
def test_lost_spaces_never_hide_a_duplicate(words, data):
    lost = "".join(word + data.draw(st.sampled_from(["", " "])) for word in words)
    assert letters(normalise(lost)) == letters(normalise(" ".join(words)))


def runs_of(words):
    last = len(words) - RUN_WORDS + 1 if len(words) >= LONG_WORDS else 0
    return {" ".join(words[start : start + RUN_WORDS]) for start in range(last)}


def brute_force(own, others):
    for words in own:
        best = (-1, 0.0)
        for position, other in enumerate(others):
            one, two = runs_of(words), runs_of(other)
            jaccard = len(one & two) / len(one | two) if one | two else 0.0
            if jaccard >= NEAR and jaccard > best[1]:
                best = (position, jaccard)
        yield best


@st.composite
def texts(draw):
    """Some texts, and others made of them by a few changes: many near `NEAR` on both sides."""
    number = draw(st.randoms(use_true_random=False))
    own = [[number.choice("abcdefgh") for _ in range(number.randint(0, 70))] for _ in range(8)]
    others = []
    for words in [*own, *own]:
        changed = list(words)
        for _ in range(number.randint(0, 2)):
            place = number.randint(0, len(changed))
            changed[place : place + number.randint(0, 2)] = ["z"] * number.randint(0, 2)
        others.append(changed)
    number.shuffle(others)
    return own, others


@settings(max_examples=40)
@given(texts())
def test_the_closest_text_is_that_of_brute_force(sets):
    own, others = sets
    index, jaccard = closest(own, others)
    expected = list(brute_force(own, others))
    assert index.tolist() == [position for position, _ in expected]
    np.testing.assert_allclose(jaccard, [alike for _, alike in expected], rtol=1e-15)


def test_the_closest_of_many_and_of_none():
    """More rows than are multiplied at once; and nothing to compare with."""
    own = [[str(number), *"abcdefghijklmnopqrstuvwxy"] for number in range(1200)]
    index, jaccard = closest(own, own[::-1])
    assert index.tolist() == list(range(1199, -1, -1))
    assert (jaccard == 1).all()
    assert closest(own[:2], [])[0].tolist() == [-1, -1]
    assert closest([], own)[0].size == 0
    assert closest([["a"]], [["a"]])[0].tolist() == [-1]
