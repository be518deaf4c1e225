"""SubmittedRun appends, all files or none, and says what is in its way."""

import json
import shutil

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.leaderboards import Submission, add_run
from dsmoe_eval.leaderboards import submission as submission_module
from dsmoe_eval.leaderboards.submission import Unreadable, identity_of, parse_entry, read_entry

from ..recorded import record

VARIANTS = {"base", "sham", "contrast", "random", "wrong-domain", "sft-lora"}


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.fixture
def changed(run, tmp_path):
    """The run again, with other figures: another share of activations of one arm, say."""
    copy = shutil.copytree(run, tmp_path / "changed")
    data = json.loads((copy / "comparisons.json").read_text())
    arm = next(one for one in data["arms"] if one["variant"] == "contrast")
    arm["settings"]["activation_share"] = 0.99
    (copy / "comparisons.json").write_text(json.dumps(data))
    record(copy)
    return copy


def test_a_file_a_variant(run, tmp_path, submission):
    added = add_run(run, tmp_path, submission)
    place = tmp_path / "subjects" / "lab__moe-7b" / "ab12ab12ab12"
    assert set(added.written) == {place / f"{variant}.json" for variant in VARIANTS}
    assert set(files(tmp_path)) == {f"subjects/lab__moe-7b/ab12ab12ab12/{v}.json" for v in VARIANTS}
    assert not added.same
    assert read_entry(place / "base.json").results[0].arms == ()


def test_the_same_run_again_changes_no_byte(run, tmp_path, submission):
    add_run(run, tmp_path, submission)
    before = files(tmp_path)
    later = Submission(date=submission.date, by="another", hardware="elsewhere", reason="to see")
    assert len(add_run(run, tmp_path, later).same) == len(VARIANTS)
    assert files(tmp_path) == before


def test_another_run_is_appended_and_leaves_the_first_as_it_was(
    run, make_run, tmp_path, submission
):
    add_run(run, tmp_path, submission)
    before = {name: parse_entry(text).results for name, text in files(tmp_path).items()}
    add_run(make_run(seed=1), tmp_path, submission)
    for name, text in files(tmp_path).items():
        results = parse_entry(text).results
        assert results[:1] == before[name]
        assert [one.header.seed for one in results] == [0, 1]


def test_other_figures_of_the_same_identity_want_a_reason(run, changed, tmp_path, submission):
    root = tmp_path / "root"
    add_run(run, root, submission)
    before = files(root)
    with pytest.raises(UserError, match=r"contrast\.json: .*2026-01-02 by A\. Nother.*--reason"):
        add_run(changed, root, submission)
    assert files(root) == before
    added = add_run(changed, root, submission.model_copy(update={"reason": "another probe"}))
    assert [path.name for path in added.written] == ["contrast.json"]
    assert len(added.same) == len(VARIANTS) - 1
    entry = read_entry(added.written[0])
    assert [one.submission.reason for one in entry.results] == [None, "another probe"]
    assert entry.results[0].run_id == entry.results[1].run_id


def test_another_machine_may_round_a_probe_otherwise(run, tmp_path, submission):
    root = tmp_path / "root"
    add_run(run, root, submission)
    before, copy = files(root), shutil.copytree(run, tmp_path / "elsewhere")
    data = json.loads((copy / "comparisons.json").read_text())
    for arm in data["arms"]:
        if arm["probe"] is not None:
            arm["probe"]["logit_max_change"] *= 1 + 1e-7
    (copy / "comparisons.json").write_text(json.dumps(data))
    record(copy)
    assert add_run(copy, root, submission).written == ()
    assert files(root) == before


def test_the_same_figures_from_other_samples_are_filed_only_if_asked(run, tmp_path, submission):
    """As from another machine, whose likelihoods differ in their last digits."""
    again = shutil.copytree(run, tmp_path / "again")
    for path in again.glob("cells/*/samples.parquet"):
        path.write_bytes(path.read_bytes() + b" ")
    record(again)
    root = tmp_path / "root"
    add_run(run, root, submission)
    assert not add_run(again, root, submission).written
    added = add_run(again, root, submission.model_copy(update={"reason": "on another machine"}))
    assert len(added.written) == len(VARIANTS)


