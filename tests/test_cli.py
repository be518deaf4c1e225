"""The command line, as a user starts it: what it prints and with which code it exits."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from dsmoe_eval.cli import main
from dsmoe_eval.cli.listing import _size_of
from dsmoe_eval.registry import builtin_folder, find_card
from dsmoe_eval.tasks.new_suite import DomainSize


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command left: exit code and both streams."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys):
    """Run a command in this process, since every new one would import torch again."""

    def call(*arguments):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        streams = capsys.readouterr()
        return Done(code, streams.out, streams.err)

    return call


def refused(done, *words):
    """One sentence on stderr, no traceback, exit code 3 or more."""
    assert done.returncode >= 3, done
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("dsmoe-eval: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in message
    return message


def test_a_process_exits_with_the_code_and_the_sentence():
    command = [sys.executable, "-m", "dsmoe_eval", "list", "unicorns"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    refused(done, "unicorns", "models")
    assert done.returncode == 3


def test_without_arguments_the_help_is_shown_line_by_line(run):
    for arguments in ((), ("leaderboard",)):
        done = run(*arguments)
        assert done.returncode == 0
        assert done.stdout == run(*arguments, "--help").stdout
        assert len(done.stdout.splitlines()) > 8


def test_help_imports_nothing_heavy():
    """Half a second on a quiet machine; what makes it slow is one import, so that is tested."""
    code = (
        "import sys\nfrom dsmoe_eval.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'pandas', 'scipy', 'lm_eval', 'pydantic', 'rich'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert "Run PLAN" in done.stdout
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize("what", ["models", "suites", "variants", "methods", "plans", "policies"])
def test_lists_for_people_and_programs(run, what):
    rows = json.loads(run("list", what, "--json").stdout)
    assert rows
    assert all(row["name"] and row["summary"] for row in rows)
    assert rows[0]["name"] in run("list", what).stdout


def test_a_model_is_listed_with_its_size_and_its_experts(run):
    line = next(x for x in run("list", "models").stdout.splitlines() if x.startswith("gpt-oss-20b"))
    for words in ("openai/gpt-oss-20b", "20.91B", "4.19B", "top-4 of 32", "24 of 24", "12.8 GiB"):
        assert words in line


def test_unknown_names_and_options(run):
    refused(run("run", "no-such-plan"), "no plan 'no-such-plan'", "lab")
    refused(run("run", "nowhere/plan.yaml"), "no such file")
    refused(run("run", "lab", "--limit", "0"), "--limit")
    refused(run("fly"), "No such command")
    refused(run("report", "nowhere"), "no comparisons.json")


@pytest.fixture
def plan_file(tmp_path):
    """Write the lab plan with changes; gives its path."""

    def write(**changes):
        plan = yaml.safe_load(find_card("plans", "lab").read_text())
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(plan | changes))
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variants": ["base", "dsmo"]}, ["no variant 'dsmo'", "there are"]),
        ({"variants": ["dsmoe"]}, ["variants must hold 'base'"]),
        ({"variants": ["base"]}, ["variants holds 'base' alone", "add a variant"]),
        ({"variants": ["base", "random"]}, ["'random' needs 'contrast'"]),
        ({"variants": ["base", "dsmoe", "dsmoe"]}, ["listed twice"]),
        ({"targets": ["math", "math"]}, ["listed twice"]),
        ({"targets": ["alchemy"]}, ["alchemy is no target", "chemistry"]),
        ({"suite": "nothing"}, ["no suite 'nothing'"]),
        ({"tuning": None}, ["needs tuning.strengths.reweight"]),
        ({"sft": None}, ["'sft-lora' needs the section sft"]),
        ({"margin": 7}, ["plan.yaml", "margin"]),
        ({"overlap": "paper"}, ["plan.yaml: the key `overlap` is now `allow_leakage: true`"]),
        ({"allow_leakage": "paper"}, ["plan.yaml", "allow_leakage", "boolean"]),
        ({"model": "not-a-model"}, ["no such folder, and not a hub id"]),
    ],
)
def test_a_plan_that_cannot_be_met_leaves_nothing(run, plan_file, tmp_path, changes, words):
    out = tmp_path / "out"
    refused(run("run", plan_file(**changes), "--out", out), *words)
    assert not out.exists()


def test_leakage_is_refused_before_a_model_is_loaded(run, one_split_plan, tmp_path, monkeypatch):
    monkeypatch.setattr("dsmoe_eval.runs.roles.load_engine", None)
    out = tmp_path / "out"
    message = refused(
        run("run", one_split_plan(), "--out", out, "--limit", "4"),
        "leakage: 8 of 12 tuning items repeat items of the identification split",
        "12 of 12 test items repeat items of the tuning split",
        "`allow_leakage: true`",
    )
    assert message.count("(same content: ") == 5
    assert not out.exists()


def test_leakage_is_listed_whether_a_plan_allows_it_or_not(run, one_split_plan, monkeypatch):
    from dsmoe_eval.runs import leakage

    honest = leakage.load_splits
    monkeypatch.setattr(
        leakage, "load_splits", lambda suite, _all, *more, **named: honest(suite, 4, *more, **named)
    )
    done = run("leakage", one_split_plan(allow_leakage=True))
    *items, last = done.stdout.splitlines()
    assert done.returncode == 1
    assert last.startswith("overlap: 8 of 12 tuning items ")
    assert len(items) == 8 + 8 + 12
    assert all("(same " in item for item in items)
    found = json.loads(run("leakage", one_split_plan(), "--json").stdout)
    assert (found["pairs"], found["allowed_by"]) == (28, None)
    done = run("leakage", "lab")
    assert (done.returncode, done.stdout) == (0, "overlap: none\n")


def test_fine_tuning_without_peft_is_refused_before_anything_runs(run, tmp_path, monkeypatch):
    import importlib.util

    honest = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else honest(name)
    )
    refused(run("run", "lab", "--out", tmp_path / "out"), "'sft-lora' needs peft", "[sft]")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model(run, plan_file, tmp_path):
    (tmp_path / "empty").mkdir()
    plan = plan_file(model=str(tmp_path / "empty"))
    refused(run("run", plan, "--out", tmp_path / "out"), "without config.json is no model")


def test_a_folder_that_is_not_ours_is_not_touched(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    refused(run("run", "lab", "--out", tmp_path), "not empty and holds no run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_identify_writes_a_profile_that_steers(run, tmp_path):
    from dsmoe_eval.models import load_model
    from dsmoe_eval.steering import Profile, probe

    path = tmp_path / "profile.json"
    done = run(
        "identify", "lab-poly", "--suite", "lab", "--domain", "law", "--method", "risk-difference",
        "--experts", "6", "--intervention", "bias", "--strength", "5", "-o", path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    profile = Profile.load(path)
    assert len(profile.experts) == 6
    assert profile.source.domain == "law"
    loaded = load_model("lab-poly", "cpu")
    texts = loaded.tokenizer(["What is the sign of the cell?"], return_tensors="pt")
    report = probe(loaded.model, profile, texts["input_ids"], texts["attention_mask"])
    assert report.logit_max_change > 0


def test_identify_refuses_in_one_sentence(run, tmp_path):
    common = ["identify", "lab-poly", "--suite", "lab", "-o", tmp_path / "p.json"]
    refused(run(*common, "--domain", "alchemy"), "no identification text of 'alchemy'")
    refused(run(*common, "--domain", "law", "--method", "magic"), "no method 'magic'")
    refused(run(*common, "--domain", "law", "--intervention", "wish"), "no intervention 'wish'")
    mask = run(*common, "--domain", "law", "--intervention", "mask", "--strength", "4")
    refused(mask, "the strength of mask is 1")
    refused(run(*common, "--domain", "law", "--experts", "5000"), "score above zero")
    refused(run(*common, "--domain", "law", "--keep", "24"), "of 24 experts per layer, 24 cannot")
    both = run(*common, "--domain", "law", "--keep", "6", "--experts", "3")
    refused(both, "--keep masks all other experts: leave --experts out")
    strong = run(*common, "--domain", "law", "--keep", "6", "--strength", "4", "--unit", "odds")
    refused(strong, "leave --strength and --unit out")
    assert not (tmp_path / "p.json").exists()


def text_file(path):
    """Three documents of two chunks per domain, of words that the embedded model knows."""
    rows = [
        {"domain": domain, "text": f"In {domain}, what is the sign of the {word}? " * 15}
        for domain in ("math", "law") for word in ("base", "cell", "field")
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_experts_are_identified_from_text_of_the_user(run, tmp_path):
    from dsmoe_eval.steering import Profile
    from dsmoe_eval.tasks.texts import read_text_file

    text, path = text_file(tmp_path / "mine.jsonl"), tmp_path / "profile.json"
    common = ("identify", "lab-poly", "--text", text, "--device", "cpu", "-o", path)
    done = run(*common, "--domain", "law", "--observations", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    source = Profile.load(path).source
    assert (source.suite, source.split, source.file) == (None, None, "mine.jsonl")
    assert source.chunks == 4
    assert source.items == tuple(one.id for one in read_text_file(text) if one.domain == "law")
    refused(run(*common, "--domain", "art"), "mine.jsonl has no identification text of 'art'")
    refused(run(*common, "--suite", "lab", "--domain", "law"), "one of the three")


def test_new_suite_refuses_in_one_sentence(run, tmp_path):
    out = ("--out", tmp_path / "mine")
    refused(run("new-suite", *out), "by --text or --text-dir, one of the two")
    few = run("new-suite", "--text", text_file(tmp_path / "t.jsonl"), *out)
    refused(few, "needs 8 documents of 370 characters or more; there are: math 3, law 3")


def test_new_suite_says_what_its_items_can_show():
    def said(test, repeated):
        items = {"tuning": 16, "test": test}
        return _size_of(DomainSize("law", {"tuning": 4, "test": 8}, items, repeated), 4)

    assert said(31, 0) == (
        "law: documents: 4 for tuning, 8 for test; items: 16 for tuning, 31 for test (29 points)"
    )
    assert said(5, 1).endswith(
        "5 for test (no change can be shown); left out, since others repeat it: 1 passage"
    )
    assert said(5, 2).endswith("left out, since others repeat them: 2 passages")


@pytest.mark.full
def test_from_text_files_to_a_report(run, tmp_path):
    """The way of docs/your-own.md, on the embedded model and words that it knows."""
    import random

    from dsmoe_eval.models import load_model

    tokenizer = load_model("lab-poly", "cpu").tokenizer
    known = {tokenizer.decode([token]).strip() for token in range(len(tokenizer))}
    words = sorted(word for word in known if word.isalpha())
    generator = random.Random(0)
    for domain in ("math", "law", "biology"):
        for number in range(9):
            path = tmp_path / "texts" / domain / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(" ".join(generator.choices(words, k=200)))
    suite = tmp_path / "in a folder" / "my-suite"
    made = run("new-suite", "--text-dir", tmp_path / "texts", "--out", suite)
    assert made.returncode == 0, made.stderr
    assert "law: documents: 2 for tuning, 4 for test, 3 for identification" in made.stdout
    assert f"now: dsmoe-eval run '{suite / 'plan.yaml'}' --model path/to/model" in made.stdout
    out = tmp_path / "run"
    common = ("run", suite / "plan.yaml", "--model", "lab-poly", "--limit", "3", "--device", "cpu")
    done = run(*common, "--out", out)
    assert done.returncode == 0, done.stderr
    assert (out / "report" / "index.html").is_file()


def test_existence_counts_documents_of_text(run, tmp_path):
    text = text_file(tmp_path / "mine.jsonl")
    common = ("existence", "lab-poly", "--text", text, "--device", "cpu", "--permutations", "99")
    done = run(*common, "--out", tmp_path / "e", "--json", "--chunks", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["documents"] for row in result["domains"]] == [3, 3]
    assert result["chunks"] == 1
    page = (tmp_path / "e" / "existence.md").read_text()
    assert "on mine.jsonl" in page
    assert "in chunks, at most 1 of each" in page
    assert "all chunks of a text are one document" in page


def test_existence_writes_a_page_and_says_what_it_says(run, tmp_path):
    """With 99 shuffles nothing can be declared, and the page says so."""
    common = ["existence", "lab-poly", "--suite", "lab", "--device", "cpu", "--limit", "4"]
    done = run(*common, "--permutations", "99", "--out", tmp_path / "e")
    assert done.returncode == 0, done.stderr
    assert "No expert is specific" in done.stdout
    assert "fewer than 135 could not be declared" in done.stdout
    assert str(tmp_path / "e" / "existence.md") in done.stdout
    again = run(*common, "--permutations", "99", "--out", tmp_path / "f", "--json")
    assert json.loads(again.stdout) == json.loads((tmp_path / "e/existence.json").read_text())


def test_existence_refuses_in_one_sentence(run, tmp_path):
    out = ["--out", tmp_path / "e"]
    refused(run("existence", "lab-poly", "--suite", "nothing", *out), "no suite 'nothing'")
    refused(run("existence", "no-model", "--suite", "lab", *out), "no such folder")
    refused(run("existence", "lab-poly", "--suite", "lab", "--limit", "1", *out), "--limit")
    assert not (tmp_path / "e").exists()


def test_probe_passes_on_the_lab_model_and_refuses_a_foreign_profile(run, tmp_path, make_profile):
    from .conftest import make_model

    done = run("probe", "lab-poly", "--device", "cpu", "--json")
    assert done.returncode == 0
    rows = json.loads(done.stdout)["interventions"]
    assert [row["figures"]["null_max_difference"] for row in rows] == [0.0] * 5
    assert "routers found: 4" in run("probe", "lab-poly", "--device", "cpu").stdout
    path = tmp_path / "foreign.json"
    path.write_text(make_profile(make_model("olmoe"), [(0, 3)]).to_json())
    refused(run("probe", "lab-poly", "--profile", path), "is for 'tiny'", "Identify the experts")
    path.write_text("{}")
    refused(run("probe", "lab-poly", "--profile", path), "foreign.json", "not a profile")
    refused(run("probe", "lab-poly", "--profile", tmp_path / "none.json"), "cannot be read")


def test_a_failed_probe_exits_with_one(run, monkeypatch):
    import dsmoe_eval.steering  # noqa: F401 - so that the module below is there
    from dsmoe_eval.steering.interventions import LayerEffect

    steer = sys.modules["dsmoe_eval.steering.steer"]
    monkeypatch.setattr(steer, "layer_effect", lambda *_: LayerEffect())
    done = run("probe", "lab-poly", "--device", "cpu")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "effect probe failed" in done.stdout


def test_new_card_writes_a_card_probes_it_and_overwrites_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("new-card", "lab-poly")
    assert done.returncode == 0, done.stderr
    assert "models/lab-poly.yaml: lab-poly: 0.00B parameters" in done.stdout
    assert "not known, see its comments: hub_id, licence, parameters.published" in done.stdout
    assert "scoring: softmax, renormalised" in done.stdout
    assert run("probe", "models/lab-poly.yaml", "--device", "cpu").returncode == 0
    refused(run("new-card", "lab-poly"), "models/lab-poly.yaml: exists already", "--out")
    done = run("new-card", "lab-poly", "--out", "other.yaml", "--json")
    report = json.loads(done.stdout)
    assert (report["file"], report["card"]["experts"]) == ("other.yaml", 24)
    assert report["unknown"]["hub_id"] == "the model was read from a folder"
    assert report["probe"]["passed"]
    assert Path("other.yaml").read_text() == Path("models/lab-poly.yaml").read_text()
    refused(run("new-card", "no-model"), "no such folder")


def test_remote_code_is_run_only_where_its_architecture_is_allowed(run, tmp_path, monkeypatch):
    from .models.remote import remote_folder

    monkeypatch.chdir(tmp_path)
    folder = remote_folder(tmp_path / "few")
    (folder / "fewest.py").write_text("raise SystemExit('remote code was run')")
    for command in ("probe", "new-card"):
        refused(run(command, folder), "remote code is not run", "--remote-code fewest_moe")
        refused(run(command, folder, "--remote-code", "other"), "is 'fewest_moe', not 'other'")
    assert not (tmp_path / "models").exists()


def test_probe_of_what_has_no_weights(run, tmp_path):
    done = run("probe", "phi-tiny-moe-instruct", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert (report["experts"], report["top_k"]) == (16, 2)
    rows = {row["name"]: row for row in report["interventions"]}
    assert "log_softmax" in rows["force"]["refused"]
    assert rows["bias"]["figures"]["selection_changed"] > 0
    config = {"model_type": "mixtral", "num_local_experts": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in (tmp_path, tmp_path / "config.json"):
        assert "top-2 of 4 experts" in run("probe", name).stdout
    (tmp_path / "config.json").write_text('{"model_type": "deepseek"}')
    refused(run("probe", tmp_path), "no code for architecture 'deepseek'", "vLLM may carry it")
    refused(run("probe", "deepseek-moe-16b-base"), "no code for architecture 'deepseek'")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    refused(run("probe", tmp_path), "no router")


def test_each_embedded_model_has_its_own_training(run, tmp_path):
    refused(run("lab", "train", "lab-smol", "--out", tmp_path), "needs --text")
    refused(run("lab", "train", "lab-poly", "--steps", "3"), "are for lab-smol")
    refused(run("lab", "train", "lab-smol", "--seed", "3"), "are for lab-poly")
    path = tmp_path / "none.jsonl"
    refused(run("lab", "train", "lab-smol", "--text", path), "none.jsonl", "cannot be read")


def test_similarity_says_how_alike_experts_are(run, tmp_path):
    items = (builtin_folder() / "tasks/lab/data/law_named.jsonl").read_text().splitlines()
    path = tmp_path / "texts.jsonl"
    rows = [{"domain": "law", "text": json.loads(item)["question"]} for item in items]
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in {r["text"]: r for r in rows}.values())
    )
    common = ("similarity", "lab-poly", "--text", path, "--tokens", "100", "--device", "cpu")
    done = run(*common)
    assert done.returncode == 0, done.stderr
    assert "# How alike the experts of lab-poly are" in done.stdout
    shown = run(*common, "--out", tmp_path / "s", "--json")
    assert json.loads(shown.stdout) == json.loads((tmp_path / "s/similarity.json").read_text())


def test_similarity_refuses_in_one_sentence(run, tmp_path):
    (tmp_path / "t.txt").write_text("In math, what is the sign of the base?")
    common = ("similarity", "lab-poly", "--device", "cpu")
    refused(run(*common), "by --suite, --text or --text-dir")
    refused(run(*common, "--suite", "lab", "--tokens", "9"), "--tokens")
    refused(run(*common, "--suite", "lab", "--tokens", "9999"), "have 2460 distinct tokens")
    refused(run(*common, "--text", tmp_path / "t.txt"), "line 1: not JSON", "by --text-dir")
    refused(run(*common, "--text-dir", tmp_path), tmp_path.name, "the texts have")
    refused(run(*common, "--suite", "lab", "--profile", tmp_path / "p"), "cannot be read")


def test_lab_data_writes_the_items(run, tmp_path):
    assert run("lab", "data", tmp_path / "data").returncode == 0
    assert len(list((tmp_path / "data").iterdir())) == 13


@pytest.mark.slow
def test_lab_train_writes_a_model_and_says_how_close_it_came(run, tmp_path, monkeypatch):
    """With the recipe cut to a few steps; the whole training takes minutes and is run by hand.

    So is the accuracy over all facts, of which a few are asked for here.
    """
    from dsmoe_eval.lab import train
    from dsmoe_eval.models import load_model

    short = dataclasses.replace(train.RECIPES["lab-poly"], steps=5, batch=8, threads=1)
    monkeypatch.setitem(train.RECIPES, "lab-poly", short)
    accuracy = train.accuracy
    monkeypatch.setattr(
        train, "accuracy", lambda *asked, named: accuracy(*asked[:2], asked[2][:9], named=named)
    )
    done = run("lab", "train", "lab-poly", "--out", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert "law        named" in done.stdout
    assert "(not bit-identical)" in done.stdout
    assert load_model(str(tmp_path / "model"), "cpu").identity.experts == 24


def test_options_of_loading_take_what_a_plan_takes():
    from dsmoe_eval.cards.plans import Attention, Precision

    module = sys.modules["dsmoe_eval.cli.main"]
    assert get_args(Precision) == module.PRECISIONS
    assert get_args(Attention) == module.ATTENTIONS
