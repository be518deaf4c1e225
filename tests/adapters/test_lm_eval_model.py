"""The model `dsmoe` in lm-eval: its scores against `hf`, its cache, its command line."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from dsmoe_eval.adapters.lm_eval_model import SteeredLM, main
from dsmoe_eval.engines.requests import Answer
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import load_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.registry import load_suite
from dsmoe_eval.steering import Intervention, SteeringError

TASKS = str(load_suite("lab").tasks_dir)
PROMPTS = ("What is 7 + 6?", "In biology, what is the maker of the cell?")


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


@pytest.fixture(scope="module")
def profile(loaded):
    return trial_profile(loaded.identity, Intervention(kind="bias", strength=6.0), range(4))


@pytest.fixture(scope="module")
def path(profile, tmp_path_factory):
    file = tmp_path_factory.mktemp("profile") / "p.json"
    file.write_text(profile.to_json())
    return file


@pytest.fixture(autouse=True)
def _no_survey_of_the_machine(monkeypatch):
    """lm-eval runs a dozen programs for its results' environment, each time."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)


def requests(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=a, idx=0) for a in arguments]


def evaluate(lm, *tasks, **options):
    return lm_eval.simple_evaluate(
        lm, tasks=list(tasks or ("lab_arithmetic", "lab_law_named")), limit=10, bootstrap_iters=0,
        task_manager=TaskManager(include_path=TASKS, include_defaults=False), **options,
    )  # fmt: skip


def scores(results):
    return [
        (task, sample["doc_id"], sample.get("acc", sample.get("exact_match")))
        for task, samples in results["samples"].items()
        for sample in samples
    ]


def test_one_model_serves_base_and_steered_as_hf_does(loaded, profile):
    base, steered = SteeredLM(loaded), SteeredLM(loaded, profile)
    theirs = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=5)
    one, two, again = evaluate(base), evaluate(steered), evaluate(base)
    assert scores(one) == scores(again) == scores(evaluate(theirs))
    assert scores(two) != scores(one)
    assert two["config"]["profile"] == profile.id
    assert two["config"]["model_name"] == f"lab-poly@{profile.id}"
    assert one["config"]["profile"] is None


def test_rolling_likelihoods_are_hfs_over_windows_too(loaded):
    texts = [(PROMPTS[0],), (" ".join(PROMPTS * 12),)]
    assert len(loaded.tokenizer.encode(texts[1][0])) > 128
    ours = SteeredLM(loaded).loglikelihood_rolling(requests("loglikelihood_rolling", *texts))
    hf = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=2)
    theirs = hf.loglikelihood_rolling(requests("loglikelihood_rolling", *texts), disable_tqdm=True)
    assert ours == pytest.approx(theirs, abs=1e-2)


def test_a_task_without_a_limit_gets_that_of_lm_evals_hf(loaded, monkeypatch):
    lm, limits = SteeredLM(loaded), []

    def noting(asked):
        limits.extend(request.limit for request in asked)
        yield [(place, Answer((), "stop")) for place in range(len(asked))]

    monkeypatch.setattr(lm, "_answer", noting)
    asked = requests("generate_until", ("a", {"until": ["b"]}), ("a", {"max_gen_toks": 3}))
    lm.generate_until(asked)
    assert limits == [256, 3]
    assert "max_gen_toks" not in asked[0].args[1]  # it is part of lm-eval's cache key


def test_lm_evals_own_models_are_still_there(loaded):
    assert get_model("dsmoe") is SteeredLM
    assert get_model("dummy").__name__ == "DummyLM"
    assert get_model("hf") is HFLM


def test_a_response_cache_is_of_one_model_and_profile(loaded, profile, tmp_path):
    folder = str(tmp_path / "cache")
    one = evaluate(SteeredLM(loaded, profile), use_cache=folder)
    lm = SteeredLM(loaded, profile)
    lm._score = lm._answer = None  # whoever asks the model fails
    assert scores(evaluate(lm, use_cache=folder)) == scores(one)
    with pytest.raises(UserError, match=r"response cache is of .*give each its own"):
        evaluate(SteeredLM(loaded), use_cache=folder)
    other = str(tmp_path / "other.db")
    CachingLM(SimpleLM(), other).dbdict["a key"] = "an answer"
    with pytest.raises(UserError, match="unknown model"):
        CachingLM(SteeredLM(loaded), other)