def test_what_lacks_samples_is_not_filed(run, tmp_path, submission):
    copy = shutil.copytree(run, tmp_path / "copy")
    next(copy.glob("cells/*/samples.parquet")).unlink()
    with pytest.raises(UserError, match=r"samples\.parquet: cannot be read.*run it again"):
        add_run(copy, tmp_path / "root", submission)
    assert not (tmp_path / "root").exists()


def test_comparisons_alone_are_not_filed(run, tmp_path, submission):
    shutil.copy(run / "comparisons.json", tmp_path / "comparisons.json")
    with pytest.raises(UserError, match="give the run's folder"):
        add_run(tmp_path, tmp_path / "root", submission)
    with pytest.raises(UserError, match="give the run's folder"):
        identity_of(tmp_path)


@pytest.mark.parametrize("fault", ["folder", "damaged", "disk"])
def test_nothing_is_written_where_one_file_cannot_be(run, tmp_path, submission, monkeypatch, fault):
    place = tmp_path / "subjects" / "lab__moe-7b" / "ab12ab12ab12"
    place.mkdir(parents=True)
    if fault == "folder":
        (place / "sft-lora.json").mkdir()
    elif fault == "damaged":
        (place / "sft-lora.json").write_text("{")
    else:
        monkeypatch.setattr(submission_module, "write_text", full_after(3))
    before = files(tmp_path)
    with pytest.raises(UserError if fault != "disk" else OSError, match=r"sft-lora|No space"):
        add_run(run, tmp_path, submission)
    assert files(tmp_path) == before


def full_after(count):
    real, written = submission_module.write_text, []

    def write(path, text):
        if len(written) == count:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        real(path, text)

    return write


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run": {"fingerprint": "../../../../x"}}, "fingerprint"),
        ({"run": {"suite": "../../elsewhere"}}, "suite"),
        ({"plan": "a plan | <b>"}, "plan"),
        ({"seed": "0"}, "seed"),
        ({"margin": 2.0}, "margin"),
        ({"significance_level": None}, "significance_level"),
    ],
)
def test_a_result_that_is_none_of_ours_is_refused(run, tmp_path, submission, changes, words):
    copy = shutil.copytree(run, tmp_path / "copy")
    data = json.loads((copy / "comparisons.json").read_text())
    for name, value in changes.items():
        data[name] = data[name] | value if isinstance(value, dict) else value
    (copy / "comparisons.json").write_text(json.dumps(data))
    record(copy)
    with pytest.raises(UserError, match=rf"comparisons\.json: .*{words}"):
        add_run(copy, tmp_path / "root", submission)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b"", "unreadable"),
        (b"{", "unreadable"),
        (b"\xff\xfe", "unreadable"),
        (b"[" * 100_000, "unreadable"),
        (b'{"a": {"b": 1, "b": 1}}', "duplicate-key"),
        (b"{}", "missing-key"),
        (b"[]", "wrong-type"),
        (b'{"schema_version": 1}', "other-version"),
    ],
)
def test_what_is_no_entry(text, rule):
    with pytest.raises(Unreadable) as error:
        parse_entry(text)
    assert error.value.rule == rule


def test_whoever_cannot_read_a_file_is_told_which(tmp_path):
    with pytest.raises(UserError, match=r"x\.json: cannot be read"):
        read_entry(tmp_path / "x.json")
    (tmp_path / "y.json").write_text("{")
    with pytest.raises(UserError, match=r"y\.json: is no JSON.*restore it from git"):
        read_entry(tmp_path / "y.json")


def test_an_entry_of_another_version_says_the_way_out(tmp_path):
    path = tmp_path / "z.json"
    path.write_text('{"schema_version": 1}')
    words = r"z\.json: schema_version: is 1, and this version reads 3; remove the file and submit"
    with pytest.raises(UserError, match=words):
        read_entry(path)
