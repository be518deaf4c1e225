"""All YAML files of ours are read by one function: it decides nothing silently, and ends."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.cards import yaml_files
from dsmoe_eval.cards.yaml_files import MOST_NODES, read_yaml
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import (
    find_card,
    load_model_card,
    load_plan,
    load_policy,
    load_suite,
    load_variant,
)

LOADERS = {
    "plans": lambda path: load_plan(str(path)),
    "suites": lambda path: load_suite(str(path)),
    "policies": lambda path: load_policy(str(path)),
    "models": lambda path: load_model_card(str(path)),
    "variants": load_variant,
}
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
BAD = {
    "repeated": (
        "rules: []\nb: 1\nrules: []\n",
        "line 3, column 1",
        "'rules' is repeated",
        "leave",
    ),
    "repeated inside": ("a:\n- {b: 1, b: 2}\n", "line 2, column 10", "'b' is repeated", "leave"),
    "equal keys": ("{1: a, 1.0: b}\n", "line 1", "1.0 is repeated", "leave"),
    "bomb": (BOMB, "line 1", "anchors (&) and aliases (*)", "repeat the text"),
    "alias": ("a: *b\n", "line 1", "anchors (&) and aliases (*)", "repeat the text"),
    "merge": ("a:\n  <<: {b: 1}\n", "line 2", "merge key", "write the keys out"),
    "infinity": ("a: .inf\n", "line 1, column 4", ".inf is no finite number", "give one"),
    "infinity by size": ("a: 1.0e+400\n", "line 1", "1.0e+400 is no finite", "give one"),
    "infinity by tag": ("a: !!float inf\n", "line 1", "inf is no finite number", "give one"),
    "not a number": ("\na: [-.NaN, .nan]\n", "line 2", "no finite number", "give one"),
    "huge integer": (f"a: 0x{'f' * 9000}\n", "line 1", "more than 64 bits", "smaller"),
    "large": (f"a: {'x' * 1_000_001}", "", "larger than the limit of 1 MB", "check the path"),
    "deep": ("[" * 5000, "", "nested too deeply", "flat"),
    "deep mappings": ("{a: " * 5000, "", "nested too deeply", "flat"),
    "no such date": ("a: 1\nb: 2025-13-40\n", "line 2", "month", "into quotes"),
    "no integer": ("a: !!int x\n", "line 1", "invalid literal", "into quotes"),
    "no boolean": ("a: !!bool x\n", "line 1", "'x'", "into quotes"),
    "no date": ("a: !!timestamp x\n", "line 1", "cannot be read", "into quotes"),
    "code": ("a: !!python/name:os.system\n", "line 1", "could not determine", "mend that line"),
    "a list as a key": ("? [a]\n: b\n", "line 1", "a key is a list", "give a name"),
    "syntax": ("a: [1\nb: 2\n", "line 2", "expected ',' or ']'", "mend that line"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2", "single document", "mend that line"),
    "control character": ("a: \0\n", "", "special characters", "UTF-8"),
    "Latin-1": (b"a: \xe9\n", "", "utf-8", "save it as text in UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("kind", LOADERS)
def test_case_10_yaml_that_could_mislead_or_never_end_is_refused(tmp_path, kind, name):
    """In every kind of file of ours, by the same function."""
    text, *words = BAD[name]
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        LOADERS[kind](path)
    message = str(error.value)
    assert str(path) in message
    assert all(word in message for word in words)
    assert "\n" not in message


def test_case_10_nodes_are_counted_while_reading(tmp_path, monkeypatch):
    assert MOST_NODES == 100_000
    monkeypatch.setattr(yaml_files, "MOST_NODES", 1000)
    path = tmp_path / "x.yaml"
    path.write_text("[" + "1," * 999 + "]")  # the list is a node, too
    assert len(read_yaml(path)) == 999
    path.write_text("[" + "1," * 1000 + "}")  # what follows is not read
    with pytest.raises(UserError, match=r"line 1, column 2000: more than 1,000 keys and values"):
        read_yaml(path)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin"])
def test_case_10_a_device_is_not_read(tmp_path, target):
    (tmp_path / "x.yaml").symlink_to(target)
    with pytest.raises(UserError, match=r"x\.yaml: is not a regular file"):
        read_yaml(tmp_path / "x.yaml")


def test_case_10_a_second_rules_key_does_not_turn_fail_into_pass(tmp_path):
    path = tmp_path / "policy.yaml"
    text = find_card("policies", "strict").read_text()
    path.write_text(text + "\nrules: []\n")
    with pytest.raises(UserError, match="the key 'rules' is repeated"):
        load_policy(str(path))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
keys = st.sampled_from([
    "name", "description", "model", "models", "suite", "variants", "targets", "seed", "margin",
    "tuning", "strengths", "identification", "sft", "engine", "experts", "significance_level",
]) | scalars  # fmt: skip
contents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=12,
)
whole = st.dictionaries(
    st.sampled_from(["margin", "seed", "targets", "tuning", "sft", "engine", "limit"]), contents
).map(
    lambda more: {"name": "a", "description": "d", "model": "m", "suite": "s",
                  "variants": ["base"], "margin": 0.1} | more
)  # fmt: skip
mangled = st.tuples(
    st.sampled_from([find_card("plans", "lab").read_bytes(), BOMB.encode(), b"a: {b: [1, .inf]}"]),
    st.integers(0, 2000),
    st.binary(max_size=6) | st.sampled_from([b"&a ", b"*a", b"? ", b"!!", b"\t"]),
).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :])  # fmt: skip
documents = (
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass"))
    | st.text("{}[]:,&*!?|>-#'\"\n ab0.<~\\", max_size=40).map(str.encode)
    | (contents | whole).map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode())
    | mangled
)


@settings(max_examples=150, deadline=5000)
@given(documents)
def test_case_10_any_yaml_ends_in_a_plan_or_in_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        plan, found = load_plan(str(path))
    except UserError as error:
        message = str(error)
        assert message.startswith(str(path))
        assert len(message) > len(str(path)) + 10
        assert "\n" not in message
    else:
        assert found == path
        assert plan.model_dump_json()
