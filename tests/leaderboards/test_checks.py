"""What is wrong with a leaderboard is found, under its own name; a clean one has nothing wrong."""

import json
import shutil
import subprocess

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.leaderboards import add_run, build, check_leaderboards
from dsmoe_eval.leaderboards.checks import read_entries
from dsmoe_eval.leaderboards.submission import to_text

from .conftest import SMALL

FIRST = "results.0"
ARM = f"{FIRST}.arms.0"
OWN, POOL, DOMAIN = f"{ARM}.target_result", f"{ARM}.non_targets", f"{ARM}.domains.0"


def at(content, path):
    """What holds the last part of a path, and that part."""
    *above, last = (int(part) if part.isdigit() else part for part in path.split("."))
    for part in above:
        content = content[part]
    return content, last


def put(path, value):
    def change(content):
        holder, last = at(content, path)
        holder[last] = value(holder[last]) if callable(value) else value

    return change


def remove(path):
    def change(content):
        holder, last = at(content, path)
        del holder[last]

    return change


def add(path, value):
    """To a number, or to every number of a list."""
    return put(path, lambda old: [o + value for o in old] if isinstance(old, list) else old + value)


def again(path):
    return put(path, lambda old: [*old, old[0]])


def both(*changes):
    def change(content):
        for one in changes:
            one(content)

    return change


def disagreeing(content):
    other = json.loads(json.dumps(content["results"][0]))
    other["arms"][0]["settings"]["activation_share"] = 0.99
    content["results"].insert(1, other)


