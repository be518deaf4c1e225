"""The commands about leaderboards: exit codes, what people and what programs get."""

import json
import shutil

import pytest
import yaml

from dsmoe_eval.cli import main

from ..leaderboards.conftest import SMALL
from ..recorded import record


@pytest.fixture
def called(capsys):
    """Call the command; gives the exit code and both streams."""

    def call(*arguments, group="leaderboard"):
        code = 0
        try:
            main([group, *map(str, arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return call


def test_from_a_run_to_a_page_that_has_nothing_wrong(called, make_run, tmp_path):
    one, root = make_run(**SMALL), tmp_path / "leader boards"
    code, out, err = called("add", one, "--root", root, "--by", "me", "--hardware", "a machine")
    assert (code, err) == (0, "")
    assert out.count("submitted ") == 6
    assert f"then: dsmoe-eval leaderboard build --root '{root}'" in out
    code, out, _ = called("add", one, "--root", root)
    assert code == 0
    assert f"{one}: 6 results were there already" in out
    code, out, _ = called("build", "--root", root)
    assert (code, out.splitlines()[0]) == (0, f"page: {root / 'index.html'}")
    assert "without their questions: 1 run(s); give --runs FOLDER" in out
    assert "without" not in called("build", "--root", root, "--runs", one)[1]
    assert called("check", "--root", root) == (0, f"{root}: nothing wrong\n", "")
    assert called("check", "--root", root, "--json") == (0, "[]\n", "")
    filed_by = json.loads(next(root.glob("*/*/*/sham.json")).read_text())["results"][0][
        "submission"
    ]
    assert (filed_by["by"], filed_by["hardware"]) == ("me", "a machine")
    assert "why" not in filed_by


def test_what_is_wrong_is_code_1(called, board, folder):
    path = folder / "sham.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7', 1))
    code, out, err = called("check", "--root", board)
    assert (code, err) == (1, "")
    rule, _, rest = out.partition(": ")
    assert rule == "identity"
    assert rest.startswith("subjects/lab__moe-7b/ab12ab12ab12/sham.json: results[0].run_id: ")
    assert out.splitlines()[-1].startswith(f"{board}: ")
    code, out, _ = called("check", "--root", board, "--json")
    assert code == 1
    assert {"rule", "file", "where", "words"} == set(json.loads(out)[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "--root", "{tmp}/none"), "submit a run first: leaderboard add"),
        (("build", "--root", "{tmp}/none"), "submit a run first: leaderboard add"),
        (("add", "{run}", "--why", "x"), "--why is now --reason"),
        (("add", "{tmp}", "--root", "{tmp}/none"), "no comparisons.json; finish the run first"),
        (
            ("add", "{run}", "--by", "x" * 201),
            "--by, --hardware and --reason take 1 to 200 characters",
        ),
        (
            ("add", "{run}", "--reason", ""),
            "--by, --hardware and --reason take 1 to 200 characters",
        ),
        (("add",), "Missing argument"),
        (("check", "--root", "{board}", "--since", "HEAD"), "git cannot show 'HEAD'"),
        (("diff", "{run}", "{tmp}"), "no comparisons.json; finish the run first"),
        (("diff", "{board}/subjects/lab__moe-7b/ab12ab12ab12:0x", "{run}"), "no such run"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_code_3(
    called,
    board,
    run,
    tmp_path,
    monkeypatch,
    arguments,
    words,
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    places = {"tmp": tmp_path / "elsewhere", "run": run, "board": board}
    code, out, err = called(*(one.format(**places) for one in arguments))
    assert (code, out) == (3, "")
    assert words in err
    assert err.startswith("dsmoe-eval: ")
    assert err.count("\n") == 1
    assert not list((tmp_path / "elsewhere").iterdir())


def test_other_figures_want_a_reason(called, run, board, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    data = json.loads((copy / "comparisons.json").read_text())
    data["arms"][0]["settings"]["activation_share"] = 0.99
    (copy / "comparisons.json").write_text(json.dumps(data))
    record(copy)
    code, _, err = called("add", copy, "--root", board)
    assert code == 3
    assert "sham.json: has a result of the same identity with other figures" in err
    assert "--reason TEXT" in err
    code, out, _ = called("add", copy, "--root", board, "--reason", "another library")
    assert (code, out.count("submitted ")) == (0, 1)


def test_what_moved_for_people_and_for_programs(called, board, folder, run):
    code, out, _ = called("diff", run, folder)
    assert code == 0
    assert out.splitlines()[0] == f"A  {run}"
    assert out.splitlines()[-1].endswith(
        "figures moved beyond noise (Holm over all, 0.05); 20 did not"
    )
    code, out, _ = called("diff", run, folder, "--json")
    found = json.loads(out)
    assert code == 0
    assert len(found["changes"]) == 20
    assert {"variant", "target", "metric", "change", "moved"} <= set(found["changes"][0])


def test_a_move_is_a_line(called, make_run):
    less = make_run(**SMALL, target={"contrast": (0.02, 0.02)})
    code, out, _ = called("diff", make_run(**SMALL), less)
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("moved") and "contrast" in line)
    assert "contrast on math, target gain: +18.3 to +0.0 pp, by -18.3 [" in line
    assert "(item by item: mid-p McNemar" in line


RULES = [
    {"name": "probes", "tier": "critical", "metric": "probes_passed"},
    {"name": "no drop", "tier": "critical", "metric": "target_gain", "against": "baseline",
     "at_least": -0.2},
]  # fmt: skip


def test_a_gates_baseline_may_stand_in_a_leaderboard(called, run, folder, tmp_path):
    card = {"name": "own", "description": "d", "rules": RULES, "variants": ["contrast"]}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(card))
    arguments = (run, "--policy", tmp_path / "policy.yaml", "--out", tmp_path / "gate")
    code, out, err = called(*arguments, "--baseline", folder, group="gate")
    assert (code, err) == (0, "")
    assert out.count("no drop: contrast on") == 2
    code, _, err = called(*arguments, "--baseline", folder.parent, group="gate")
    assert code == 3
    assert "no comparisons.json" in err


def test_verify_prints_what_was_recomputed_and_what_differs(called, make_run, tmp_path):
    one, root = make_run(**SMALL), tmp_path / "leaderboards"
    called("add", one, "--root", root, "--by", "me")
    path = next(root.glob("*/*/*/contrast.json"))
    code, out, err = called("verify", path, "--runs", one)
    assert (code, err) == (0, "")
    assert "figures of 1 arms from 720 answered items" in out  # three tasks, base and arm
    assert out.splitlines()[-1] == "1 of 1 results checked: nothing differs"
    content = json.loads(path.read_text())
    content["results"][0]["base"][0]["score"] = 0.25
    path.write_text(json.dumps(content))
    code, out, _ = called("verify", path, "--runs", one)
    assert code == 1
    assert "  results[0].base[math_task].score: stored 0.25, recomputed 0.5" in out
    assert out.splitlines()[-1] == "1 of 1 results checked: 1 of them differ"
    code, out, _ = called("verify", path, "--runs", one, "--json")
    (found,) = json.loads(out)
    assert (code, found["items"], found["differences"][0]["recomputed"]) == (1, 720, 0.5)
    code, out, err = called("verify", path, "--runs", make_run(**SMALL, seed=1))
    assert (code, out) == (3, "")
    assert "no folder that was given holds its run" in err
