"""lm-eval's own output, and what happens to it on the way."""

import json
import shutil

import pytest

from dsmoe_eval.comparison import Selection
from dsmoe_eval.comparison.pairing import pair
from dsmoe_eval.comparison.readers import read_results
from dsmoe_eval.errors import UserError


@pytest.fixture
def copy(lm_eval_folders, tmp_path):
    """The base's folder, to be changed."""
    (model,) = (path for path in lm_eval_folders[0].iterdir())
    shutil.copytree(model, tmp_path / "copy")
    return tmp_path / "copy"


def samples(folder, task):
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    return path


def rewrite(path, change):
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))


def test_scores_are_lm_evals_own(lm_eval_folders):
    for folder in lm_eval_folders:
        found = read_results(folder)
        (file,) = folder.rglob("results_*.json")
        said = json.loads(file.read_text())["results"]
        means = found.table.groupby("task")["score"].mean()
        assert means["lab_arithmetic"] == said["lab_arithmetic"]["exact_match,strip"]
        assert means["lab_law_named"] == said["lab_law_named"]["acc,none"]
        assert found.measures["lab_arithmetic"] == ("exact_match", "strip")
        assert len(found.table) == 60
        assert not [note for note in found.notes if "cut off" in note]


def test_both_models_pair_by_content_in_whatever_order(lm_eval_folders, copy):
    base, steered = lm_eval_folders
    path = samples(copy, "lab_arithmetic")
    rewrite(path, lambda rows: rows[::-1])
    straight = pair(read_results(base), read_results(steered), by_id=False)
    turned = pair(read_results(copy), read_results(steered), by_id=False)
    assert straight.a.n == straight.b.n == 0
    order = ["task", "id"]
    one, two = (pairs.table.sort_values(order, ignore_index=True) for pairs in (straight, turned))
    assert one.equals(two)
    assert (one["score_a"] != one["score_b"]).any()


def test_the_newest_samples_count_and_the_older_are_named(copy):
    path = samples(copy, "lab_arithmetic")
    older = path.with_name("samples_lab_arithmetic_2020-01-01T00-00-00.000000.jsonl")
    shutil.copy(path, older)
    rewrite(older, lambda rows: [row | {"exact_match": 0.0} for row in rows])
    found = read_results(copy)
    assert found.table.groupby("task")["score"].mean()["lab_arithmetic"] > 0
    assert any(older.name in note for note in found.notes)


def test_a_file_that_is_cut_off_between_lines_is_noted(copy):
    path = samples(copy, "lab_law_named")
    rewrite(path, lambda rows: rows[:-3])
    (note,) = (note for note in read_results(copy).notes if "cut off" in note)
    assert "27 of the 30" in note


def test_a_file_written_twice_is_refused(copy):
    path = samples(copy, "lab_law_named")
    path.write_text(path.read_text() * 2)
    with pytest.raises(
        UserError, match=r"two rows .* for item '0'.*remove the copies, or name another --id"
    ):
        read_results(path)


def test_filters_and_metrics_are_chosen_not_guessed(copy):
    path = samples(copy, "lab_arithmetic")
    rewrite(path, lambda rows: [r | {"filter": f} for r in rows for f in ("strict", "loose")])
    with pytest.raises(UserError, match="several filters; choose one: --filter loose or strict"):
        read_results(path)
    assert read_results(path, Selection(filter="loose")).measures["lab_arithmetic"][1] == "loose"
    with pytest.raises(UserError, match="of filter 'x'; name one of 'loose', 'strict'"):
        read_results(path, Selection(filter="x"))
    with pytest.raises(UserError, match="line 2: no metric 'f1'"):
        read_results(path, Selection(filter="loose", metric="f1"))


@pytest.mark.parametrize("value", [None, [1, 2], "1", {"a": 1}])
def test_a_score_that_is_no_number_is_refused(copy, value):
    path = samples(copy, "lab_arithmetic")
    rewrite(path, lambda rows: [*rows[:2], rows[2] | {"exact_match": value}])
    with pytest.raises(UserError, match=r"line 3: exact_match is .* no number"):
        read_results(path)


def test_a_nan_is_refused(copy):
    path = samples(copy, "lab_arithmetic")
    rewrite(path, lambda rows: [*rows[:2], rows[2] | {"exact_match": float("nan")}])
    with pytest.raises(UserError, match="not finite"):
        read_results(path)


def test_less_is_better_is_refused(copy):
    with pytest.raises(UserError, match="brier_score less is better"):
        read_results(samples(copy, "lab_law_named"), Selection(metric="brier_score"))


def test_columns_of_the_document(copy):
    path = samples(copy, "lab_law_named")
    rewrite(path, lambda rows: [
        row | {"doc": row["doc"] | {"topic": f"t{row['doc_id'] % 2}", "key": f"k{row['doc_id']}"}}
        for row in rows
    ])  # fmt: skip
    found = read_results(path, Selection(id="key", domain="topic", cluster="topic")).table
    assert found["id"].tolist() == [f"k{i}" for i in range(30)]
    assert set(found["domain"]) == set(found["cluster"]) == {"t0", "t1"}
    with pytest.raises(UserError, match="no 'nothing' in doc"):
        read_results(path, Selection(id="nothing"))


def test_older_versions_write_arguments_as_lists(copy):
    path = samples(copy, "lab_law_named")
    new = read_results(path).table

    def as_lists(row):
        return row | {"arguments": [list(a.values()) for a in row["arguments"].values()]}

    rewrite(path, lambda rows: [as_lists(row) for row in rows])
    assert read_results(path).table.equals(new)


def test_folders_of_several_models_and_none(copy, tmp_path):
    shutil.copytree(copy, tmp_path / "both" / "a")
    shutil.copytree(copy, tmp_path / "both" / "b")
    with pytest.raises(UserError, match="2 models' results; name one"):
        read_results(tmp_path / "both")
    (file,) = copy.glob("results_*.json")
    with pytest.raises(UserError, match="--log_samples"):
        read_results(file)
