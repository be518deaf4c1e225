"""What a run's folder keeps of super experts, and the sentence in the report."""

from dsmoe_eval.results import RunFolder
from dsmoe_eval.results.guards import KEY, Guard, read_guard

FOUND = {"looked": True, "tokens": 9, "experts": [{"layer": 1, "expert": 7, "peak": 812.5}]}


def test_a_guard_is_read_from_the_folder(tmp_path):
    folder = RunFolder(tmp_path)
    assert read_guard(folder) is None
    folder.write_json(folder.identification, {"domains": [], KEY: FOUND})
    guard = read_guard(folder)
    assert guard.pairs == ((1, 7),)
    assert "breaks the model as such: layer 1 expert 7. No arm masks" in guard.words


def test_a_run_without_a_guard_has_none(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_json(folder.identification, {"domains": []})
    assert read_guard(folder) is None


def test_there_is_nothing_to_say_where_there_is_none():
    assert Guard(looked=True, tokens=5, experts=()).words is None
    assert "were not looked for" in Guard(looked=False, tokens=0, experts=()).words