class SimpleLM:
    def set_cache_hook(self, _hook):
        """Takes any."""


def test_what_does_not_fit_is_refused(loaded, profile, path):
    other = profile.model.model_copy(update={"routers": "0" * 64})
    with pytest.raises(SteeringError, match="other weights"):
        SteeredLM(loaded, profile.model_copy(update={"model": other}))
    with pytest.raises(UserError, match="batch_tokens=N"):
        SteeredLM(loaded, batch_size=8)
    with pytest.raises(UserError, match="in memory already"):
        SteeredLM(loaded, device="cpu")
    with pytest.raises(UserError, match="no chat template"):
        SteeredLM(loaded).apply_chat_template([{"role": "user", "content": "a"}])
    assert SteeredLM("lab-poly", path, "cpu", batch_size=1).steered.profile == profile


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": "lab-poly", "dtype": "bfloat16"}, "dsmoe: dtype; there are pretrained, "),
        ({"profile": "p.json"}, "no pretrained=NAME"),
    ],
)
def test_unknown_model_arguments_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        SteeredLM.create_from_arg_obj(arguments, {"batch_size": 1, "device": "cuda:0"})


def test_lm_evals_default_device_gives_way_to_what_is_there(profile, path):
    arguments = {"pretrained": "lab-poly", "profile": str(path)}
    lm = SteeredLM.create_from_arg_obj(arguments, {"batch_size": 1, "device": "cuda:0"})
    assert lm.loaded.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert arguments["delta"] == f"lab-poly@{profile.id}"  # by which lm-eval names its results


def test_conversations_stand_in_the_template(loaded, monkeypatch):
    lm = SteeredLM(loaded)
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}" + (
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    assert lm.chat_template(True) == template
    talk = [{"role": "user", "content": PROMPTS[0]}]
    assert lm.apply_chat_template(talk) == f"<user>{PROMPTS[0]}<assistant>"
    results = evaluate(lm, "lab_arithmetic", apply_chat_template=True)
    (prompt, _) = results["samples"]["lab_arithmetic"][0]["arguments"][0]
    assert prompt.startswith("<user>")
    assert prompt.endswith("<assistant>")


def test_a_templated_text_gets_no_second_beginning(loaded):
    seen = []

    def encode(text, add_special_tokens):
        seen.append((text, add_special_tokens))
        return [1]

    tokenizer = SimpleNamespace(bos_token="<s>", encode=encode)  # noqa: S106
    lm = SteeredLM(dataclasses.replace(loaded, tokenizer=tokenizer))
    seen.clear()
    lm.tok_encode("<s>a")
    lm.tok_encode("a")
    lm.tok_encode("<s>b", add_special_tokens=True)
    assert seen == [("<s>a", False), ("a", True), ("<s>b", True)]


# The installed command, without the index of lm-eval's own tasks, which takes 15 s.
COMMAND = """
import sys
from importlib.metadata import entry_points
from lm_eval.tasks import TaskManager
make = TaskManager.__init__
TaskManager.__init__ = lambda self, **given: make(self, include_defaults=False, **given)
(command,) = entry_points(group="console_scripts", name="dsmoe-lm-eval")
sys.argv[0] = "dsmoe-lm-eval"
sys.exit(command.load()())
"""


@pytest.mark.slow
def test_the_command_evaluates_a_steered_model(profile, path, tmp_path):
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", COMMAND, "--model", "dsmoe",
         "--model_args", f"pretrained=lab-poly,profile={path},batch_tokens=512",
         "--tasks", "lab_arithmetic", "--include_path", TASKS, "--limit", "4",
         "--output_path", str(tmp_path / "out"), "--log_samples"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").glob("*/results_*.json")
    results = json.loads(file.read_text())
    assert results["model_name"] == f"lab-poly@{profile.id}"
    assert results["config"]["profile"] == profile.id
    assert "exact_match,strip" in results["results"]["lab_arithmetic"]


def test_the_command_says_in_a_sentence_what_is_wrong(monkeypatch, capsys):
    def refuse():
        raise SteeringError("the profile is of another model")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", refuse)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 3
    assert capsys.readouterr().err == "dsmoe-lm-eval: the profile is of another model\n"