SHARE = {"best": "sft-lora", "share": 0.5, "ci95": [0.2, 0.9]}
CORRUPTIONS = [
    ("unknown-key", "contrast", put(f"{ARM}.surprise", 1)),
    ("missing-key", "contrast", remove(f"{OWN}.score_b")),
    ("wrong-type", "contrast", put(f"{OWN}.n", "300")),
    ("wrong-type", "contrast", put(f"{OWN}.n", 300.5)),
    ("bad-value", "contrast", put(f"{OWN}.score_a", 1.5)),
    ("unknown-key", "contrast", put(f"{OWN}.delta", 0.2)),
    ("unknown-key", "contrast", put(f"{OWN}.claim", {"verdict": "harms", "words": "w"})),
    ("other-version", "contrast", put("schema_version", 1)),
    ("bad-value", "contrast", put(f"{ARM}.variant", "unheard-of")),
    ("bad-value", "contrast", put("suite", "../x")),
    ("wrong-place", "contrast", put("model", "another")),
    ("duplicate", "contrast", again("results")),
    ("duplicate", "contrast", again(f"{FIRST}.arms")),
    ("duplicate", "base", again(f"{FIRST}.base")),
    ("disagreement", "contrast", disagreeing),
    ("identity", "contrast", put(f"{FIRST}.run_id", "0" * 16)),
    ("identity", "contrast", put(f"{FIRST}.header.run.fingerprint", "cd34" * 16)),
    ("identity", "contrast", put(f"{FIRST}.header.run.suite", "other")),
    ("identity", "contrast", put(f"{FIRST}.header.margin", 0.05)),
    ("identity", "contrast", put(f"{ARM}.variant", "random")),
    ("date", "contrast", put(f"{FIRST}.submission.date", "2999-01-01")),
    ("date", "contrast", put("results.1.submission.date", "2026-01-01")),
    ("missing-arm", "contrast", remove(ARM)),
    ("missing-arm", "base", put("variant", "contrast")),
    ("samples", "contrast", put(f"{FIRST}.samples", {})),
    ("bad-value", "contrast", remove(DOMAIN)),
    ("bad-value", "contrast", remove(f"{ARM}.cells.math_task")),
    ("counts", "contrast", add(f"{OWN}.score_b", 0.01)),
    ("interval", "contrast", put(f"{OWN}.ci95", [0.5, 0.6])),
    ("bad-value", "contrast", put(f"{OWN}.ci95", lambda ends: ends[::-1])),
    ("interval", "contrast", put(f"{OWN}.ci95", [0.0, 0.3])),
    ("interval", "base", put(f"{FIRST}.base.0.ci95", [0.9, 0.95])),
    ("interval", "contrast", put(f"{FIRST}.base.0.ci95", [0.4, 0.6])),
    ("counts", "contrast", add(f"{OWN}.gained", 1)),
    ("counts", "contrast", put(f"{OWN}.gained", 290)),
    ("counts", "contrast", add(f"{OWN}.clusters", -1)),
    ("p-value", "contrast", put(f"{OWN}.p_value", 0.04)),
    ("power", "contrast", put(f"{OWN}.mde80", 0.01)),
    ("power", "contrast", put(f"{OWN}.mde80", None)),
    ("adjustment", "contrast", put(f"{OWN}.p_adjusted", 0.0)),
    ("adjustment", "contrast", put(f"{OWN}.p_adjusted", 0.04)),
    ("adjustment", "contrast", put(f"{DOMAIN}.p_adjusted", 0.9)),
    ("adjustment", "contrast", put(f"{ARM}.over_placebo.p_adjusted", 0.01)),
    ("claim", "contrast", remove(f"{OWN}.p_adjusted")),
    ("claim", "sham", put(f"{OWN}.p_adjusted", 1.0)),
    ("unknown-key", "contrast", put(f"{POOL}.non_inferiority.non_inferior", True)),
    ("non-inferiority", "sft-lora", put(f"{POOL}.non_inferiority.p_value", 0.001)),
    ("non-inferiority", "contrast", put(f"{POOL}.non_inferiority.lower_bound", 0.2)),
    ("non-inferiority", "contrast", put(f"{POOL}.non_inferiority.lower_bound", -0.001)),
    ("non-inferiority", "contrast", put(f"{POOL}.non_inferiority.p_value", 0.001)),
    ("interval", "contrast", put(f"{POOL}.ci95", [-0.1, 0.1])),
    ("p-value", "contrast", add(f"{POOL}.p_value", -0.01)),
    ("counts", "contrast", add(f"{POOL}.clusters", -1)),
    ("answers", "contrast", add(f"{ARM}.domains.2.answers.a.mean_tokens", 1.0)),
    ("answers", "contrast", put(f"{ARM}.domains.2.answers.both_whole.delta", None)),
    ("answers", "contrast", add(f"{ARM}.domains.2.answers.n", -1)),
    ("answers", "contrast", add(f"{ARM}.domains.2.answers.count", 1)),
    ("base", "contrast", add(f"{FIRST}.base.0.score", 0.01)),
    ("base", "contrast", put(f"{FIRST}.base.0.n", 400)),
    ("vanished-task", "contrast", remove(f"{FIRST}.base.0")),
    ("probe", "contrast", put(f"{ARM}.probe", None)),
    ("probe", "contrast", put(f"{ARM}.probe.null_max_difference", 0.1)),
    ("probe", "contrast", put(f"{ARM}.probe.logit_max_change", 0.0)),
    ("sham", "sham", both(add(f"{OWN}.gained", 1), add(f"{OWN}.lost", 1))),
    ("control", "contrast", put(f"{ARM}.over_placebo", None)),
    ("control", "contrast", add(f"{ARM}.specificity.score_a", 0.01)),
    ("control", "sft-lora", put(f"{ARM}.over_placebo", {
        "n": 9, "score_a": 0.0, "score_b": 0.0, "ci95": [0.0, 0.0], "p_value": 1.0,
        "test": "none", "gained": 0, "lost": 0, "mde80": None, "clusters": 9, "answers": None})),
    ("leakage", "contrast", put(f"{FIRST}.leakage.pairs", 1)),
    ("share", "contrast", put(f"{ARM}.share_of_best", SHARE)),
    ("share", "contrast", put(f"{ARM}.share_of_best", SHARE | {"ci95": [0.1, 0.2]})),
    ("share", "contrast", put(f"{ARM}.share_of_best", SHARE | {"best": "learned-profile"})),
]  # fmt: skip


def test_a_clean_board_has_nothing_wrong(board):
    assert check_leaderboards(board) == []


@pytest.mark.parametrize(
    ("rule", "variant", "change"),
    CORRUPTIONS,
    ids=[f"{number}-{rule}" for number, (rule, _, _) in enumerate(CORRUPTIONS)],
)
def test_what_is_corrupted_is_found_in_its_file(board, folder, rule, variant, change):
    path = folder / f"{variant}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(to_text(content))
    found = check_leaderboards(board)
    assert rule in {one.rule for one in found if one.file == str(path.relative_to(board))}
    assert all(one.words and str(one).startswith(f"{one.rule}: {one.file}") for one in found)


STEERED = ("contrast", "contrast-int4", "contrast-int4+matched", "contrast-int4+sham")


