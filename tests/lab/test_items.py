"""The committed task data is what the seed gives."""

from dsmoe_eval.lab.items import task_rows, write_task_data
from dsmoe_eval.lab.world import build_world
from dsmoe_eval.registry import builtin_folder


def test_the_committed_files_are_drawn_from_the_seed(tmp_path):
    committed = builtin_folder() / "tasks" / "lab" / "data"
    written = write_task_data(build_world(), tmp_path)
    assert {path.name for path in written} == {path.name for path in committed.iterdir()}
    for path in written:
        assert path.read_bytes() == (committed / path.name).read_bytes(), path.name


def test_gold_points_at_the_answer():
    world = build_world()
    rows = task_rows(world)
    answers = [fact.answer for fact in world.facts if fact.domain == "law"]
    assert [row["options"][row["gold"]] for row in rows["law_named"]] == answers
    assert [row["options"][row["gold"]] for row in rows["law_unnamed"]] == answers
