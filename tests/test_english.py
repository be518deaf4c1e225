"""Docstrings are plain English: functions open with an imperative verb, one name means one thing.

`D401` of ruff lets "Of each item the mean" and "What the user sees" pass, so that the first word is
read here. To add a verb or a shared name below is a decision: say why it is needed in the commit.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "dsmoe_eval"
FILES = sorted(PACKAGE.rglob("*.py"))

VERBS = """
Add Adjust Answer Append Apply Arrange Average Bind Build Call Check Choose Combine Compare Compute
Conclude Convert Copy Count Decide Decode Describe Draw Encode Escape Estimate Find Flatten Fold
Generate Group Ignore Import Join Judge List Load Lock Log Lower Make Mark Mask Measure Name Number
Open Overwrite Pad Pair Parse Print Probe Put Raise Rank Read Record Refuse Register Remove Render
Repeat Replace Report Resample Restore Return Round Route Run Score Select Send Serve Set Show
Shrink Silence Split Start Steer Stop Store Sum Summarise Test Tokenize Train Tune Turn U-centre
Write Yield
""".split()

# Patterns that must not occur in a docstring: say what is meant.
STOCK_PHRASES = (
    r"\basked\b",
    r"\bheld\b",
    r"\bnobody\b",
    r"\bown\b",
    r"\bplaces?\b",
    r"\bstands?\b",
    r"\btells?\b",
    r"\btold\b",
    r"\bwants?\b",
    r"\bwanted\b",
    r"\bas (?:it|they) (?:is|are|was|were)\b",
    r"\bat most so many\b",
    r"\bby (?:itself|themselves)\b",
    r"\bleft (?:as|alone)\b",
    r"\bnot to be had\b",
    r"\bone an? \w+",  # "one a row"
    r"\bso many\b",
    r"\bwhatever\b",
    # "a row an item": say "one row per item".
    r"\ban? (?:row|file|line|value|figure|cell|batch|sentence) an? \w+",
    r"\b(?:bytes|experts|tokens|items|texts|rows|layers|samples) an? \w+",
)
# The term of Python and torch.
ALLOWED = re.compile(r"\bin place\b|\bin-place\b")

# Public functions and classes that share a name: name -> (their files, why one is not enough).
SAME_NAME = {
    # What is stored of a thing, and the thing as it is computed.
    "Leakage": (
        ("results/schema.py", "tasks/leakage.py"),
        "what the result's file holds, without questions; what was found, with them",
    ),
    "NonInferiority": (
        ("results/paired.py", "stats/noninferiority.py"),
        "the two figures that the result's file holds; the outcome of the test, with its settings",
    ),
    "Settings": (
        ("results/arms.py", "variants/profile_builder.py"),
        "what the result's file holds of a tuned arm; size and strength that are tried",
    ),
    "shown": (
        ("executors/status_table.py", "storage/names.py"),
        "a matrix in a terminal or a log, while it runs; a text for the user, with URLs for copies",
    ),
    # Names that others fix.
    "dsmoe": (
        ("experts/scores.py", "inspect_plugin.py"),
        "the method's name; the name under which Inspect looks the provider up",
    ),
    "main": (
        ("adapters/lm_eval_model.py", "cli/main.py", "schemas.py"),
        "the entry point of each program",
    ),
}


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
    return any(name.endswith(("property", "computed_field")) for name in names)


def function_docstrings(tree: ast.AST) -> Iterator[tuple[str, int, str]]:
    """Yield name, line and docstring of each function and method that is no property."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_property(node):
            docstring = ast.get_docstring(node)
            if docstring:
                yield node.name, node.lineno, docstring


def all_docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that is a statement: also those under constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.lineno, str(node.value.value)


def opens_with_a_verb(docstring: str) -> bool:
    """Return whether the first word is a listed verb, and no noun as in "Count of items"."""
    first, second = (*docstring.split(), "", "")[:2]
    return first in VERBS and second not in {"of", "is", "are", "per", "between"}


def stock_phrases(docstring: str) -> list[str]:
    """Return the stock phrases of a docstring; names of arguments and code do not count."""
    prose = re.sub(r"``.*?``|`.*?`|^ *\w+:(?= )", "", docstring, flags=re.M | re.S)
    text = ALLOWED.sub("", " ".join(prose.split()))
    return [match[0] for phrase in STOCK_PHRASES for match in re.finditer(phrase, text, re.I)]


def test_the_verbs_are_sorted():
    assert sorted(set(VERBS), key=str.lower) == VERBS


@pytest.mark.parametrize(
    "docstring",
    [
        "The mean of all items.",
        "What the user sees.",
        "Sums over one domain.",
        "Greedy where no temperature is asked for.",
        "Of each item the mean over its samples.",
        "Count of items.",
        "Score of B minus score of A.",
        "`router_hash` of a model's routers.",
        "return the mean.",
        "Returns the mean.",
        "",
    ],
)
def test_an_opening_without_a_verb_is_refused(docstring):
    assert not opens_with_a_verb(docstring)


@pytest.mark.parametrize(
    ("docstring", "phrase"),
    [
        ("Write a row an item.", "a row an item"),
        ("Each file has a seed of its own.", "own"),
        ("Return the model as it stands.", "stands"),
        ("Use 4 bytes a token.", "bytes a token"),
        ("Yield one a layer.", "one a layer"),
        ("The model is left as\n    it was found.", "as it was"),
        ("Add to the tensor in place.", None),
        ("Return the tokens of the own place.", "place"),
        ("Args:\n    places: see `own`.", None),
    ],
)
def test_stock_phrases_are_seen(docstring, phrase):
    assert (phrase in stock_phrases(docstring)) if phrase else not stock_phrases(docstring)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_of_functions_open_with_an_imperative_verb(path):
    bad = [
        f"{path.name}:{line} {name}: {docstring.splitlines()[0]}"
        for name, line, docstring in function_docstrings(ast.parse(path.read_text()))
        if not opens_with_a_verb(docstring)
    ]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_have_no_stock_phrases(path):
    bad = [
        f"{path.name}:{line}: {', '.join(phrases)}"
        for line, docstring in all_docstrings(ast.parse(path.read_text()))
        if (phrases := stock_phrases(docstring))
    ]
    assert not bad, "\n".join(bad)


def public_definitions() -> dict[str, tuple[str, ...]]:
    """Return the files that define each public function or class at their top level."""
    files = defaultdict(list)
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            name = getattr(node, "name", "_")  # functions and classes have one
            if not name.startswith("_"):
                files[name].append(path.relative_to(PACKAGE).as_posix())
    return {name: tuple(sorted(paths)) for name, paths in files.items()}


def test_no_two_public_functions_or_classes_have_one_name_without_a_reason():
    shared = {name: files for name, files in public_definitions().items() if len(files) > 1}
    assert shared == {name: files for name, (files, _) in SAME_NAME.items()}


def test_every_shared_name_has_its_reason():
    assert all(len(reason) > 20 for _, reason in SAME_NAME.values())