@pytest.fixture(scope="module")
def rounded(make_run, file_runs, tmp_path_factory):
    """A folder of one run with arms on a quantized model, without its pages; it must stay."""
    names = ("prompt", "prompt-int4", "base-int4", *STEERED)
    gains = {name: [0.02 * (place + 2), 0.02] for place, name in enumerate(names)}
    others = {"base-int4": [0.05, 0.1]}
    run = make_run(**SMALL, variants=["base", *names], target=gains, others=others)
    return file_runs(tmp_path_factory.mktemp("rounded") / "leaderboards", run)


def test_arms_on_a_quantized_model_have_nothing_wrong(rounded):
    assert {one.rule for one in check_leaderboards(rounded)} == {"stale-page"}


@pytest.mark.parametrize(
    ("variant", "name", "forged", "words"),
    [
        ("contrast-int4", "over_quantized", "contrast-int4.over_prompt", "against base-int4, whi"),
        ("contrast-int4", "over_quantized", "contrast-int4+matched.over_quantized", "of this arm"),
        ("contrast-int4", "over_quantized", None, "missing, though base-int4 was run"),
        ("contrast", "over_quantized", "contrast.over_prompt", "the run has no such arm"),
        ("contrast-int4", "over_prompt", "contrast.over_prompt", "against prompt-int4, which"),
        ("contrast", "over_prompt", None, "missing, though prompt was run"),
    ],
)
def test_a_gain_over_another_arm_is_noticed(rounded, tmp_path, variant, name, forged, words):
    """The forged comparison is a true one of other arms, so that its own figures fit."""
    root = shutil.copytree(rounded, tmp_path / "leaderboards")
    paths = {one: next(root.rglob(f"{one}.json")) for one in STEERED}
    contents = {one: json.loads(path.read_text()) for one, path in paths.items()}
    rows = {one: content["results"][0]["arms"][0] for one, content in contents.items()}
    source, _, row = forged.partition(".") if forged else (None, None, None)
    rows[variant][name] = rows[source][row] if forged else None
    paths[variant].write_text(to_text(contents[variant]))
    (found,) = (one for one in check_leaderboards(root) if one.rule == "control")
    assert found.file == str(paths[variant].relative_to(root))
    assert f"{name} is " in found.words
    assert words in found.words


def test_a_sham_that_equals_its_quantized_model_on_the_target_only_is_noticed(rounded, tmp_path):
    """Elsewhere it has base's scores, by figures that fit each other: strength zero of base."""
    root = shutil.copytree(rounded, tmp_path / "leaderboards")
    sham, other = (next(root.rglob(f"contrast-int4{end}.json")) for end in ("+sham", "+matched"))
    content = json.loads(sham.read_text())
    row, source = (json.loads(p.read_text())["results"][0]["arms"][0] for p in (sham, other))
    assert row["domains"][0]["score_b"] != source["domains"][0]["score_b"]
    content["results"][0]["arms"][0]["domains"] = [
        one | {"p_adjusted": None} for one in source["domains"]
    ]
    sham.write_text(to_text(content))
    found = [one for one in check_leaderboards(root) if one.rule == "sham"]
    assert [one.file for one in found] == [str(sham.relative_to(root))]
    assert "a sham must equal the quantized model" in found[0].words


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("unreadable", b"{", b"{{"),
        ("unreadable", b"math", b"m\xffth"),
        ("duplicate-key", b'"suite": "subjects",', b'"suite": "subjects", "suite": "subjects",'),
        ("duplicate-key", b'"seed": 0', b'"seed": 0, "seed": 0'),
        ("bad-value", b'"margin": 0.02', b'"margin": NaN'),
    ],
)
def test_text_that_is_no_entry(board, folder, rule, old, new):
    path = folder / "contrast.json"
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new, 1))
    assert rule in {one.rule for one in check_leaderboards(board)}


def test_a_file_that_is_no_result(board, folder):
    for path in (board / "notes.txt", folder / "contrast.json.bak", folder / ".x.tmp"):
        path.write_text("x")
    found = {one.file for one in check_leaderboards(board) if one.rule == "unexpected-file"}
    assert found == {"notes.txt"} | {
        f"subjects/lab__moe-7b/ab12ab12ab12/{name}" for name in ("contrast.json.bak", ".x.tmp")
    }


@pytest.mark.parametrize("name", ["base", "random"])
def test_a_variants_file_that_went_missing(board, folder, name):
    (folder / f"{name}.json").unlink()
    found = [one for one in check_leaderboards(board) if one.rule == "missing-variant"]
    assert {one.file for one in found} == {f"subjects/lab__moe-7b/ab12ab12ab12/{name}.json"}
    assert len(found) == 2  # of both runs


def test_pages_of_other_entries(board, folder):
    (board / "README.md").unlink()
    (board / "index.html").write_bytes(b"entries \xff")
    found = {one.file: one for one in check_leaderboards(board)}
    assert {one.rule for one in found.values()} == {"stale-page"}
    assert set(found) == {"README.md", "index.html"}
    build(board)
    assert check_leaderboards(board) == []
    before = read_entries(board).stamp
    shutil.rmtree(folder)
    assert read_entries(board).stamp != before


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"version": "2.0"}, "mixed-versions"),
        ({"version": "2.0", "limit": 10}, None),  # a smoke test is ranked with nothing
        ({"domains": ("math", "poetry")}, "vanished-task"),
        ({"items": 60}, "mixed-versions"),
    ],
)
def test_runs_of_a_suite_ask_the_same(make_run, file_runs, tmp_path, changes, rule):
    runs = make_run(**SMALL), make_run(**(SMALL | changes | {"model": "lab/b", "seed": 2}))
    file_runs(tmp_path, *runs)
    found = [one for one in check_leaderboards(tmp_path) if one.rule != "stale-page"]
    assert {one.rule for one in found} == ({rule} if rule else set())
    assert all("base.json" in one.file for one in found)


def test_scores_of_none_and_of_all_are_in_their_intervals(make_run, tmp_path, submission):
    for right in (0.0, 1.0):  # of 9 items Wilson's interval begins at 1e-17
        add_run(
            make_run(**(SMALL | {"items": 9, "right": right})), tmp_path / f"{right}", submission
        )
        found = check_leaderboards(tmp_path / f"{right}")
        assert {one.rule for one in found} == {"stale-page"}


def git(folder, *arguments):
    own = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", folder, *own, *arguments]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603


def commit(repository):
    git(repository, "init")
    git(repository, "add", "-A")
    git(repository, "commit", "-m", "first")


@pytest.fixture(params=["leaderboards", "."])
def tracked(request, board):
    """The board in git: in a repository, or one of its own."""
    commit(board if request.param == "." else board.parent)
    return board


def test_results_that_were_there_are_there_still(board, folder, make_run, submission):
    commit(board.parent)
    add_run(make_run(seed=2), board, submission)
    build(board)
    assert check_leaderboards(board, "HEAD") == []  # appended
    path = folder / "sham.json"
    content = json.loads(path.read_text())
    del content["results"][0]
    path.write_text(to_text(content))
    (folder / "sft-lora.json").unlink()
    found = [one.file for one in check_leaderboards(board, "HEAD") if one.rule == "rewritten"]
    assert [name.rpartition("/")[2] for name in found] == ["sft-lora.json", "sham.json"]


def test_a_reason_given_later_is_a_change(tracked, folder):
    assert check_leaderboards(tracked, "HEAD") == []
    path = folder / "sham.json"
    content = json.loads(path.read_text())
    content["results"][0]["submission"]["reason"] = "no reason"
    path.write_text(to_text(content))
    assert "rewritten" in {one.rule for one in check_leaderboards(tracked, "HEAD")}
    assert "rewritten" not in {one.rule for one in check_leaderboards(tracked)}


def test_an_earlier_entry_that_cannot_be_read_is_a_finding(tracked, folder):
    path = folder / "contrast.json"
    content = path.read_text()
    path.write_text(content.replace('"schema_version": 3', '"schema_version": 2'))
    git(tracked, "commit", "-qam", "an entry of another version")
    path.write_text(content)
    (found,) = check_leaderboards(tracked, "HEAD")
    assert (found.rule, found.file) == ("unreadable-before", str(path.relative_to(tracked)))
    assert found.where == "schema_version"
    assert "in HEAD it is 2, and this version reads 3" in found.words


@pytest.mark.parametrize("since", ["nothing", "--help", "HEAD:x"])
def test_a_revision_that_is_none(tracked, since):
    with pytest.raises(UserError, match="git cannot show"):
        check_leaderboards(tracked, since)


def test_outside_of_git_nothing_can_have_stood(board):
    with pytest.raises(UserError, match="git cannot show 'HEAD'"):
        check_leaderboards(board, "HEAD")


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="submit a run first: leaderboard add"):
        check_leaderboards(tmp_path / "nowhere")
